// Processes and threads: fork, vfork, clone, exec, wait, pipes, futexes, thread-local storage, signals.
#include "guest.h"
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <ucontext.h>

static void children(void) {
    volatile int sum = 0;
    int status;
    for (int i = 0; i < 40; i++) {
        if (fork() == 0) {
            _exit(i * 3);
        }
    }
    while (wait(&status) > 0) {
        sum += WIFEXITED(status) ? WEXITSTATUS(status) : 1000000;
    }
    line("forks", "%d", sum);
    // A chain: each waits for the next.
    pid_t child = fork();
    if (child == 0) {
        for (int level = 0; level < 20; level++) {
            pid_t next = fork();
            if (next) {
                waitpid(next, &status, 0);
                _exit(WEXITSTATUS(status) + 1);
            }
        }
        _exit(5);
    }
    waitpid(child, &status, 0);
    line("chain", "%d", WEXITSTATUS(status));
    sum = 0;
    for (int i = 0; i < 10; i++) {
        volatile int shared = i;
        child = vfork();
        if (child == 0) {
            shared *= 2;
            char number[12];
            snprintf(number, sizeof number, "%d", i + 50);
            execl("/proc/self/exe", "programs", "exit", number, NULL);
            _exit(77);
        }
        waitpid(child, &status, 0);
        sum += WEXITSTATUS(status) + shared;
    }
    line("vfork and exec", "%d", sum);
    execl("/nowhere", "nowhere", NULL);
    line("exec fails", "%s", strerror(errno));
    child = fork();
    if (child == 0) {
        raise(SIGKILL);
    }
    waitpid(child, &status, 0);
    line("killed", "%d %d", WIFSIGNALED(status), WTERMSIG(status));
    child = fork();
    if (child == 0) {
        *(volatile int *)8 = 0;
    }
    waitpid(child, &status, 0);
    line("crashed", "%d %d", WIFSIGNALED(status), WTERMSIG(status));
    line("no children", "%d %s", waitpid(-1, NULL, 0), strerror(errno));
}

static void pipes(void) {
    enum { STAGES = 8, MESSAGES = 300 };
    int ends[STAGES + 1][2];
    for (int i = 0; i <= STAGES; i++) {
        if (pipe(ends[i])) {
            broken("pipe");
        }
    }
    for (int i = 0; i < STAGES; i++) {
        if (fork() == 0) {
            uint32_t value;
            for (int m = 0; m < MESSAGES; m++) {
                if (read(ends[i][0], &value, 4) != 4) {
                    _exit(1);
                }
                value = value * 31 + (uint32_t)i;
                if (write(ends[i + 1][1], &value, 4) != 4) {
                    _exit(1);
                }
            }
            _exit(0);
        }
    }
    uint32_t sum = 0, value;
    for (uint32_t m = 0; m < MESSAGES; m++) {
        if (write(ends[0][1], &m, 4) != 4 || (m >= 5 && (read(ends[STAGES][0], &value, 4) != 4))) {
            broken("pipe");
        }
        sum = m >= 5 ? sum * 7 + value : sum;
    }
    int status, failed = 0;
    for (int i = 0; i < STAGES; i++) {
        wait(&status);
        failed += status;
    }
    line("pipes", "%08x %d", sum, failed);
    for (int i = 0; i <= STAGES; i++) {
        close(ends[i][0]);
        close(ends[i][1]);
    }
    // A large transfer between two processes, in odd sizes.
    int big[2];
    if (pipe(big)) {
        broken("pipe");
    }
    if (fork() == 0) {
        static uint8_t data[7777];
        uint32_t x = 1;
        for (int i = 0; i < 50; i++) {
            for (size_t k = 0; k < sizeof data; k++) {
                data[k] = (uint8_t)((x = x * 1103515245 + 12345) >> 16);
            }
            for (size_t done = 0; done < sizeof data;) {
                done += (size_t)write(big[1], data + done, sizeof data - done);
            }
        }
        _exit(0);
    }
    close(big[1]);
    static uint8_t buffer[5003];
    ssize_t got;
    hash_t h = HASH;
    uint32_t total = 0;
    while ((got = read(big[0], buffer, sizeof buffer)) > 0) {
        h = hash(h, buffer, (size_t)got);
        total += (uint32_t)got;
    }
    wait(NULL);
    line("transfer", "%u %08x", total, h);
}

static __thread uint32_t mine = 17;
static __thread uint8_t mine_too[100];
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t condition = PTHREAD_COND_INITIALIZER;
static uint32_t guarded, turn;
static uint32_t atomic;
enum { THREADS = 8, ROUNDS = 2000 };

static void *thread(void *argument) {
    uint32_t index = (uint32_t)argument;
    mine += index;
    for (uint32_t i = 0; i < ROUNDS; i++) {
        pthread_mutex_lock(&mutex);
        guarded += 1;
        pthread_mutex_unlock(&mutex);
        __atomic_fetch_add(&atomic, 3, __ATOMIC_SEQ_CST);
        mine_too[i % 100] = (uint8_t)(mine_too[i % 100] + index);
    }
    for (uint32_t i = 0; i < 20; i++) {
        pthread_mutex_lock(&mutex);
        while (turn % THREADS != index) {
            pthread_cond_wait(&condition, &mutex);
        }
        turn++;
        pthread_cond_broadcast(&condition);
        pthread_mutex_unlock(&mutex);
    }
    return (void *)(mine + mine_too[3]);
}

static void threads(void) {
    pthread_t all[THREADS];
    uint32_t sum = 0;
    for (uint32_t i = 0; i < THREADS; i++) {
        if (pthread_create(&all[i], NULL, thread, (void *)i)) {
            broken("pthread_create");
        }
    }
    for (uint32_t i = 0; i < THREADS; i++) {
        void *result;
        pthread_join(all[i], &result);
        sum = sum * 31 + (uint32_t)result;
    }
    line("threads", "%u %u %u %08x own %u", guarded, atomic, turn, sum, mine);
}

static int clone_child(void *argument) {
    ((volatile uint32_t *)argument)[0] += 5;
    return 42;
}

static void clones(void) {
    static char stack[65536] __attribute__((aligned(16)));
    volatile uint32_t value = 1;
    int status;
    pid_t child = clone(clone_child, stack + sizeof stack, SIGCHLD, (void *)&value);
    waitpid(child, &status, 0);
    line("clone, own memory", "%u %d", value, WEXITSTATUS(status));
    child = clone(clone_child, stack + sizeof stack, CLONE_VM | SIGCHLD, (void *)&value);
    waitpid(child, &status, 0);
    line("clone, shared memory", "%u %d", value, WEXITSTATUS(status));
    // Two processes and a futex in shared memory.
    uint32_t *word = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    child = fork();
    for (uint32_t i = 0; i < 200; i++) {
        uint32_t wanted = i * 2 + (child != 0);
        uint32_t now;
        while ((now = __atomic_load_n(word, __ATOMIC_SEQ_CST)) != wanted) {
            syscall(SYS_futex, word, FUTEX_WAIT, now, NULL);
        }
        word[1] = word[1] * 3 + (child != 0);
        __atomic_store_n(word, wanted + 1, __ATOMIC_SEQ_CST);
        syscall(SYS_futex, word, FUTEX_WAKE, 1);
    }
    if (child == 0) {
        _exit(0);
    }
    waitpid(child, NULL, 0);
    line("futex", "%u %08x", word[0], word[1]);
}

static uint32_t __attribute__((noinline)) ackermann(uint32_t m, uint32_t n) {
    return m == 0 ? n + 1 : n == 0 ? ackermann(m - 1, 1) : ackermann(m - 1, ackermann(m, n - 1));
}

static int compare(const void *a, const void *b) {
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return x < y ? -1 : x > y;
}

static void computing(void) {
    line("recursion", "%u", ackermann(2, 300) + ackermann(3, 6));
    static uint32_t numbers[20000];
    uint32_t x = 1;
    for (size_t i = 0; i < COUNT(numbers); i++) {
        numbers[i] = x = x * 69069 + 1;
    }
    qsort(numbers, COUNT(numbers), sizeof *numbers, compare);
    line("qsort", "%08x", hash(HASH, numbers, sizeof numbers));
    ucontext_t main_context, other;
    static char stack[65536];
    static volatile int steps;
    steps = 0;
    getcontext(&main_context);
    if (steps++ < 10) {
        setcontext(&main_context);
    }
    (void)other;
    (void)stack;
    line("setcontext", "%d", steps);
}

static volatile sig_atomic_t received;
static void count(int number) {
    (void)number;
    received++;
}

static void signalling(void) {
    struct sigaction action = {.sa_handler = count};
    sigaction(SIGUSR1, &action, NULL);
    sigset_t block, old;
    sigemptyset(&block);
    sigaddset(&block, SIGUSR1);
    sigprocmask(SIG_BLOCK, &block, &old);
    pid_t parent = getpid(), child = fork();
    received = 0;
    for (int i = 0; i < 100; i++) {
        if (child == 0) {
            while (received <= i) {
                sigsuspend(&old);
            }
            kill(parent, SIGUSR1);
        } else {
            kill(child, SIGUSR1);
            while (received <= i) {
                sigsuspend(&old);
            }
        }
    }
    if (child == 0) {
        _exit(received);
    }
    int status;
    waitpid(child, &status, 0);
    line("ping-pong", "%d %d", (int)received, WEXITSTATUS(status));
    sigprocmask(SIG_SETMASK, &old, NULL);
    child = fork();
    if (child == 0) {
        for (;;) {
            pause();
        }
    }
    kill(child, SIGSTOP);
    waitpid(child, &status, WUNTRACED);
    line("stopped", "%d %d", WIFSTOPPED(status), WSTOPSIG(status));
    kill(child, SIGCONT);
    waitpid(child, &status, WCONTINUED);
    line("continued", "%d", WIFCONTINUED(status));
    kill(child, SIGTERM);
    waitpid(child, &status, 0);
    line("terminated", "%d", WTERMSIG(status));
}

void processes(void) {
    children();
    pipes();
    threads();
    clones();
    computing();
    signalling();
}
