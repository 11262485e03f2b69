#!/bin/sh
# init of the Debian guest that runs the programs: each topic between two lines that name it; then
# the checks of the scripted guest, if the kernel's command line has CHECKS=1.
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mount -t tmpfs tmpfs /tmp
dmesg -n 1
cd /tmp
for topic in $(/programs topics); do
    echo "== $topic"
    /programs $topic 2>&1
    echo "== $topic ended with status $?"
done
# Put together here, so that nothing that shows this file can be taken for it.
verdict=OK
if [ "$CHECKS" = 1 ]; then
    sh /checks.sh || verdict=FAILED
fi
echo "RINGSHIFT-GUEST-$verdict"
poweroff -f
