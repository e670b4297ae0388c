/*
 * probe.c: a static i386 Linux program that asks a booted guest for what user programs rely on, and
 * prints one line `probe: NAME ok` or `probe: NAME FAILED (...)` each. The expected values were
 * computed by the same code run natively (`probe native` prints them).
 */
#define _GNU_SOURCE
#include <errno.h>
#include <math.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static int failures;

static void report(const char *name, int ok, const char *detail) {
    if (ok)
        printf("probe: %s ok\n", name);
    else
        printf("probe: %s FAILED (%s)\n", name, detail);
    failures += !ok;
    fflush(stdout);
}

/* FNV-1a over 64 MiB of a xorshift stream, in passes over one megabyte. */
static uint32_t checksum_64_mib(void) {
    enum { WORDS = 1 << 18 };
    uint32_t *buffer = malloc(WORDS * 4), state = 0x2545f491, hash = 0x811c9dc5;
    for (int pass = 0; pass < 64; pass++) {
        for (int i = 0; i < WORDS; i++) {
            state ^= state << 13;
            state ^= state >> 17;
            state ^= state << 5;
            buffer[i] = state;
        }
        const uint8_t *bytes = (const uint8_t *)buffer;
        for (int i = 0; i < WORDS * 4; i++)
            hash = (hash ^ bytes[i]) * 0x01000193;
    }
    free(buffer);
    return hash;
}

static void fork_and_exec(const char *self) {
    int good = 0;
    for (int i = 0; i < 200; i++) {
        pid_t pid = fork();
        if (!pid) {
            char number[16];
            snprintf(number, sizeof number, "%d", i);
            execl(self, self, "child", number, (char *)NULL);
            _exit(255);
        }
        int status;
        if (pid > 0 && waitpid(pid, &status, 0) == pid && WIFEXITED(status) &&
            WEXITSTATUS(status) == (i * 7 & 127))
            good++;
    }
    char detail[32];
    snprintf(detail, sizeof detail, "%d of 200", good);
    report("200 fork+execs", good == 200, detail);
}

static volatile sig_atomic_t signals_seen;
static sigjmp_buf jump;
static void on_signal(int number) {
    signals_seen++;
    if (number == SIGSEGV)
        siglongjmp(jump, 1);
}

static void signals_and_faults(void) {
    struct sigaction action = {.sa_handler = on_signal};
    sigaction(SIGUSR1, &action, NULL);
    sigaction(SIGSEGV, &action, NULL);
    for (int i = 0; i < 100; i++)
        raise(SIGUSR1);
    report("100 signals", signals_seen == 100, "count");
    volatile int caught = 0;
    char *page = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    for (volatile int i = 0; i < 50; i++) {
        page[0] = (char)i;
        mprotect(page, 4096, PROT_READ);
        if (!sigsetjmp(jump, 1))
            page[0] = 1;
        else
            caught += page[0] == i;
        mprotect(page, 4096, PROT_READ | PROT_WRITE);
    }
    report("50 protection faults", caught == 50, "count");
    munmap(page, 8192);
}

static __thread int thread_local_value;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static int total;
static void *thread_main(void *argument) {
    thread_local_value = (int)(intptr_t)argument;
    for (int i = 0; i < 1000; i++) {
        pthread_mutex_lock(&lock);
        total += thread_local_value;
        pthread_mutex_unlock(&lock);
    }
    return NULL;
}

static void threads(void) {
    pthread_t thread[4];
    for (int i = 0; i < 4; i++)
        if (pthread_create(&thread[i], NULL, thread_main, (void *)(intptr_t)(i + 1)))
            total = -1000000;
    for (int i = 0; i < 4; i++)
        pthread_join(thread[i], NULL);
    report("4 threads", total == 10000 && thread_local_value == 0, "sum");
}

static void system_calls(void) {
    long pid, expected = getpid();
    __asm__ volatile("int $0x80" : "=a"(pid) : "0"(SYS_getpid) : "memory");
    int good = pid == expected;
    for (int i = 0; i < 1000; i++)
        good &= syscall(SYS_getppid) == getppid();
    errno = 0;
    good &= close(-1) == -1 && errno == EBADF;
    report("system calls", good, "results");
    struct timespec a, b;
    clock_gettime(CLOCK_MONOTONIC, &a);
    usleep(20000);
    clock_gettime(CLOCK_MONOTONIC, &b);
    long us = (b.tv_sec - a.tv_sec) * 1000000 + (b.tv_nsec - a.tv_nsec) / 1000;
    char detail[48];
    snprintf(detail, sizeof detail, "20 ms took %ld us", us);
    report("sleep", us >= 20000 && us < 2000000, detail);
}

static void pipes(void) {
    int to[2], from[2], good = 0;
    if (pipe(to) || pipe(from))
        return report("pipes", 0, "pipe");
    pid_t pid = fork();
    if (!pid) {
        int value;
        while (read(to[0], &value, sizeof value) == sizeof value && value >= 0) {
            value *= 3;
            if (write(from[1], &value, sizeof value) != sizeof value)
                break;
        }
        _exit(0);
    }
    for (int i = 0; i < 500; i++) {
        int value = i;
        good += write(to[1], &value, sizeof value) == sizeof value &&
                read(from[0], &value, sizeof value) == sizeof value && value == 3 * i;
    }
    close(to[1]);
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
    report("500 pipe round trips", good == 500, "count");
}

/* Copy on write: the parent's memory is untouched by what 20 children write. */
static void copy_on_write(void) {
    enum { PAGES = 256 };
    unsigned char *memory = malloc(PAGES * 4096);
    memset(memory, 0x5a, PAGES * 4096);
    int good = 1;
    for (int child = 0; child < 20; child++) {
        pid_t pid = fork();
        if (!pid) {
            for (int i = 0; i < PAGES; i++)
                memory[i * 4096 + child] = (unsigned char)child;
            int same = 1;
            for (int i = 0; i < PAGES; i++)
                same &= memory[i * 4096 + child] == child && memory[i * 4096 + child + 1] == 0x5a;
            _exit(same ? 0 : 1);
        }
        int status = -1;
        waitpid(pid, &status, 0);
        good &= status == 0;
    }
    for (int i = 0; i < PAGES * 4096; i++)
        good &= memory[i] == 0x5a;
    free(memory);
    report("copy on write", good, "contents");
}

static void floating_point(void) {
    double sum = 0;
    for (int i = 1; i <= 100000; i++)
        sum += 1.0 / ((double)i * i);
    char text[32];
    snprintf(text, sizeof text, "%.10f", sqrt(sum * 6));
    report("floating point", !strcmp(text, "3.1415831043"), text);
}

/* A function that rewrites itself, as just-in-time compilers do. */
static void generated_code(void) {
    unsigned char *code =
        mmap(NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    int good = code != MAP_FAILED;
    for (int i = 0; good && i < 1000; i++) {
        code[0] = 0xb8; /* mov $i,%eax; ret */
        memcpy(code + 1, &i, 4);
        code[5] = 0xc3;
        int (*function)(void);
        memcpy(&function, &code, sizeof function);
        good = function() == i;
    }
    report("1000 rewrites of a function", good, "result");
}

int main(int argc, char **argv) {
    if (argc == 3 && !strcmp(argv[1], "child"))
        return atoi(argv[2]) * 7 & 127;
    uint32_t sum = checksum_64_mib();
    char text[32];
    snprintf(text, sizeof text, "%08x", sum);
    if (argc == 2 && !strcmp(argv[1], "native"))
        return printf("%s\n", text), 0;
    report("checksum over 64 MiB", !strcmp(text, PROBE_CHECKSUM), text);
    fork_and_exec(argv[0]);
    signals_and_faults();
    threads();
    system_calls();
    pipes();
    copy_on_write();
    floating_point();
    generated_code();
    printf("probe: %d failures\n", failures);
    return failures ? 1 : 0;
}
