/*
 * bench_decode.c: reading guest code: our decoder (Zydis and the compact form), Zydis alone,
 * Capstone, and what the translator asks about each instruction.
 */
#include "world.h"

#include <Zydis/Zydis.h>
#include <capstone/capstone.h>

static void report(struct gb_state *state, unsigned insns, size_t bytes) {
    gb_set_items(state, gb_iterations_done(state) * insns);
    gb_set_bytes(state, gb_iterations_done(state) * (int64_t)bytes);
    gb_set_counter(state, "insns", insns, GB_COUNT);
    gb_set_counter(state, "bytes", (double)bytes, GB_COUNT);
}

static size_t sample_bytes(void) {
    return (size_t)(sample_code_end - sample_code);
}

static void decode(struct gb_state *state, void *user) {
    (void)user;
    u32 offset[SAMPLE_MAX_INSNS];
    unsigned n = sample_offsets(offset);
    struct insn in;
    while (gb_keep_running(state))
        for (unsigned i = 0; i < n; i++) {
            insn_decode(&in, sample_code + offset[i], sample_bytes() - offset[i], true, true);
            gb_use(in.length);
        }
    report(state, n, sample_bytes());
}

static void decode_zydis(struct gb_state *state, void *user) {
    (void)user;
    u32 offset[SAMPLE_MAX_INSNS];
    unsigned n = sample_offsets(offset);
    ZydisDecoder decoder;
    ZydisDecodedInstruction in;
    ZydisDecodedOperand operands[ZYDIS_MAX_OPERAND_COUNT];
    ZydisDecoderInit(&decoder, ZYDIS_MACHINE_MODE_LEGACY_32, ZYDIS_STACK_WIDTH_32);
    while (gb_keep_running(state))
        for (unsigned i = 0; i < n; i++) {
            ZydisDecoderDecodeFull(&decoder, sample_code + offset[i], sample_bytes() - offset[i],
                                   &in, operands);
            gb_use(in.length);
        }
    report(state, n, sample_bytes());
}

static void decode_capstone(struct gb_state *state, void *user) {
    (void)user;
    csh capstone;
    if (cs_open(CS_ARCH_X86, CS_MODE_32, &capstone) != CS_ERR_OK) {
        gb_skip_with_error(state, "Capstone did not start");
        return;
    }
    cs_option(capstone, CS_OPT_DETAIL, CS_OPT_ON);
    cs_insn *in = cs_malloc(capstone);
    unsigned n = 0;
    while (gb_keep_running(state)) {
        const u8 *code = sample_code;
        size_t left = sample_bytes();
        uint64_t address = 0;
        for (n = 0; cs_disasm_iter(capstone, &code, &left, &address, in); n++)
            gb_use(in->id);
    }
    report(state, n, sample_bytes());
    cs_free(in, 1);
    cs_close(&capstone);
}

static void classify(struct gb_state *state, void *user) {
    (void)user;
    static struct insn in[SAMPLE_MAX_INSNS];
    u32 offset[SAMPLE_MAX_INSNS];
    unsigned n = sample_offsets(offset);
    for (unsigned i = 0; i < n; i++)
        insn_decode(&in[i], sample_code + offset[i], sample_bytes() - offset[i], true, true);
    while (gb_keep_running(state))
        for (unsigned i = 0; i < n; i++) {
            u16 read, written;
            bt_flags_of(&in[i], &read, &written);
            gb_use(bt_class_of(&in[i], 0, true) + read + written);
        }
    report(state, n, sample_bytes());
}

void bench_decode_register(void) {
    gb_register("decode/insn", decode, NULL);
    gb_register("decode/zydis", decode_zydis, NULL);
    gb_register("decode/capstone", decode_capstone, NULL);
    gb_register("classify", classify, NULL);
}
