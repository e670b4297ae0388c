/*
 * target_translate.c: any bytes as guest code: decoded in every mode, classified, and translated in
 * every configuration. Every unit that comes out passes the verifier.
 *
 * Input: a byte of configuration, a byte of CPU state, where in its page the code begins (2 bytes),
 * the code.
 */
#include "target.h"

#include "bt/bt_internal.h"

enum { RAM_BYTES = 2 << 20, CODE_AT = 0x100000 };
enum { ALL_TRAP_CLASSES = (1 << BT_TRAP_CLASS_COUNT) - 1 };

/* Configuration bits. */
enum { C_RETSTACK = 1, C_ICOUNT = 2, C_LOCKSTEP = 4, C_TRAPS = 8, C_ADAPTED = 16, C_ICACHE = 32 };
#define CONFIGURATIONS 64u

static struct cpu *new_cpu(void) {
    struct mmu_error err;
    struct cpu *cpu = cpu_create();
    CLAIM(cpu);
    cpu->mmu = mmu_create(RAM_BYTES, &err);
    CLAIM(cpu->mmu);
    cpu_reset(cpu);
    cpu->cr0 = CR0_PE | CR0_NE | CR0_ET;
    cpu->cr4 = CR4_OSFXSR;
    for (unsigned s = SEG_ES; s <= SEG_GS; s++)
        cpu->seg[s] = (struct segment){.selector = 0x10,
                                       .attr = ATTR_P | ATTR_S | ATTR_W | ATTR_A | ATTR_DB | ATTR_G,
                                       .limit = 0xffffffff};
    cpu->seg[SEG_CS].attr |= ATTR_CODE;
    return cpu;
}

static struct cpu *the_cpu;
static struct bt *the_bt;
static void destroy(void) {
    bt_destroy(the_bt);
    mmu_destroy(the_cpu->mmu);
    cpu_destroy(the_cpu);
}

/* One translator after the other: they share the process's fault handler. */
static struct bt *translator(u8 bits) {
    static u8 had;
    char err[160];
    struct bt_config config;
    if (the_bt && had == bits)
        return the_bt;
    if (!the_cpu) {
        the_cpu = new_cpu();
        atexit(destroy);
    }
    if (the_bt)
        bt_destroy(the_bt);
    bt_config_default(&config);
    config.cache_bytes = 1 << 20;
    config.hot_threshold = 0;
    config.retstack = bits & C_RETSTACK;
    config.icache = bits & C_ICACHE;
    config.icount = bits & C_ICOUNT;
    config.lockstep = bits & C_LOCKSTEP;
    config.trap_classes = bits & C_TRAPS ? ALL_TRAP_CLASSES : 0;
    the_bt = bt_create(the_cpu, &config, err, sizeof err);
    CLAIM(the_bt);
    had = bits;
    return the_bt;
}

static void decode_everywhere(const u8 *code, size_t bytes, u8 cpl) {
    for (unsigned mode = 0; mode < 4; mode++) {
        struct insn in;
        char text[64];
        enum insn_status status = insn_decode(&in, code, bytes, mode & 1, mode & 2);
        if (status != INSN_OK)
            continue;
        CLAIM(in.length && in.length <= INSN_MAX_BYTES && in.length <= bytes);
        CLAIM(insn_format(&in, 0x1000, text, sizeof text) && strlen(text) < sizeof text);
        CLAIM(bt_class_of(&in, cpl, true) < BT_CLASS_COUNT);
        bt_trap_class_of(&in);
    }
}

/* Every site that could be, is adapted. */
static void adapt(struct bt *bt, u32 at, size_t bytes) {
    for (u32 i = 0; i < bytes; i++)
        site_note_fault(bt, at + i, BT_NONE, 1);
}

/* The pages check themselves, and immediates are read where they stand. */
static void check_pages(struct bt *bt, bool checked, bool live, u32 at, size_t bytes) {
    for (u32 page = CODE_AT >> PAGE_SHIFT; page <= (CODE_AT >> PAGE_SHIFT) + 2; page++)
        bt->page_checked[page] = checked;
    for (u32 i = 0; i < bytes; i++)
        site_at(bt, at + i)->live = live;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes) {
    struct input in = input_of(data, bytes);
    u8 bits = take8(&in) % CONFIGURATIONS, state = take8(&in);
    u32 at = CODE_AT + take16(&in) % PAGE_BYTES;
    size_t left = MIN((size_t)(in.end - in.at), (size_t)0x1000);
    struct bt *bt = translator(bits);
    struct cpu *cpu = bt->cpu;
    u8 *ram = mmu_ram(cpu->mmu);
    bt_flush(bt);
    memset(ram + CODE_AT, 0xf4, 3 * PAGE_BYTES);
    memcpy(ram + at, in.at, left);
    cpu->cpl = state & 1 ? 3 : 0;
    cpu->cr0 = CR0_PE | CR0_NE | CR0_ET | (state & 2 ? CR0_TS : 0) | (state & 4 ? CR0_EM : 0);
    cpu->cr4 = state & 8 ? 0 : CR4_OSFXSR;
    bt->fp_ok = bt_fp_allowed(cpu);
    if (bits & C_ADAPTED)
        adapt(bt, at, left);
    check_pages(bt, state & 16, state & 32, at, left);
    for (size_t i = 0; i < left && i < 64; i++)
        decode_everywhere(in.at + i, left - i, cpu->cpl);
    /* Units that overlap, and begin inside instructions. */
    for (u32 n = 0, offset = 0; offset <= left && n < 5; n++, offset += 1 + (n ^ state) % 4) {
        u32 where = 0, unit;
        cpu->eip = at + offset;
        unit = bt_translate(bt, cpu->eip, cpu->eip);
        CLAIM(unit != BT_NONE);
        const char *wrong = bt_verify(bt, &bt->unit[unit], &where);
        if (wrong)
            fprintf(stderr, "unit %08x, host offset %u: %s\n", cpu->eip, where, wrong);
        CLAIM(!wrong);
        CLAIM(bt->unit[unit].guest_bytes <= 2 * PAGE_BYTES);
    }
    return 0;
}
