# The checks of the scripted Debian guest. Each prints one line; the exit status tells whether all
# have passed.
failed=0

# check NAME EXPECTED COMMAND: the command's standard output has to be EXPECTED.
check() {
    got=$( (eval "$3") 2>/tmp/err)
    if [ "$got" = "$2" ]; then
        echo "ok $1"
    else
        echo "FAILED $1: expected '$2', got '$got' $(tail -n 3 /tmp/err)"
        failed=$((failed + 1))
    fi
}

# holds NAME COMMAND: the command has to succeed.
holds() {
    if eval "$2" >/tmp/out 2>&1; then
        echo "ok $1"
    else
        echo "FAILED $1: $(tail -n 3 /tmp/out)"
        failed=$((failed + 1))
    fi
}

# Commands and the file system.
check machine i686 'uname -m'
check arithmetic 121932631112635269 'echo $((123456789 * 987654321))'
check division '-14285714 -5' 'echo $((-100000003 / 7)) $((-100000003 % 7))'
check files 'a b c' 'mkdir d && touch d/c d/a d/b && echo $(ls d) && rm -r d'
check sed 'gnipool yrrac' 'echo "carry looping" | rev'
holds gzip 'seq 1 5000 >in && gzip -c in | gunzip -c | cmp - in'
holds tar 'mkdir t && cp /bin/busybox t && tar cf t.tar t && mkdir u && tar xf t.tar -C u && cmp t/busybox u/t/busybox'
check sha256 8a39d2abd3999ab73c34db2476849cddf303ce389b35826850f9a700589b4a90 \
    'dd if=/dev/zero bs=4k count=64 2>/dev/null | sha256sum | cut -d" " -f1'

# fork, exec and wait.
check status 7 '(exit 7); echo $?'
check subshells 100 'i=0; n=0; while [ $i -lt 100 ]; do n=$((n + $(echo 1))); i=$((i + 1)); done; echo $n'
check background '1 2 3 4 5' \
    'for i in 1 2 3 4 5; do (echo $i >bg.$i) & done; wait; echo $(cat bg.?)'
check copy-on-write 'child parent' 'x=parent; (x=child; echo -n "$x "); echo $x'

# Pipes.
check pipe '200010000' 'seq 1 20000 | cat | tr -d "\r" | awk "{ s += \$1 } END { print s }"'
check sort '2000 1999 1998' 'echo $(seq 1 2000 | sort -rn | head -n 3)'
check sigpipe y 'yes | head -n 1'
holds fifo 'mkfifo f && (seq 1 3000 >f &) && [ "$(wc -l <f)" = 3000 ]'

# Signals.
check trap caught 'sh -c "trap \"echo caught; exit\" USR1; kill -USR1 \$\$; sleep 5"'
check terminate 143 'sleep 100 & kill -TERM $!; wait $!; echo $?'
check kill 137 'sleep 100 & kill -KILL $!; wait $!; echo $?'
check alarm 143 'timeout 1 sleep 100; echo $?'
check stop 'T S' 'sleep 100 & p=$!; kill -STOP $p; usleep 100000; a=$(awk "{ print \$3 }" /proc/$p/stat); kill -CONT $p; usleep 100000; b=$(awk "{ print \$3 }" /proc/$p/stat); kill -KILL $p; echo $a $b'

# /proc, time and memory.
holds sse2 'grep -qw sse2 /proc/cpuinfo'
check cmdline console=ttyS0 'tr " " "\n" </proc/cmdline | grep ^console='
check cpus 1 'grep -c ^processor /proc/cpuinfo'
holds maps 'grep -q stack /proc/self/maps'
holds meminfo '[ $(awk "/^MemTotal/ { print \$2 }" /proc/meminfo) -gt 60000 ]'
holds clock 'a=$(cut -d. -f1 /proc/uptime); sleep 2; b=$(cut -d. -f1 /proc/uptime); d=$((b - a)); echo $d s; [ $d -ge 1 ] && [ $d -le 10 ]'
holds timer-interrupts 'a=$(awk "/^ *(0|LOC):/ { s += \$2 } END { print s }" /proc/interrupts); sleep 1; b=$(awk "/^ *(0|LOC):/ { s += \$2 } END { print s }" /proc/interrupts); [ $b -gt $a ]'
holds memory 'dd if=/dev/urandom of=m bs=1M count=12 2>/dev/null && cp m n && cmp m n && rm m n'

# Floating point, alone and in two processes at once that are preempted.
# (This busybox has no sin and exp; the sums exercise the unit as well.)
check constants '3.1415926536 2.7182818285 1.4142135624 0.8414709848' 'awk "
    function atan(x,  i, s, t) { t = x; for (i = 1; i < 60; i += 2) { s += t / i; t *= -x * x }; return s }
    BEGIN {
        e = t = 1; for (i = 1; i < 20; i++) { t /= i; e += t }
        r = 1; for (i = 0; i < 8; i++) r = (r + 2 / r) / 2
        s = t = 1; for (i = 2; i < 20; i += 2) { t /= -i * (i + 1); s += t }
        printf \"%.10f %.10f %.10f %.10f\n\", 16 * atan(1 / 5) - 4 * atan(1 / 239), e, r, s
    }"'
check series 1.644884068098 'awk "BEGIN { for (i = 1; i <= 20000; i++) s += 1 / (i * i); printf \"%.12f\n\", s }"'
check preempted-floating-point '1.644884068098 1.644884068098 1.644884068098' \
    'for j in 1 2 3; do awk "BEGIN { for (i = 1; i <= 20000; i++) s += 1 / (i * i); printf \"%.12f\n\", s }" >fp.$j & done; wait; echo $(cat fp.?)'

echo "$failed failed"
[ $failed -eq 0 ]
