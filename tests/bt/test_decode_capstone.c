/*
 * test_decode_capstone.c: insn_decode against an independent decoder on random bytes. Every
 * difference must be one of those decided below; in each of them hardware sides with us.
 */
#include "isa/insn.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <capstone/capstone.h>
#include <cmocka.h>

enum { SAMPLES = 300000 };

static u64 next_random(u64 *seed) {
    *seed ^= *seed << 13;
    *seed ^= *seed >> 7;
    *seed ^= *seed << 17;
    return *seed;
}

static void random_bytes(u64 *seed, u8 bytes[16]) {
    static const u8 likely_bytes[] = {0x66, 0x67, 0xf2, 0xf3, 0x0f, 0x0f, 0x64, 0x2e, 0xf0};
    for (unsigned i = 0; i < 16; i++) {
        u64 r = next_random(seed);
        bytes[i] = i < 4 && (r & 3) == 0 ? likely_bytes[(r >> 8) % ARRAY_LEN(likely_bytes)]
                                         : (u8)(r >> 16);
    }
}

struct scan {
    bool lock, operand_size, repeat, address_size;
    u8 opcode;    /* first opcode byte */
    u8 second;    /* the one after 0F */
    u8 following; /* the byte behind the opcode */
};

static struct scan scan_prefixes(const u8 *p) {
    struct scan s = {0};
    for (;; p++) {
        if (*p == 0xf0)
            s.lock = true;
        else if (*p == 0x66)
            s.operand_size = true;
        else if (*p == 0x67)
            s.address_size = true;
        else if (*p == 0xf2 || *p == 0xf3)
            s.repeat = true;
        else if (*p != 0x26 && *p != 0x2e && *p != 0x36 && *p != 0x3e && *p != 0x64 && *p != 0x65)
            break;
    }
    s.opcode = p[0];
    s.second = p[1];
    s.following = p[2];
    return s;
}

/* Capstone decodes, we refuse. */
static bool capstone_is_too_generous(const struct scan *s) {
    if (s->lock) /* LOCK on anything: hardware raises #UD */
        return true;
    if (s->opcode == 0x8e) /* MOV to CS or to segment registers 6 and 7 */
        return true;
    if (s->opcode == 0xc4 || s->opcode == 0xc5 || s->opcode == 0x62 || s->opcode == 0x8f)
        return true; /* VEX, EVEX, XOP: the guest has no AVX */
    if (s->opcode != 0x0f)
        return false;
    switch (s->second) {
    case 0x0f: /* 3DNow! */
        return true;
    case 0x20:
    case 0x22: /* control registers that do not exist */
        return true;
    case 0x37: /* GETSEC and the VMX pair take no prefix */
    case 0x77:
    case 0x78:
    case 0x79:
    case 0xae:
    case 0xc3:
    case 0xc7:
        return s->repeat || s->operand_size;
    case 0x38:
    case 0x3a:
        return s->repeat || s->operand_size;
    default: /* an MMX or SSE opcode with a prefix that selects no instruction */
        return s->repeat || s->operand_size || s->second == 0x13 || s->second == 0x17;
    }
}

/* We decode, Capstone does not know the encoding (or got 66 or a repeat prefix before SSE wrong).
 */
static bool capstone_does_not_know(const struct insn *in, const struct scan *s) {
    switch (in->mnemonic) {
    case ZYDIS_MNEMONIC_NOP: /* hint NOPs 0F 1A..1F, 0F 0D */
    case ZYDIS_MNEMONIC_PREFETCH:
    case ZYDIS_MNEMONIC_PREFETCHW:
    case ZYDIS_MNEMONIC_PREFETCHWT1:
    case ZYDIS_MNEMONIC_UD0:    /* has a ModRM byte */
    case ZYDIS_MNEMONIC_MFENCE: /* any rm field */
    case ZYDIS_MNEMONIC_LFENCE:
    case ZYDIS_MNEMONIC_SFENCE:
    case ZYDIS_MNEMONIC_LDDQU: /* without prefixes it would not be LDDQU */
        return true;
    default:
        break;
    }
    if (s->opcode != 0x0f)
        return s->operand_size && s->repeat; /* F3 66 A0..A3 */
    return s->operand_size || s->repeat || s->second == 0x01 || s->second == 0x38 ||
           s->second == 0xae || s->second == 0xc7;
}

static bool lengths_may_differ(const struct insn *in, const struct scan *s) {
    if (in->mnemonic == ZYDIS_MNEMONIC_UD1 || in->mnemonic == ZYDIS_MNEMONIC_UD0)
        return true; /* Capstone leaves out the ModRM byte */
    if (in->mnemonic == ZYDIS_MNEMONIC_INSERTQ || in->mnemonic == ZYDIS_MNEMONIC_EXTRQ)
        return true; /* SSE4a: taken for VMREAD */
    /* 66 F2 E8: Capstone lets F2 (BND) hide the operand size */
    return s->operand_size && s->repeat;
}

static void lengths_agree_but_for_the_decided_differences(void **state) {
    (void)state;
    csh handle[2];
    cs_insn *other[2];
    assert_int_equal(cs_open(CS_ARCH_X86, CS_MODE_16, &handle[0]), CS_ERR_OK);
    assert_int_equal(cs_open(CS_ARCH_X86, CS_MODE_32, &handle[1]), CS_ERR_OK);
    other[0] = cs_malloc(handle[0]);
    other[1] = cs_malloc(handle[1]);
    u64 seed = 0x123456789abcdef;
    unsigned same = 0;
    for (unsigned i = 0; i < SAMPLES; i++) {
        u8 bytes[16];
        random_bytes(&seed, bytes);
        unsigned code32 = i & 1;
        struct insn in;
        unsigned ours = insn_decode(&in, bytes, 16, code32, code32) == INSN_OK ? in.length : 0;
        const u8 *at = bytes;
        size_t left = 15;
        uint64_t address = 0;
        unsigned theirs = cs_disasm_iter(handle[code32], &at, &left, &address, other[code32])
                              ? other[code32]->size
                              : 0;
        if (ours == theirs) {
            same++;
            continue;
        }
        struct scan s = scan_prefixes(bytes);
        bool decided = ours == 0     ? capstone_is_too_generous(&s)
                       : theirs == 0 ? capstone_does_not_know(&in, &s)
                                     : lengths_may_differ(&in, &s);
        if (!decided)
            fail_msg("code%u %02x %02x %02x %02x %02x %02x: %u bytes here, %u there",
                     code32 ? 32 : 16, bytes[0], bytes[1], bytes[2], bytes[3], bytes[4], bytes[5],
                     ours, theirs);
    }
    assert_true(same > SAMPLES / 100 * 98);
    for (unsigned i = 0; i < 2; i++) {
        cs_free(other[i], 1);
        cs_close(&handle[i]);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(lengths_agree_but_for_the_decided_differences),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
