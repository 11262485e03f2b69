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

# On the second serial line, every 10 s: the time, and what the threads of the programs are about: name, state, processor
# time in user and kernel mode, place in the kernel, system call; and the kernel's last messages, which the console does
# not show. A machine that writes no more has stopped itself.
pulse() {
    while :; do
        echo "@@ pulse $(cat /proc/uptime)"
        for task in /proc/[0-9]*/task/[0-9]*; do
            case $(readlink "${task%/task/*}/exe") in
                /payload/*) echo "$(cat "$task/comm"): $(cut -d' ' -f3,14,15 "$task/stat") $(cat "$task/wchan") $(cat "$task/syscall")" ;;
            esac
        done
        dmesg | tail -n 3
        sleep 10
    done
}
[ -c /dev/ttyS1 ] && pulse >/dev/ttyS1 2>&1 &

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
