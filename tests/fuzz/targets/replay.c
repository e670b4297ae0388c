/*
 * replay.c: runs a fuzz target without libFuzzer: on every seed of its corpus (text files of
 * hexadecimal bytes, # begins a comment), on mutations of them, and on random inputs, all the same
 * every time.
 *
 *   replay_<name> [--mutations N] [--random N] [--seed S] [FILE.hex | DIRECTORY ...]
 *
 * A file that is not *.hex is taken as it is, such as those that libFuzzer leaves. The input that
 * runs is told when the program ends by a signal.
 */
#include "../fuzz.h"
#include "target.h"

#include <dirent.h>
#include <errno.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#define MAX_BYTES 4096u

static struct {
    u8 data[MAX_BYTES];
    size_t bytes;
    const char *origin;
    u64 number, runs;
} now;

/* Only what a signal handler may: the bytes as hex on standard error. */
static void on_crash(int number) {
    static const char digits[] = "0123456789abcdef";
    static char text[2 * MAX_BYTES + 1];
    for (size_t i = 0; i < now.bytes; i++) {
        text[2 * i] = digits[now.data[i] >> 4];
        text[2 * i + 1] = digits[now.data[i] & 15];
    }
    text[2 * now.bytes] = '\n';
    ssize_t n = write(2, "replay: the input was\n", 22);
    n += write(2, text, 2 * now.bytes + 1);
    signal(number, SIG_DFL);
    raise(n ? number : number);
}

static void run(const u8 *data, size_t bytes) {
    now.bytes = MIN(bytes, (size_t)MAX_BYTES);
    memmove(now.data, data, now.bytes);
    /* At the end of a block of its own, so that the address sanitizer sees what reads beyond. */
    u8 *copy = malloc(MAX(now.bytes, 1));
    memcpy(copy, now.data, now.bytes);
    LLVMFuzzerTestOneInput(copy, now.bytes);
    free(copy);
    now.runs++;
}

/* ---- Mutations ---- */

static size_t mutate(struct fuzz_rng *r, u8 *data, size_t bytes) {
    for (u32 n = 1 + fuzz_below(r, 6); n--;) {
        size_t at = bytes ? fuzz_below(r, (u32)bytes) : 0;
        switch (fuzz_below(r, 6)) {
        case 0:
            if (bytes)
                data[at] ^= (u8)BIT(fuzz_below(r, 8));
            break;
        case 1:
            if (bytes)
                data[at] = (u8)fuzz_random(r);
            break;
        case 2: /* a whole value */
            if (bytes >= 4)
                store32(data + MIN(at, bytes - 4), fuzz_value(r));
            break;
        case 3: /* cut off */
            if (fuzz_one_in(r, 4))
                bytes = at;
            break;
        case 4: /* append */
            for (u32 k = fuzz_below(r, 16); k-- && bytes < MAX_BYTES;)
                data[bytes++] = (u8)fuzz_random(r);
            break;
        default: /* a piece once more, elsewhere */
            if (bytes) {
                size_t from = fuzz_below(r, (u32)bytes);
                size_t count = MIN((size_t)fuzz_below(r, 32), bytes - MAX(from, at));
                memmove(data + at, data + from, count);
            }
        }
    }
    return bytes;
}

static void run_mutations(const u8 *seed_data, size_t seed_bytes, u64 count, u64 seed) {
    static u8 data[MAX_BYTES];
    for (u64 i = 0; i < count; i++) {
        struct fuzz_rng r = fuzz_rng(seed, i);
        memcpy(data, seed_data, seed_bytes);
        run(data, mutate(&r, data, seed_bytes));
    }
}

static void run_random(u64 count, u64 seed) {
    static u8 data[MAX_BYTES];
    for (u64 i = 0; i < count; i++) {
        struct fuzz_rng r = fuzz_rng(seed ^ 0x72616e64, i);
        size_t bytes = fuzz_below(&r, fuzz_one_in(&r, 8) ? MAX_BYTES : 256);
        for (size_t k = 0; k < bytes; k++) /* small numbers choose */
            data[k] = (u8)(fuzz_one_in(&r, 2) ? fuzz_below(&r, 16) : fuzz_random(&r));
        run(data, bytes);
    }
}

/* ---- Files ---- */

static size_t parse_hex(FILE *f, u8 *out) {
    size_t nibbles = 0;
    memset(out, 0, MAX_BYTES);
    for (int c; (c = fgetc(f)) != EOF && nibbles < 2 * MAX_BYTES;) {
        int v = c >= '0' && c <= '9'                 ? c - '0'
                : (c | 32) >= 'a' && (c | 32) <= 'f' ? (c | 32) - 'a' + 10
                                                     : -1;
        if (c == '#')
            while ((c = fgetc(f)) != EOF && c != '\n')
                ;
        else if (v >= 0) {
            out[nibbles / 2] = (u8)(out[nibbles / 2] << 4 | v);
            nibbles++;
        }
    }
    return nibbles / 2;
}

static bool run_file(const char *path, u64 mutations, u64 seed) {
    static u8 data[MAX_BYTES];
    size_t chars = strlen(path);
    FILE *f = fopen(path, "re");
    if (!f) {
        fprintf(stderr, "replay: %s: %s\n", path, strerror(errno));
        return false;
    }
    bool hex = chars > 4 && !strcmp(path + chars - 4, ".hex");
    size_t bytes = hex ? parse_hex(f, data) : fread(data, 1, sizeof data, f);
    fclose(f);
    now.origin = path;
    run(data, bytes);
    run_mutations(data, bytes, mutations, seed);
    return true;
}

static int by_name(const void *a, const void *b) {
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static bool run_path(const char *path, u64 mutations, u64 seed) {
    struct stat st;
    if (stat(path, &st) != 0 || !S_ISDIR(st.st_mode))
        return run_file(path, mutations, seed);
    char *names[512];
    unsigned count = 0;
    bool good = true;
    DIR *d = opendir(path);
    for (struct dirent *e; d && count < ARRAY_LEN(names) && (e = readdir(d));)
        if (e->d_name[0] != '.' && asprintf(&names[count], "%s/%s", path, e->d_name) > 0)
            count++;
    if (d)
        closedir(d);
    qsort(names, count, sizeof names[0], by_name);
    for (unsigned i = 0; i < count; i++) {
        good = run_file(names[i], mutations, seed + i) && good;
        free(names[i]);
    }
    return good && count;
}

int main(int argc, char **argv) {
    u64 mutations = 0, random_inputs = 0, seed = 1;
    bool good = true;
    int i = 1;
    signal(SIGABRT, on_crash);
    signal(SIGSEGV, on_crash);
    signal(SIGALRM, on_crash);
    for (; i + 1 < argc && !strncmp(argv[i], "--", 2); i += 2) {
        u64 value = strtoull(argv[i + 1], NULL, 0);
        if (!strcmp(argv[i], "--mutations"))
            mutations = value;
        else if (!strcmp(argv[i], "--random"))
            random_inputs = value;
        else if (!strcmp(argv[i], "--seed"))
            seed = value;
        else
            return 2;
    }
    for (; i < argc; i++)
        good = run_path(argv[i], mutations, seed) && good;
    run_random(random_inputs, seed);
    printf("%llu inputs\n", (unsigned long long)now.runs);
    return good ? 0 : 1;
}
