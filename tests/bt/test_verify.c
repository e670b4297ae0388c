/*
 * test_verify.c: the verifier passes everything the translator makes, refuses a list of escapes one
 * by one, and never passes a random mutation that a third decoder (Zydis, in 64-bit mode) sees
 * touching anything it must not.
 */
#include "bt/bt_internal.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

/* The byte strings below hold these offsets. */
_Static_assert(HOT_CR0 == 0xf4 && HOT_ARG0 == 0xc8 && HOT_STUB_CALLOUT == 0xd0, "hot area moved");
_Static_assert(HOT_FLAG_IF == 0x80 && HOT_FS_BASE_PTR == 0x88 && HOT_HOST_RSP == 0xa0, "likewise");

enum { CODE_AT = 0x100000, RAM_BYTES = 8 << 20 };
enum { ALL_TRAP_CLASSES = (1 << BT_TRAP_CLASS_COUNT) - 1 };

static u64 seed = 0x6a09e667f3bcc908;
static u64 rnd(void) {
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return seed * 0x9e3779b97f4a7c15ull >> 8;
}

struct world {
    struct cpu *cpu;
    struct bt *bt;
};

static void create_world(struct world *w, const struct bt_config *config) {
    struct mmu_error err;
    char text[160];
    w->cpu = cpu_create();
    assert_non_null(w->cpu);
    w->cpu->mmu = mmu_create(RAM_BYTES, &err);
    assert_non_null(w->cpu->mmu);
    cpu_reset(w->cpu);
    w->cpu->cr0 = CR0_PE | CR0_NE | CR0_ET;
    w->cpu->cr4 = CR4_OSFXSR;
    for (unsigned s = SEG_ES; s <= SEG_GS; s++)
        w->cpu->seg[s] =
            (struct segment){.selector = 0x10,
                             .attr = ATTR_P | ATTR_S | ATTR_W | ATTR_A | ATTR_DB | ATTR_G,
                             .limit = 0xffffffff};
    w->cpu->seg[SEG_CS].selector = 8;
    w->cpu->seg[SEG_CS].attr |= ATTR_CODE;
    w->bt = bt_create(w->cpu, config, text, sizeof text);
    if (!w->bt)
        fail_msg("%s", text);
}

static void destroy_world(struct world *w) {
    bt_destroy(w->bt);
    mmu_destroy(w->cpu->mmu);
    cpu_destroy(w->cpu);
}

/* ---- Guest code the translator takes ---- */

static unsigned random_guest_insn(u8 *out, u8 cpl) {
    for (;;) {
        u8 bytes[16];
        for (unsigned i = 0; i < sizeof bytes; i++)
            bytes[i] = (u8)rnd();
        unsigned at = 0;
        static const u8 prefixes[] = {0x66, 0xf3, 0xf2, 0x64, 0x65, 0x36, 0xf0, 0x67};
        while ((rnd() & 3) == 0 && at < 3)
            bytes[at++] = prefixes[rnd() % ARRAY_LEN(prefixes)];
        if (rnd() & 1)
            bytes[at++] = 0x0f;
        if (at && bytes[at - 1] == 0x0f && (rnd() & 7) == 0)
            bytes[at++] = rnd() & 1 ? 0x38 : 0x3a;
        struct insn in;
        if (insn_decode(&in, bytes, 15, true, true) != INSN_OK ||
            bt_class_of(&in, cpl, true) == BT_CLASS_EMULATE)
            continue;
        memcpy(out, bytes, in.length);
        return in.length;
    }
}

/* A privileged instruction that the configuration leaves to trap. */
static unsigned random_privileged_insn(u8 *out, u32 classes) {
    static const u8 first[] = {0xfa, 0xfb, 0xf4, 0xe4, 0xe5, 0xe6, 0xe7, 0xec,
                               0xed, 0xee, 0xef, 0x6c, 0x6d, 0x6e, 0x6f};
    static const u8 second[] = {0x00, 0x01, 0x06, 0x20, 0x22, 0x30, 0x32};
    for (;;) {
        u8 bytes[16];
        for (unsigned i = 0; i < sizeof bytes; i++)
            bytes[i] = (u8)rnd();
        unsigned at = 0;
        if ((rnd() & 3) == 0)
            bytes[at++] = rnd() & 1 ? 0x66 : 0xf3;
        if (rnd() & 1) {
            bytes[at] = first[rnd() % ARRAY_LEN(first)];
        } else {
            bytes[at++] = 0x0f;
            bytes[at] = second[rnd() % ARRAY_LEN(second)];
        }
        struct insn in;
        if (insn_decode(&in, bytes, 15, true, true) == INSN_OK &&
            (bt_trap_class_of(&in) & classes)) {
            memcpy(out, bytes, in.length);
            return in.length;
        }
    }
}

/* Makes all units check themselves, and some instructions read their immediate in place. */
static void check_all(struct world *w) {
    memset(w->bt->page_checked, true, w->bt->page_count);
}

static u32 translate_random(struct world *w) {
    u8 *ram = mmu_ram(w->cpu->mmu);
    u32 eip = CODE_AT + (u32)(rnd() % 0x400000);
    u32 at = eip;
    for (unsigned i = 0; i < 12; i++) {
        site_at(w->bt, at)->live = rnd() & 1;
        at += random_guest_insn(ram + at, w->cpu->cpl);
    }
    ram[at] = 0xc3;
    u32 classes = w->cpu->cpl == 0 ? w->bt->config.trap_classes : 0;
    if (classes && (rnd() & 1))
        random_privileged_insn(ram + at, classes);
    u32 index = bt_translate(w->bt, eip, eip);
    if (index == BT_NONE) {
        cache_flush(w->bt, BT_CAUSE_request);
        index = bt_translate(w->bt, eip, eip);
    }
    assert_int_not_equal(index, BT_NONE);
    return index;
}

static void fail_unit(struct world *w, u32 index, u32 offset, const char *wrong) {
    const struct bt_unit *u = &w->bt->unit[index];
    const u8 *p = w->bt->cache_rx + u->host;
    char hex[128] = "";
    for (unsigned i = 0; i < 24 && offset + i < u->host_bytes; i++)
        snprintf(hex + 3 * i, sizeof hex - 3 * i, "%02x ", p[offset + i]);
    const u8 *guest = mmu_ram(w->cpu->mmu) + u->gpa;
    for (unsigned i = 0; i < u->guest_bytes; i++)
        fprintf(stderr, "%02x ", guest[i]);
    fail_msg("unit %08x, host offset %u: %s: %s", u->eip, offset, wrong, hex);
}

static void verify_random_units(bool retstack, bool icount, bool lockstep, bool checked,
                                u32 trap_classes) {
    struct bt_config config;
    bt_config_default(&config);
    config.cache_bytes = 4 << 20;
    config.retstack = retstack;
    config.icount = icount;
    config.lockstep = lockstep;
    config.trap_classes = trap_classes;
    struct world w;
    create_world(&w, &config);
    if (checked)
        check_all(&w);
    for (unsigned i = 0; i < 4000; i++) {
        w.cpu->cpl = i & 1 ? 3 : 0;
        u32 offset = 0, index = translate_random(&w);
        const char *wrong = bt_verify(w.bt, &w.bt->unit[index], &offset);
        if (wrong)
            fail_unit(&w, index, offset, wrong);
    }
    assert_true(!checked || w.bt->stats->live_immediates > 100);
    destroy_world(&w);
}

static void what_the_translator_makes_passes(void **state) {
    (void)state;
    for (int checked = 0; checked < 2; checked++) {
        verify_random_units(true, false, false, checked, 0);
        verify_random_units(false, false, false, checked, 0);
        verify_random_units(false, true, false, checked, 0);
        verify_random_units(false, false, true, checked, 0);
        verify_random_units(true, false, false, checked, ALL_TRAP_CLASSES);
    }
    verify_random_units(false, true, false, false, ALL_TRAP_CLASSES);
    verify_random_units(true, false, false, false, BT_TRAP_IO | BT_TRAP_MSR);
}

/* ---- Escapes, one by one ---- */

static bool nowhere(void *opaque, u32 offset) {
    (void)opaque;
    return offset == 0x5000;
}

static unsigned put_hex(u8 *out, const char *hex) {
    unsigned n = 0;
    for (char *end; *hex; hex = end)
        out[n++] = (u8)strtoul(hex, &end, 16);
    return n;
}

static unsigned put_u32(u8 *out, u32 value) {
    store32(out, value);
    return 4;
}

/* The indirect entry of a unit at EIP 1000h. */
static unsigned put_entry(u8 *code) {
    unsigned n = put_hex(code, "44 8b c9 41 8d 88 00 f0 ff ff 67 e3 0a 41 8b c9 41 ff a7");
    n += put_u32(code + n, HOT_STUB_INDIRECT_MISS);
    return n + put_hex(code + n, "41 8b c9");
}

/* An entry, `body`, and a callout that leaves: what the verifier says about it. */
static const char *judge(const char *body) {
    u8 code[256];
    unsigned n = put_entry(code);
    n += put_hex(code + n, body);
    n += put_hex(code + n, "41 b8 00 10 00 00 41 b9 00 00 00 00 41 ff a7");
    n += put_u32(code + n, HOT_STUB_CALLOUT);
    u32 offset;
    return bt_verify_code(code, n, 0x1000, false, 0, nowhere, NULL, &offset);
}

/* A self-check in pieces: one doubleword of source at 1000h; what a failed one does. */
#define PIECE "65 67 44 8b 04 25 00 10 00 00 45 8d 80 00 00 00 00 "
#define STALE "41 8b c9 41 b8 00 00 00 00 41 b9 11 00 00 00 41 ff a7 d0 00 00 00 41 8b c9"
_Static_assert(CO_STALE == 0x11, "callouts renumbered");

static void harmless_bodies_pass(void **state) {
    (void)state;
    static const char *const bodies[] = {
        "8b c1",                               /* mov eax,ecx */
        "65 67 8b 44 8b fc",                   /* mov eax,gs:[ebx+ecx*4-4] */
        "f0 65 67 01 08",                      /* lock add gs:[eax],ecx */
        "65 67 41 89 44 24 fc",                /* mov gs:[r12d-4],eax */
        "45 8d 64 24 fc",                      /* lea r12d,[r12-4] */
        "8b ff 49 8d 3c 3e 8b c9 f3 aa 8b ff", /* rep stosb */
        "9c 41 58",                            /* pushfq; pop r8 */
        "eb 00",                               /* jmp to the next instruction */
        "65 67 0f 28 00",                      /* movaps xmm0,gs:[eax] */
        "41 8b 87 f4 00 00 00",                /* mov eax,[cr0] */
        "84 e4",                               /* test ah,ah */
        PIECE "44 8b c9 49 8b c8 e3 16 " STALE,
    };
    for (size_t i = 0; i < ARRAY_LEN(bodies); i++) {
        const char *wrong = judge(bodies[i]);
        if (wrong)
            fail_msg("%s: %s", bodies[i], wrong);
    }
}

static void escapes_are_refused(void **state) {
    (void)state;
    static const char *const bodies[] = {
        /* memory outside the window */
        "8b 01",
        "67 8b 01",
        "65 8b 01",
        "64 67 8b 01",
        "65 67 8b 05 00 00 00 00",
        "67 8b 05 00 00 00 00",
        "a1 00 00 00 00 00 00 00 00",
        "41 8b 06",
        "65 67 8b 04 24",
        "65 67 41 8b 07",
        "65 67 41 8b 45 00",
        "49 8d 04 06",
        "41 8d 06",
        "d7",
        "65 67 d7",
        "65 67 66 0f f7 c1",
        "66 0f f7 c1",
        "0f f7 c1",
        /* strings that miss a part of the sequence */
        "aa",
        "f3 aa",
        "67 f3 aa",
        "65 67 a4",
        "49 8d 3c 3e aa 8b ff",
        "8b ff 49 8d 3c 3e aa",
        "8b ff 49 8d 3c 3e f3 aa 8b ff",
        "8b ff 49 8d 3c 3e a4 8b ff",
        "8b c9 8b ff 49 8d 3c 3e f3 aa 8b ff",
        "8b ff 49 8d 3c 3e 67 aa 8b ff",
        "8b ff 48 8d 3c 3e aa 8b ff",
        "8b ff 49 8d 3c 3e 48 ab 8b ff",
        "8b ff 49 8d 3c 3e 6c 8b ff",
        "8b ff 49 8d 3c 3e fd aa 8b ff",
        /* the vCPU: forbidden fields, sizes, stores, indices */
        "41 8b 87 00 00 00 00",
        "41 89 87 80 00 00 00",
        "41 c7 87 80 00 00 00 01 00 00 00",
        "45 8b 87 a0 00 00 00",
        "4d 8b 87 a0 00 00 00",
        "41 8b 84 0f 80 00 00 00",
        "41 89 87 d0 00 00 00",
        "41 8b 87 f8 0f 00 00",
        "45 89 8f 00 10 00 00",
        "49 89 87 c8 00 00 00",
        "41 88 87 c8 00 00 00",
        "4d 8b 87 88 00 00 00",
        "45 8b 00",
        "45 8b 09",
        "4d 8b 87 88 00 00 00 45 89 00",
        "41 01 87 c8 00 00 00",
        "41 8b 87 a8 00 00 00",
        "65 41 8b 87 80 00 00 00",
        /* reserved registers */
        "89 c4",
        "41 89 c5",
        "41 89 c6",
        "41 89 c7",
        "ff c4",
        "41 ff c7",
        "49 ff c6",
        "94",
        "41 97",
        "41 be 00 00 00 00",
        "bc 00 00 00 00",
        "0f cc",
        "41 0f cf",
        "40 88 c4",
        "41 88 c6",
        "44 0f b6 f8",
        "0f b6 e0",
        "41 0f c7 0f",
        "4c 89 f0",
        "44 89 f0",
        "83 c4 08",             /* add esp,8 */
        "48 83 ec 08",          /* sub rsp,8 */
        "48 8d 64 24 08",       /* lea rsp,[rsp+8] */
        "65 67 8b 20",          /* mov esp,gs:[eax] */
        "45 8d 7f 08",          /* lea r15d,[r15+8] */
        "65 67 44 8b 30",       /* mov r14d,gs:[eax] */
        "0f 44 e0",             /* cmove esp,eax */
        "0f c1 c4",             /* xadd esp,eax */
        "0f b1 c4",             /* cmpxchg esp,eax */
        "44 0f c1 f8",          /* xadd eax,r15d */
        "65 67 44 0f c1 38",    /* xadd gs:[eax],r15d */
        "65 67 87 20",          /* xchg gs:[eax],esp */
        "65 67 44 87 30",       /* xchg gs:[eax],r14d */
        "f7 dc",                /* neg esp */
        "41 d1 e7",             /* shl r15d,1 */
        "44 0f af f8",          /* imul r15d,eax */
        "44 0f bc f0",          /* bsf r14d,eax */
        "66 44 0f 7e f8",       /* movd eax,xmm15: there is none to a 32-bit guest */
        "66 41 0f 7e c7",       /* movd r15d,xmm0 */
        "f2 44 0f 2c f0",       /* cvttsd2si r14d,xmm0 */
        "44 0f 50 f8",          /* movmskps r15d,xmm0 */
        "66 44 0f d7 f8",       /* pmovmskb r15d,xmm0 */
        "66 41 0f 3a 16 c7 00", /* pextrd r15d,xmm0,0 */
        "f2 44 0f 38 f0 f8",    /* crc32 r15d,al */
        "50",
        "58",
        "41 58",
        "9c",
        "9d",
        "9c 58",
        "54",
        "5c",
        "c9",
        "c8 00 00 00",
        "8f c0",
        "ff f0",
        /* privileged, I/O, system calls, segments, other state */
        "0f 05",
        "0f 34",
        "cd 80",
        "cc",
        "f1",
        "ce",
        "f4",
        "fa",
        "fb",
        "ec",
        "ee",
        "e4 10",
        "6e",
        "0f 07",
        "0f 35",
        "48 cf",
        "48 0f 07",
        "0f 01 c1",
        "0f 01 ca",
        "0f 01 c8",
        "65 67 0f c7 18", /* xrstors */
        "65 67 0f c7 28", /* xsaves */
        "65 67 48 0f ae 28",
        "65 67 8e 18",
        "8e d8",
        "8e d0",
        "65 67 0f b2 08",
        "65 67 0f b4 08",
        "f3 41 0f ae d7",
        "f3 49 0f ae df",
        "0f 01 d0",
        "0f 01 f8",
        "0f 01 ef",
        "0f 01 ee",
        "0f 01 cb",
        "f3 0f ae d0",
        "f3 0f ae d8",
        "f3 48 0f ae d8",
        "f3 0f ae c0",
        "0f 20 c0",
        "0f 22 c0",
        "0f 21 c0",
        "8e e8",
        "8c e8",
        "65 67 8e 28",
        "0f a0",
        "0f a8",
        "0f b5 08",
        "65 67 0f b5 08",
        "0f 30",
        "0f 32",
        "0f 31",
        "0f 33",
        "0f a2",
        "0f 00 d8",
        "0f 01 d8",
        "0f 0b",
        "cf",
        "cb",
        "ca 00 00",
        "65 67 ff 28",
        "65 67 ff 18",
        "65 67 0f ae 00",
        "65 67 0f ae 08",
        "65 67 0f ae 20",
        "65 67 0f ae 28",
        "65 67 dd 20",
        "65 67 dd 30",
        "65 67 d9 30",
        "65 67 d9 20",
        "c5 f8 77",
        "c5 fc 28 00",
        "62 f1 7c 48 28 c1",
        "0f 01 f9",
        "0f c7 f0",
        "f3 0f c7 f8",
        "0f 38 c8 c1",
        "66 0f 38 82 00",
        "fd",
        "fc",
        "0f 18 00",
        "0f 0d 00",
        "0f 1f 00",
        "90",
        "f3 90",
        "63 c8",
        "48 89 c8",
        "48 01 c8",
        "f3 0f bc c1",
        "f3 0f bd c1",
        "f2 40 90",
        /* branches */
        "ff e0",
        "ff d0",
        "65 67 ff 20",
        "41 ff 27",
        "41 ff a7 80 00 00 00",
        "41 ff a7 d8 00 00 00",
        "41 ff 97 d8 00 00 00",
        "e9 00 00 00 10",
        "eb 80",
        "eb 01",
        "66 e9 00 00 00 00",
        "e3 00",
        "41 ff 65 04",
        "41 ff a5 00 00 02 00",
        "41 ff 65 f8",
        "43 ff 64 4d 00",
        "46 8d 0c 85 00 00 00 00 43 ff 64 4d 00",
        "46 8d 0c 85 00 00 00 00 44 0f b7 c9 43 ff 64 4d 00",
        "e8 00 00 00 00",
        "41 ff 55 08",
        "72 f6",
        "c2 08 00",
        "f2 c3",
        "f3 c3",
        "c7 f8 00 00 00 00",
        "c6 f8 00",
        /* into the middle of a sequence */
        "eb 02 8b ff 49 8d 3c 3e aa 8b ff",
        "eb 06 8b ff 49 8d 3c 3e aa 8b ff",
        "eb 01 9c 41 58",
        "eb 06",
        /* callouts */
        "41 b8 00 00 00 00 41 b9 0e 00 00 00 41 ff a7 d0 00 00 00",
        "41 b9 00 00 00 00 41 ff a7 d0 00 00 00",
        "41 b8 00 00 00 00 41 b9 00 00 00 80 41 ff a7 d0 00 00 00",
        "41 b8 00 00 00 00 41 b9 11 00 00 00 41 ff a7 d0 00 00 00",
        /* self-checks: other registers, other memory, a part missing */
        PIECE "44 8b c9 49 8b cf e3 16 " STALE,
        PIECE "44 8b c9 49 8b c8 e3 13 " STALE,
        PIECE "49 8b c8 e3 16 " STALE,
        PIECE "45 8d 89 00 00 00 00 4f 8d 04 08 44 8b c9 49 8b c8 e3 16 " STALE,
        "67 44 8b 04 25 00 10 00 00 45 8d 80 00 00 00 00 44 8b c9 49 8b c8 e3 16 " STALE,
        "65 67 44 8b 05 00 10 00 00 45 8d 80 00 00 00 00 44 8b c9 49 8b c8 e3 16 " STALE,
        "65 67 4c 8b 04 25 00 10 00 00 45 8d 80 00 00 00 00 44 8b c9 49 8b c8 e3 16 " STALE,
        "44 8b c9 49 8b c8 e3 16 " STALE,
        "eb 10 " PIECE "44 8b c9 49 8b c8 e3 16 " STALE,
        "4f 8d 04 08",
        "49 8b c8",
        /* truncated at the end of the unit */
        "65",
        "f0",
        "66",
        "8b",
    };
    for (size_t i = 0; i < ARRAY_LEN(bodies); i++)
        if (!judge(bodies[i]))
            fail_msg("accepted: %s", bodies[i]);
}

static void entries_and_ends_are_checked(void **state) {
    (void)state;
    u8 code[64];
    u32 offset;
    unsigned n = put_hex(code, "8b c1 c3"); /* no EIP check */
    assert_non_null(bt_verify_code(code, n, 0, false, 0, nowhere, NULL, &offset));
    n = put_entry(code);
    assert_non_null(bt_verify_code(code, n, 0, false, 0, nowhere, NULL, &offset)); /* runs off */
    code[n] = 0xc3;
    assert_null(bt_verify_code(code, n + 1, 0, false, 0, nowhere, NULL, &offset));
    assert_non_null(bt_verify_code(code, 0, 0, false, 0, nowhere, NULL, &offset));
    /* jmp to the one known entry, and beside it */
    code[n] = 0xe9;
    put_u32(code + n + 1, 0x5000 - (n + 5));
    assert_null(bt_verify_code(code, n + 5, 0, false, 0, nowhere, NULL, &offset));
    put_u32(code + n + 1, 0x5001 - (n + 5));
    assert_non_null(bt_verify_code(code, n + 5, 0, false, 0, nowhere, NULL, &offset));
}

/* ---- Random mutations, judged by Zydis ---- */

static bool reserved(ZydisRegister reg) {
    switch (ZydisRegisterGetLargestEnclosing(ZYDIS_MACHINE_MODE_LONG_64, reg)) {
    case ZYDIS_REGISTER_RSP:
    case ZYDIS_REGISTER_R13:
    case ZYDIS_REGISTER_R14:
    case ZYDIS_REGISTER_R15:
        return true;
    default:
        break;
    }
    switch (ZydisRegisterGetClass(reg)) {
    case ZYDIS_REGCLASS_SEGMENT:
    case ZYDIS_REGCLASS_CONTROL:
    case ZYDIS_REGCLASS_DEBUG:
    case ZYDIS_REGCLASS_TABLE:
    case ZYDIS_REGCLASS_YMM:
    case ZYDIS_REGCLASS_ZMM:
    case ZYDIS_REGCLASS_MASK:
    case ZYDIS_REGCLASS_BOUND:
        return true;
    default:
        return false;
    }
}

struct sighting {
    ZydisDecodedInstruction insn;
    ZydisDecodedOperand ops[ZYDIS_MAX_OPERAND_COUNT];
    const u8 *at;
    const u8 *start; /* of the code */
};

static bool is_string(const struct sighting *s) {
    return s->insn.meta.category == ZYDIS_CATEGORY_STRINGOP;
}

/* The bytes just before say that the pointer was made from the window. */
static bool pointer_made(const struct sighting *s, u8 sib_modrm, u8 sib) {
    for (unsigned back = 4; back <= 16 && s->at - s->start >= (long)back + 2; back++) {
        const u8 *p = s->at - back;
        if (p[0] == 0x49 && p[1] == 0x8d && p[2] == sib_modrm && p[3] == sib)
            return p[-2] == 0x8b && p[-1] == (sib_modrm == 0x3c ? 0xff : 0xf6);
    }
    return false;
}

static const char *memory_sin(const struct sighting *s, const ZydisDecodedOperand *op) {
    const ZydisDecodedOperandMem *m = &op->mem;
    if (m->type == ZYDIS_MEMOP_TYPE_AGEN)
        return NULL;
    if (m->segment == ZYDIS_REGISTER_GS && s->insn.address_width == 32)
        return m->base == ZYDIS_REGISTER_EIP ? "eip-relative" : NULL;
    if (m->base == ZYDIS_REGISTER_RSP && op->visibility == ZYDIS_OPERAND_VISIBILITY_HIDDEN)
        return NULL; /* call, ret, pushfq, popfq, pop r8: looked at by mnemonic */
    if (is_string(s) && m->base == ZYDIS_REGISTER_RDI && s->insn.address_width == 64)
        return pointer_made(s, 0x3c, 0x3e) ? NULL : "string through a raw rdi";
    if (is_string(s) && m->base == ZYDIS_REGISTER_RSI && s->insn.address_width == 64)
        return pointer_made(s, 0x34, 0x36) ? NULL : "string through a raw rsi";
    bool write = op->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE;
    if (m->base == ZYDIS_REGISTER_R15 && m->index == ZYDIS_REGISTER_NONE &&
        m->segment == ZYDIS_REGISTER_DS && s->insn.address_width == 64) {
        i64 d = m->disp.value;
        bool argument = d == HOT_ARG0 || d == HOT_ARG1 || d == HOT_ARG2 || d == HOT_FLAG_IF;
        if (write)
            return argument && op->size == 32 ? NULL : "store to the vCPU";
        if (d == CPU_SAFEPOINT && op->size <= 32)
            return NULL;
        return d >= CPU_HOT && d + op->size / 8 <= CPU_HOT + 512 ? NULL
                                                                 : "load beside the hot area";
    }
    if (s->insn.mnemonic == ZYDIS_MNEMONIC_JMP || s->insn.mnemonic == ZYDIS_MNEMONIC_CALL) {
        if (m->base == ZYDIS_REGISTER_R13 && m->index == ZYDIS_REGISTER_NONE)
            return m->disp.value >= 0 && m->disp.value < VIEW_ENTRIES * 8 && m->disp.value % 8 == 0
                       ? NULL
                       : "view entry out of range";
        if (m->base == ZYDIS_REGISTER_R13 && m->index == ZYDIS_REGISTER_R9 && m->scale == 2)
            return memcmp(s->at - 4, "\x45\x0f\xb7\xc9", 4) == 0 ? NULL : "unbounded view index";
    }
    if (!write && s->at - s->start >= 7 && s->at[-6] == 0x8b) { /* pointer chases */
        u32 disp = load32(s->at - 4);
        if (m->base == ZYDIS_REGISTER_R8 && s->at[-5] == 0x87 && s->at[-7] == 0x4d &&
            (disp == HOT_FS_BASE_PTR || disp == HOT_GS_BASE_PTR))
            return NULL;
        if (m->base == ZYDIS_REGISTER_R9 && s->at[-5] == 0x8f && disp == HOT_STI_POLL)
            return NULL;
    }
    return "memory outside";
}

static bool balanced_stack_use(const struct sighting *s) {
    switch (s->insn.mnemonic) {
    case ZYDIS_MNEMONIC_CALL:
    case ZYDIS_MNEMONIC_RET:
        return true;
    case ZYDIS_MNEMONIC_PUSHFQ: /* pop r8 next */
        return s->at[1] == 0x41 && s->at[2] == 0x58;
    case ZYDIS_MNEMONIC_POP:
        return s->at > s->start && s->at[-1] == 0x9c && s->at[0] == 0x41 && s->at[1] == 0x58;
    default:
        return false;
    }
}

/* The class of an instruction that is left to trap, by its mnemonic. */
static u32 trap_class(const struct sighting *s) {
    switch (s->insn.mnemonic) {
    case ZYDIS_MNEMONIC_MOV:
    case ZYDIS_MNEMONIC_CLTS:
    case ZYDIS_MNEMONIC_LMSW:
        return BT_TRAP_CR;
    case ZYDIS_MNEMONIC_IN:
    case ZYDIS_MNEMONIC_OUT:
        return BT_TRAP_IO;
    case ZYDIS_MNEMONIC_CLI:
    case ZYDIS_MNEMONIC_STI:
        return BT_TRAP_CLI_STI;
    case ZYDIS_MNEMONIC_HLT:
        return BT_TRAP_HLT;
    case ZYDIS_MNEMONIC_RDMSR:
    case ZYDIS_MNEMONIC_WRMSR:
        return BT_TRAP_MSR;
    case ZYDIS_MNEMONIC_LGDT:
    case ZYDIS_MNEMONIC_LIDT:
    case ZYDIS_MNEMONIC_LLDT:
    case ZYDIS_MNEMONIC_LTR:
        return BT_TRAP_DESCRIPTOR;
    case ZYDIS_MNEMONIC_INVLPG:
        return BT_TRAP_INVLPG;
    default:
        return 0;
    }
}

/* Raises #GP at once, and a callout stands behind it. */
static bool left_to_trap(const struct sighting *s, u32 classes) {
    const u8 *next = s->at + s->insn.length;
    bool control = s->insn.mnemonic != ZYDIS_MNEMONIC_MOV;
    if (!(trap_class(s) & classes))
        return false;
    for (unsigned i = 0; i < s->insn.operand_count; i++) {
        const ZydisDecodedOperand *op = &s->ops[i];
        if (op->type == ZYDIS_OPERAND_TYPE_MEMORY &&
            (op->mem.base != ZYDIS_REGISTER_R15 || op->mem.index != ZYDIS_REGISTER_NONE))
            return false;
        if (op->type == ZYDIS_OPERAND_TYPE_REGISTER)
            control |= op->reg.value >= ZYDIS_REGISTER_CR0 && op->reg.value <= ZYDIS_REGISTER_CR4;
    }
    return control && next[0] == 0x41 && next[1] == 0xb8 && next[6] == 0x41 && next[7] == 0xb9;
}

static const char *instruction_sin(const struct sighting *s, u32 classes) {
    if (left_to_trap(s, classes))
        return NULL;
    if (s->insn.attributes & ZYDIS_ATTRIB_IS_PRIVILEGED)
        return "privileged";
    switch (s->insn.meta.category) {
    case ZYDIS_CATEGORY_SYSCALL:
    case ZYDIS_CATEGORY_SYSRET:
    case ZYDIS_CATEGORY_SYSTEM:
    case ZYDIS_CATEGORY_INTERRUPT:
    case ZYDIS_CATEGORY_IO:
    case ZYDIS_CATEGORY_IOSTRINGOP:
    case ZYDIS_CATEGORY_SEGOP:
    case ZYDIS_CATEGORY_XSAVE:
    case ZYDIS_CATEGORY_RDWRFSGS:
    case ZYDIS_CATEGORY_PKU:
        return "system instruction";
    default:
        break;
    }
    if (s->insn.encoding != ZYDIS_INSTRUCTION_ENCODING_LEGACY)
        return "not a legacy encoding";
    for (unsigned i = 0; i < s->insn.operand_count; i++) {
        const ZydisDecodedOperand *op = &s->ops[i];
        if (op->type == ZYDIS_OPERAND_TYPE_MEMORY) {
            const char *sin = memory_sin(s, op);
            if (sin)
                return sin;
        }
        bool write = op->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE;
        if (op->type == ZYDIS_OPERAND_TYPE_REGISTER && write && reserved(op->reg.value) &&
            !balanced_stack_use(s))
            return "reserved register written";
    }
    return NULL;
}

/* What Zydis has against the code; NULL if nothing. classes, known: as for the verifier. */
static const char *zydis_sin(const u8 *code, u32 bytes, u32 at, u32 classes,
                             bool (*known)(void *, u32), void *opaque, u32 *offset) {
    static const ZydisDecoder decoder = {.machine_mode = ZYDIS_MACHINE_MODE_LONG_64,
                                         .stack_width = ZYDIS_STACK_WIDTH_64};
    static u8 start[BT_MAX_UNIT_HOST_BYTES];
    memset(start, 0, sizeof start);
    u32 target[1024], targets = 0;
    for (u32 i = 0; i < bytes;) {
        struct sighting s = {.at = code + i, .start = code};
        *offset = i;
        if (!ZYAN_SUCCESS(ZydisDecoderDecodeFull(&decoder, code + i, bytes - i, &s.insn, s.ops)))
            return NULL; /* #UD on the host, which the monitor survives */
        start[i] = 1;
        const char *sin = instruction_sin(&s, classes);
        if (sin)
            return sin;
        i += s.insn.length;
        if (!s.insn.raw.imm[0].is_relative)
            continue;
        i64 to = (i64)i + s.insn.raw.imm[0].value.s;
        if (to >= 0 && to < bytes)
            target[targets++ % ARRAY_LEN(target)] = (u32)to;
        else if (!known(opaque, (u32)(to + at)))
            return "branch to an unknown place";
    }
    for (u32 i = 0; i < MIN(targets, ARRAY_LEN(target)); i++)
        if (!start[target[i]])
            return "branch into an instruction";
    return NULL;
}

static bool known_entry(void *opaque, u32 offset) {
    const struct bt *bt = opaque;
    for (u32 i = 0; i < bt->unit_count; i++)
        if (bt->unit[i].host_direct == offset)
            return true;
    return false;
}

static void mutate(u8 *code, u32 bytes) {
    static const u8 hot[] = {0x65, 0x67, 0x66, 0x48, 0x4c, 0x41, 0x0f, 0xff, 0xe9, 0xc3, 0xf3,
                             0x05, 0xcd, 0xa4, 0xaa, 0x9c, 0x9d, 0xf0, 0x8e, 0xee, 0x40, 0x49,
                             0xfa, 0xfb, 0xf4, 0x20, 0x22, 0x30, 0x32, 0x01, 0xec};
    for (unsigned n = 1 + (unsigned)(rnd() % 3); n > 0; n--) {
        u32 at = (u32)(rnd() % bytes);
        switch (rnd() & 3) {
        case 0:
            code[at] ^= (u8)(1u << (rnd() & 7));
            break;
        case 1:
            code[at] = (u8)rnd();
            break;
        case 2:
            code[at] = hot[rnd() % ARRAY_LEN(hot)];
            break;
        default: /* drop a byte: everything behind moves */
            memmove(code + at, code + at + 1, bytes - at - 1);
            break;
        }
    }
}

/* Units of both rings; those of ring 0 may leave these classes to trap. */
static void try_mutations(u32 trap_classes, bool checked) {
    struct bt_config config;
    bt_config_default(&config);
    config.cache_bytes = 4 << 20;
    config.trap_classes = trap_classes;
    struct world w;
    create_world(&w, &config);
    if (checked)
        check_all(&w);
    static u8 code[BT_MAX_UNIT_HOST_BYTES];
    unsigned accepted = 0, refused = 0;
    for (unsigned i = 0; i < 400; i++) {
        w.cpu->cpl = i & 1 ? 3 : 0;
        const struct bt_unit *u = &w.bt->unit[translate_random(&w)];
        u32 offset = 0, classes = u->cpl == 0 ? trap_classes : 0;
        const u8 *original = w.bt->cache_rx + u->host;
        const char *sin =
            zydis_sin(original, u->host_bytes, u->host, classes, known_entry, w.bt, &offset);
        if (sin)
            fail_msg("the oracle itself is wrong at %u: %s", offset, sin);
        for (unsigned m = 0; m < 400; m++) {
            memcpy(code, original, u->host_bytes);
            mutate(code, u->host_bytes);
            if (bt_verify_code(code, u->host_bytes, u->host, false, classes, known_entry, w.bt,
                               &offset)) {
                refused++;
                continue;
            }
            accepted++;
            sin = zydis_sin(code, u->host_bytes, u->host, classes, known_entry, w.bt, &offset);
            if (sin)
                fail_msg("accepted although %s: %02x %02x %02x %02x %02x %02x %02x %02x", sin,
                         code[offset], code[offset + 1], code[offset + 2], code[offset + 3],
                         code[offset + 4], code[offset + 5], code[offset + 6], code[offset + 7]);
        }
    }
    print_message("%u mutations refused, %u accepted as harmless\n", refused, accepted);
    assert_true(refused > accepted / 4 && accepted > 0);
    destroy_world(&w);
}

static void no_dangerous_mutation_passes(void **state) {
    (void)state;
    try_mutations(0, false);
}

static void no_dangerous_mutation_of_a_self_check_passes(void **state) {
    (void)state;
    try_mutations(0, true);
}
static void nor_where_privileged_instructions_are_left_to_trap(void **state) {
    (void)state;
    try_mutations(ALL_TRAP_CLASSES, false);
    try_mutations(BT_TRAP_CLI_STI, false);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(harmless_bodies_pass),
        cmocka_unit_test(escapes_are_refused),
        cmocka_unit_test(entries_and_ends_are_checked),
        cmocka_unit_test(what_the_translator_makes_passes),
        cmocka_unit_test(no_dangerous_mutation_passes),
        cmocka_unit_test(no_dangerous_mutation_of_a_self_check_passes),
        cmocka_unit_test(nor_where_privileged_instructions_are_left_to_trap),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
