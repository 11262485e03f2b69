#!/bin/sh
# The system inside the machine with a real KVM: inserts kvm and kvm-amd, runs the steps, powers off.
# The kernel hands RINGSHIFT_NPT over from its command line.
/bin/busybox --install -s /bin
PATH=/bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mount -t tmpfs tmpfs /tmp
dmesg -n 1

while read -r module; do
    case $module in
        kvm-amd.ko) insmod "/modules/$module" "npt=$RINGSHIFT_NPT" ;;
        *) insmod "/modules/$module" ;;
    esac || echo "@@ insmod $module failed"
done </modules/list

case $(cat /sys/module/kvm_amd/parameters/npt 2>/dev/null) in
    Y) npt=1 ;;
    N) npt=0 ;;
    *) npt=none ;;
esac
if [ -c /dev/kvm ] && [ "$npt" = "$RINGSHIFT_NPT" ]; then
    echo "@@ kvm ready, npt=$npt"
else
    echo "@@ no kvm, npt=$npt"
    dmesg | tail -n 20
fi

# step NAME COMMAND: runs it and prints what it left between markers.
step() {
    sh -c "$2" </dev/null >/tmp/stdout 2>/tmp/stderr
    status=$?
    echo "@@ begin $1"
    cat /tmp/stdout
    echo
    echo "@@ stderr"
    cat /tmp/stderr
    echo
    echo "@@ end $1 $status"
}
cd /tmp
. /steps.sh
poweroff -f
