#!/bin/sh
# init of the interactive Debian guest: a shell on the serial port, with job control.
/bin/busybox --install -s /bin
export PATH=/bin HOME=/root TERM=vt100
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mount -t tmpfs tmpfs /tmp
dmesg -n 1
cd /root
echo "RINGSHIFT-GUEST-SHELL"
exec setsid cttyhack sh
