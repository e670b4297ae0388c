/*
 * compute.c: rows that stay in user mode: what translation costs code that never leaves it. Each
 * returns a checksum, so that an engine which is fast and wrong shows.
 */
#include "rfbench.h"

#include <emmintrin.h>
#include <stddef.h>
#include <string.h>
#include <sys/mman.h>

#define NOINLINE __attribute__((noinline, noclone))
/* Keeps a value where it is and unknown to the optimiser. */
#define OPAQUE(x) __asm__ volatile("" : "+r"(x))

enum { LINE_BYTES = 64, COPY_BYTES = 16384, SMALL_BYTES = 64, SORT_ELEMENTS = 32768 };

static uint8_t big[16 << 20] __attribute__((aligned(4096)));
static uint32_t order[sizeof(big) / LINE_BYTES] __attribute__((aligned(4096)));

/* Large pages would make a native row depend on what the host has free. */
void prepare_compute_memory(void) {
    madvise(big, sizeof(big), MADV_NOHUGEPAGE);
    madvise(order, sizeof(order), MADV_NOHUGEPAGE);
}

void release_compute_memory(void) {
    madvise(big, sizeof(big), MADV_DONTNEED);
    madvise(order, sizeof(order), MADV_DONTNEED);
}

static uint32_t next_random(uint32_t *state) {
    *state = *state * 1664525u + 1013904223u;
    return *state >> 8;
}

static uint32_t run_int(uint32_t n) {
    uint32_t a = 0x12345678, b = 0x9e3779b9, c = 0x7f4a7c15;

    for (; n; n--) {
        a += b;
        b ^= a >> 7;
        c = (c << 5 | c >> 27) + a;
        a ^= c;
        b = b * 5 + 1;
        c -= b & a;
        a = a < c ? a + 3 : a - b;
        OPAQUE(a);
    }
    return a ^ b ^ c;
}

static NOINLINE uint32_t fibonacci(uint32_t n) {
    uint32_t a, b;

    if (n < 2)
        return n;
    a = fibonacci(n - 1);
    OPAQUE(a);
    b = fibonacci(n - 2);
    OPAQUE(b); /* without it the second call becomes a loop */
    return a + b;
}

/* fibonacci(25) is 242,785 calls. */
enum { FIB_ARGUMENT = 25, FIB_CALLS = 242785 };

static uint32_t run_call(uint32_t n) {
    uint32_t sum = 0, argument = FIB_ARGUMENT;

    for (; n; n -= FIB_CALLS) {
        OPAQUE(argument);
        sum += fibonacci(argument);
    }
    return sum;
}

#define TARGET(name, expression)                                                                   \
    static NOINLINE uint32_t name(uint32_t x) {                                                    \
        return expression;                                                                         \
    }
TARGET(target0, x + 1)
TARGET(target1, x ^ 0x55)
TARGET(target2, x * 3)
TARGET(target3, x - 7)
TARGET(target4, x + (x >> 3))
TARGET(target5, ~x)
TARGET(target6, x << 1 | 1)
TARGET(target7, x ^ x >> 5)
typedef uint32_t (*target_fn)(uint32_t);
static target_fn targets[64];

static int prepare_indirect(void) {
    static const target_fn all[8] = {target0, target1, target2, target3,
                                     target4, target5, target6, target7};
    uint32_t state = 1;

    for (size_t i = 0; i < 64; i++)
        targets[i] = all[next_random(&state) % 8];
    return 0;
}

static uint32_t run_indirect(uint32_t n) {
    uint32_t x = 1;

    for (uint32_t i = 0; i < n; i++)
        x = targets[i % 64](x);
    return x;
}

static uint32_t run_loadstore(uint32_t n) {
    enum { WORDS = 2048 };
    static uint32_t from[WORDS], to[WORDS];

    for (uint32_t i = 0; i < WORDS; i++)
        from[i] = i, to[i] = 0;
    for (uint32_t i = 0; i < n; i++) {
        uint32_t k = i % WORDS;
        to[k] += from[WORDS - 1 - k] ^ i;
    }
    for (uint32_t i = 1; i < WORDS; i++)
        to[0] = to[0] * 31 + to[i];
    return to[0];
}

/* One random cycle through every line of the first `bytes` of big. */
static int prepare_chase(size_t bytes) {
    uint32_t lines = bytes / LINE_BYTES, state = 42;

    for (uint32_t i = 0; i < lines; i++)
        order[i] = i;
    for (uint32_t i = lines - 1; i > 0; i--) {
        uint32_t j = next_random(&state) % (i + 1), t = order[i];
        order[i] = order[j];
        order[j] = t;
    }
    for (uint32_t i = 0; i < lines; i++)
        *(void **)(big + order[i] * LINE_BYTES) = big + order[(i + 1) % lines] * LINE_BYTES;
    return 0;
}

static int prepare_chase_l1(void) {
    return prepare_chase(16 << 10);
}
static int prepare_chase_l2(void) {
    return prepare_chase(256 << 10);
}
static int prepare_chase_ram(void) {
    return prepare_chase(sizeof(big));
}

static uint32_t run_chase(uint32_t n) {
    void **p = (void **)big;

    for (; n; n--)
        p = *p;
    return (uint8_t *)p - big;
}

static double left[1024] __attribute__((aligned(16))), right[1024] __attribute__((aligned(16)));

static int prepare_doubles(void) {
    for (int i = 0; i < 1024; i++) {
        left[i] = 1.0 + i / 1024.0;
        right[i] = 0.5 + (i * 37 % 1024) / 2048.0;
    }
    return 0;
}

static uint32_t fold_double(double x) {
    uint32_t half[2];

    memcpy(half, &x, sizeof(half));
    return half[0] ^ half[1];
}

static uint32_t run_sse(uint32_t n) {
    __m128d sum0 = _mm_setzero_pd(), sum1 = sum0, decay = _mm_set1_pd(0.999);
    double out[2];

    for (uint32_t i = 0; i < n; i++) {
        uint32_t k = i * 4 % 1024;
        __m128d a = _mm_load_pd(left + k), b = _mm_load_pd(left + k + 2);
        a = _mm_mul_pd(a, _mm_load_pd(right + k));
        b = _mm_mul_sd(b, _mm_load_pd(right + k + 2));
        sum0 = _mm_add_pd(_mm_mul_pd(sum0, decay), a);
        sum1 = _mm_add_pd(_mm_sub_pd(b, a), _mm_mul_pd(sum1, decay));
    }
    _mm_storeu_pd(out, _mm_add_pd(sum0, sum1));
    return fold_double(out[0]) ^ fold_double(out[1]);
}

static uint32_t run_x87(uint32_t n) {
    long double sum0 = 0, sum1 = 0, decay = 0.999;

    for (uint32_t i = 0; i < n; i++) {
        uint32_t k = i * 2 % 1024;
        sum0 = sum0 * decay + (long double)left[k] * right[k];
        sum1 = sum1 * decay + ((long double)left[k + 1] - right[k + 1]);
    }
    return fold_double((double)(sum0 + sum1));
}

static uint32_t copy_check(void) {
    uint32_t sum = 0;

    for (size_t i = 0; i < COPY_BYTES; i += 4)
        sum = sum * 31 + *(uint32_t *)(big + COPY_BYTES + i);
    return sum;
}

static int prepare_copy(void) {
    uint32_t state = 7;

    for (size_t i = 0; i < COPY_BYTES; i++)
        big[i] = next_random(&state);
    memset(big + COPY_BYTES, 0, COPY_BYTES);
    return 0;
}

static void movs(void *to, const void *from, size_t bytes) {
    size_t words = bytes / 4;

    __asm__ volatile("rep movsl" : "+D"(to), "+S"(from), "+c"(words) : : "memory");
}

static uint32_t run_copy_movs(uint32_t n) {
    for (; n; n--)
        movs(big + COPY_BYTES, big, COPY_BYTES);
    return copy_check();
}

static uint32_t run_copy_movs_small(uint32_t n) {
    for (uint32_t i = 0; i < n; i++) {
        size_t at = i * SMALL_BYTES % COPY_BYTES;
        movs(big + COPY_BYTES + at, big + at, SMALL_BYTES);
    }
    return copy_check();
}

static uint32_t run_copy_sse(uint32_t n) {
    for (; n; n--) {
        for (size_t at = 0; at < COPY_BYTES; at += 64) {
            const __m128i *from = (const __m128i *)(big + at);
            __m128i *to = (__m128i *)(big + COPY_BYTES + at);
            __m128i a = _mm_load_si128(from), b = _mm_load_si128(from + 1);
            __m128i c = _mm_load_si128(from + 2), d = _mm_load_si128(from + 3);
            _mm_store_si128(to, a);
            _mm_store_si128(to + 1, b);
            _mm_store_si128(to + 2, c);
            _mm_store_si128(to + 3, d);
        }
        __asm__ volatile("" : : : "memory");
    }
    return copy_check();
}

static NOINLINE void quicksort(int *low, int *high) {
    while (low < high) {
        int pivot = low[(high - low) / 2], *i = low, *j = high;

        while (i <= j) {
            while (*i < pivot)
                i++;
            while (*j > pivot)
                j--;
            if (i <= j) {
                int t = *i;
                *i++ = *j;
                *j-- = t;
            }
        }
        quicksort(low, j);
        low = i;
    }
}

static uint32_t run_sort(uint32_t n) {
    int *array = (int *)big;
    uint32_t sum = 0, state = 3;

    for (; n; n -= SORT_ELEMENTS) {
        for (int i = 0; i < SORT_ELEMENTS; i++)
            array[i] = (int)(next_random(&state) << 8);
        quicksort(array, array + SORT_ELEMENTS - 1);
        for (int i = 1; i < SORT_ELEMENTS; i++)
            sum += array[i - 1] <= array[i];
        sum ^= array[SORT_ELEMENTS / 2];
    }
    return sum;
}

/* A function and the word it counts in, on one page; or one whose immediate is patched. */
static uint8_t *mixed_page;

static int prepare_mixed(void) {
    if (!mixed_page)
        mixed_page = mmap(NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC,
                          MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return mixed_page == MAP_FAILED;
}

static uint32_t call_mixed(void) {
    uint32_t result;

    __asm__ volatile("call *%1" : "=a"(result) : "r"(mixed_page) : "memory", "cc");
    return result;
}

static uint32_t run_code_data(uint32_t n) {
    uint32_t word = (uint32_t)(mixed_page + 2048), sum = 0;

    memset(mixed_page + 2048, 0, 4);
    memcpy(mixed_page, "\xff\x05", 2); /* incl word; mov word,%eax; ret */
    memcpy(mixed_page + 2, &word, 4);
    mixed_page[6] = 0xa1;
    memcpy(mixed_page + 7, &word, 4);
    mixed_page[11] = 0xc3;
    for (; n; n--)
        sum += call_mixed();
    return sum;
}

static uint32_t run_smc_immediate(uint32_t n) {
    uint32_t sum = 0;

    mixed_page[0] = 0xb8; /* mov $n,%eax; ret */
    mixed_page[5] = 0xc3;
    for (; n; n--) {
        memcpy(mixed_page + 1, &n, 4);
        sum += call_mixed();
    }
    return sum;
}

const struct row compute_rows[] = {
    {"int_regs", "loop of 16 integer instructions", 8000000, 1, 0, NULL, run_int},
    {"call_return", "call in recursive Fibonacci", FIB_CALLS * 24, FIB_CALLS, 0, NULL, run_call},
    {"call_indirect", "call through a table of 8 functions", 6000000, 64, 0, prepare_indirect,
     run_indirect},
    {"load_store", "read-modify-write of a word", 12000000, 2048, 4, NULL, run_loadstore},
    {"chase_l1", "dependent load, 16 KiB", 11999999, 1, 4, prepare_chase_l1, run_chase},
    {"chase_l2", "dependent load, 256 KiB", 4000000, 1, 64, prepare_chase_l2, run_chase},
    {"chase_ram", "dependent load, 16 MiB", 400000, 1, 4096, prepare_chase_ram, run_chase},
    {"sse_double", "loop of 8 SSE2 double instructions", 3000000, 256, 4, prepare_doubles, run_sse},
    {"x87", "loop of 10 x87 instructions", 2000000, 512, 4, prepare_doubles, run_x87},
    {"copy_movs", "rep movsd of 16 KiB", 40000, 1, 8, prepare_copy, run_copy_movs},
    {"copy_movs_small", "rep movsd of 64 bytes", 1000000, 256, 8, prepare_copy,
     run_copy_movs_small},
    {"copy_sse", "16 KiB by SSE2 loads and stores", 20000, 1, 8, prepare_copy, run_copy_sse},
    {"sort", "element of a quicksort of 32768 ints", SORT_ELEMENTS * 10, SORT_ELEMENTS, 32, NULL,
     run_sort},
    {"code_data_page", "call of a function that counts in its own page", 1000000, 1, 1,
     prepare_mixed, run_code_data},
    {"smc_immediate", "patch of an immediate, and call of it", 50000, 1, 1, prepare_mixed,
     run_smc_immediate},
    {0},
};
