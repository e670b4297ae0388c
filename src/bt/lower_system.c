/*
 * lower_system.c: sensitive instructions that are cheap inline or by a light callout: virtual IF,
 * flag images, segment registers, control-register reads, INT, IRET, SYSENTER, SYSEXIT, RDTSC.
 */
#include "bt/bt_internal.h"

/* RFLAGS of an unprivileged process apart from the arithmetic flags: IF and the fixed bit. */
#define HOST_FLAGS_REST 0x202

static void lower_pushf(struct translation *t) {
    struct emit *e = &t->e;
    emit_u8(e, 0x9c); /* pushfq */
    emit_u8(e, 0x41); /* pop r8 */
    emit_u8(e, 0x58);
    /* The bit sets are disjoint: LEA adds them without touching the flags. */
    emit_load32(e, H_R9, hot_mem(HOT_FLAG_IF));
    emit_lea32(
        e, H_R8,
        (struct host_mem){.base = H_R8, .index = H_R9, .scale = 1, .disp = -HOST_FLAGS_REST});
    emit_load32(e, H_R9, hot_mem(HOT_FLAG_REST));
    emit_lea32(e, H_R8, (struct host_mem){.base = H_R8, .index = H_R9, .scale = 1});
    emit_store32(e, stack_mem(t, -4), H_R8);
    lower_settle_esp(t, -4);
}

static void lower_popf_callout(struct translation *t, const struct bt_tinsn *ti) {
    struct emit *e = &t->e;
    emit_store32(e, hot_mem(HOT_ARG0), H_R9);
    emit_store_imm32(e, hot_mem(HOT_ARG1), t->next_eip);
    lower_callout(t, CO_POPF, ti->eip, true);
}

/* At CPL 0, an image that leaves the system flags but IF as they are is taken inline: every flag is
 * dead once the image is loaded. Then a poll, because IF may have opened. */
static void lower_popf_inline(struct translation *t, const struct bt_tinsn *ti) {
    struct emit *e = &t->e;
    struct host_op xor = {.opcode = 0x33, .reg = H_R8};
    emit_mov_reg32(e, H_R8, H_R9);
    emit_op_mem(e, xor, hot_mem(HOT_FLAG_REST));
    EMIT_BYTES(e, 0x41, 0xf7, 0xc0); /* test r8d, imm32 */
    emit_u32(e, POPF_SLOW_FLAGS);
    EMIT_BYTES(e, 0x75, 56); /* jnz to the callout */
    emit_mov_reg32(e, H_R8, H_R9);
    EMIT_BYTES(e, 0x41, 0x81, 0xe0); /* and r8d, imm32 */
    emit_u32(e, F_IF);
    emit_store32(e, hot_mem(HOT_FLAG_IF), H_R8);
    emit_mov_reg32(e, H_R10, H_RAX);
    EMIT_BYTES(e, 0x41, 0x0f, 0xb6, 0xc1, /* movzx eax, r9b */
               0xc1, 0xe0, 0x08,          /* shl eax, 8 */
               0x41, 0xc1, 0xe9, 0x0b,    /* shr r9d, 11 */
               0x41, 0x83, 0xe1, 0x01,    /* and r9d, 1 */
               0x41, 0x0b, 0xc1,          /* or eax, r9d */
               0x04, 0x7f,                /* add al, 7fh: OF */
               0x9e);                     /* sahf */
    emit_mov_reg32(e, H_RAX, H_R10);
    translation_note_pc(t, (u16)(t->next_eip - t->eip), RECOVER_POPF, (u8)(t->current + 1));
    emit_load64(e, H_R9, hot_mem(HOT_STI_POLL));
    emit_load32(e, H_R9, (struct host_mem){.base = H_R9, .index = H_NONE});
    EMIT_BYTES(e, 0xeb, 37); /* over the callout */
    translation_note_pc(t, (u16)(ti->eip - t->eip), RECOVER_PLAIN, (u8)t->current);
    lower_popf_callout(t, ti);
}

static void lower_popf(struct translation *t, const struct bt_tinsn *ti) {
    emit_load32(&t->e, H_R9, stack_mem(t, 0));
    lower_settle_esp(t, 4);
    if (t->cpl == 0)
        lower_popf_inline(t, ti);
    else
        lower_popf_callout(t, ti);
}

static void lower_sti(struct translation *t, const struct bt_tinsn *ti) {
    struct emit *e = &t->e;
    emit_store_imm32(e, hot_mem(HOT_FLAG_IF), F_IF);
    translation_note_pc(t, (u16)(t->next_eip - t->eip), RECOVER_STI, (u8)(t->current + 1));
    emit_load64(e, H_R9, hot_mem(HOT_STI_POLL));
    emit_load32(e, H_R9, (struct host_mem){.base = H_R9, .index = H_NONE});
    (void)ti;
}

static void lower_mov_to_segment(struct translation *t, const struct bt_tinsn *ti) {
    static const u8 callout[6] = {CO_LOAD_ES, 0, 0, CO_LOAD_DS, CO_LOAD_FS, CO_LOAD_GS};
    struct emit *e = &t->e;
    const struct insn *in = &ti->in;
    u8 seg = in->op[0].reg;
    if (seg == SEG_SS || seg == SEG_CS) { /* shadow; #UD */
        lower_emulate(t, ti->eip);
        return;
    }
    struct host_op movzx = {.map = 1, .opcode = 0xb7, .reg = H_R9};
    if (in->op[1].type == OP_MEM) {
        struct host_mem m = lower_mem(t, in, 0);
        emit_op_mem(e, movzx, m);
    } else {
        emit_op_reg(e, movzx, host_reg(in->op[1].reg));
    }
    emit_store32(e, hot_mem(HOT_ARG0), H_R9);
    emit_store_imm32(e, hot_mem(HOT_ARG1), t->next_eip);
    emit_store_imm32(e, hot_mem(HOT_ARG2), 0);
    lower_callout(t, callout[seg], ti->eip, true);
}

static void lower_mov_from_segment(struct translation *t, const struct insn *in) {
    struct emit *e = &t->e;
    struct host_mem selector = hot_mem(HOT_SELECTORS + 2u * in->op[1].reg);
    if (in->op[0].type == OP_MEM) {
        emit_op_mem(e, (struct host_op){.map = 1, .opcode = 0xb7, .reg = H_R9}, selector);
        struct host_mem m = lower_mem(t, in, 0);
        emit_op_mem(e, (struct host_op){.p66 = true, .opcode = 0x89, .reg = H_R9}, m);
        return;
    }
    u8 reg = host_reg(in->op[0].reg);
    if (in->op_bytes == 2)
        emit_op_mem(e, (struct host_op){.p66 = true, .opcode = 0x8b, .reg = reg}, selector);
    else
        emit_op_mem(e, (struct host_op){.map = 1, .opcode = 0xb7, .reg = reg}, selector);
}

static void lower_mov_from_cr(struct translation *t, const struct bt_tinsn *ti) {
    static const u32 hot[5] = {HOT_CR0, 0, HOT_CR2, HOT_CR3, HOT_CR4};
    u8 cr = ti->in.op[1].reg;
    if (cr > 4 || hot[cr] == 0)
        lower_emulate(t, ti->eip);
    else
        emit_load32(&t->e, host_reg(ti->in.op[0].reg), hot_mem(hot[cr]));
}

static void lower_mov(struct translation *t, const struct bt_tinsn *ti) {
    const struct insn_op *dst = &ti->in.op[0], *src = &ti->in.op[1];
    if (dst->type == OP_REG && dst->reg_class == RC_SEG)
        lower_mov_to_segment(t, ti);
    else if (src->type == OP_REG && src->reg_class == RC_SEG)
        lower_mov_from_segment(t, &ti->in);
    else if (src->type == OP_REG && src->reg_class == RC_CR)
        lower_mov_from_cr(t, ti);
    else
        lower_plain(t, &ti->in);
}

/* EDX:EAX = host TSC + delta. The flags go through EAX, which is about to be written anyway. */
static void lower_rdtsc_inline(struct translation *t) {
    static const u8 begin[] = {0x9f,                   /* lahf */
                               0x0f, 0x90, 0xc0,       /* seto al */
                               0x44, 0x0f, 0xb7, 0xc0, /* movzx r8d, ax */
                               0x0f, 0x31,             /* rdtsc */
                               0x48, 0xc1, 0xe2, 0x20, /* shl rdx, 32 */
                               0x48, 0x09, 0xd0};      /* or rax, rdx */
    static const u8 end[] = {0x48, 0x89, 0xc2,         /* mov rdx, rax */
                             0x48, 0xc1, 0xea, 0x20,   /* shr rdx, 32 */
                             0x44, 0x8b, 0xc8,         /* mov r9d, eax */
                             0x41, 0x8b, 0xc0,         /* mov eax, r8d */
                             0x04, 0x7f,               /* add al, 7fh: OF */
                             0x9e,                     /* sahf */
                             0x41, 0x8b, 0xc1};        /* mov eax, r9d */
    emit_bytes(&t->e, begin, sizeof begin);
    emit_op_mem(&t->e, (struct host_op){.opcode = 0x03, .reg = H_RAX, .rex_w = true},
                hot_mem(HOT_TSC_DELTA));
    emit_bytes(&t->e, end, sizeof end);
}

static void lower_rdtsc(struct translation *t, const struct bt_tinsn *ti) {
    bool denied = t->cpl == 3 && (t->bt->cpu->cr4 & CR4_TSD);
    if (!t->bt->tsc_inline || denied)
        lower_emulate(t, ti->eip);
    else
        lower_rdtsc_inline(t);
}

static void lower_invlpg(struct translation *t, const struct bt_tinsn *ti) {
    struct host_mem m = lower_mem(t, &ti->in, 0);
    m.window = false;
    emit_lea32(&t->e, H_R9, m);
    emit_store32(&t->e, hot_mem(HOT_ARG0), H_R9);
    emit_store_imm32(&t->e, hot_mem(HOT_ARG1), t->next_eip);
    lower_callout(t, CO_INVLPG, ti->eip, true);
}

static void lower_ac(struct translation *t, const struct bt_tinsn *ti) {
    u32 ac = ti->in.mnemonic == ZYDIS_MNEMONIC_STAC ? F_AC : 0;
    emit_store_imm32(&t->e, hot_mem(HOT_ARG0), ac);
    lower_callout(t, CO_AC, ti->eip, true);
}

static void lower_io(struct translation *t, const struct bt_tinsn *ti) {
    struct emit *e = &t->e;
    u8 opcode = ti->in.opcode; /* E4-E7 name the port, EC-EF take it from DX; bit 1: OUT */
    u32 bytes = opcode & 1 ? ti->in.op_bytes : 1;
    if (opcode & 8)
        emit_store32(e, hot_mem(HOT_ARG0), H_RDX);
    else
        emit_store_imm32(e, hot_mem(HOT_ARG0), (u8)ti->in.imm);
    emit_store_imm32(e, hot_mem(HOT_ARG1), t->next_eip);
    emit_store_imm32(e, hot_mem(HOT_ARG2), bytes | (opcode & 2 ? IO_OUT : 0));
    lower_callout(t, CO_IO, ti->eip, true);
}

static void lower_write_cr(struct translation *t, const struct bt_tinsn *ti) {
    struct emit *e = &t->e;
    bool clts = ti->in.mnemonic == ZYDIS_MNEMONIC_CLTS;
    if (!clts)
        emit_store32(e, hot_mem(HOT_ARG0), host_reg(ti->in.op[1].reg));
    emit_store_imm32(e, hot_mem(HOT_ARG1), t->next_eip);
    emit_store_imm32(e, hot_mem(HOT_ARG2), clts ? CR_CLTS : ti->in.op[0].reg);
    lower_callout(t, CO_WRITE_CR, ti->eip, true);
}

static void lower_light(struct translation *t, const struct bt_tinsn *ti) {
    if (ti->in.mnemonic == ZYDIS_MNEMONIC_IN || ti->in.mnemonic == ZYDIS_MNEMONIC_OUT)
        lower_io(t, ti);
    else if (ti->in.mnemonic == ZYDIS_MNEMONIC_CPUID)
        lower_callout(t, CO_CPUID, ti->eip, true);
    else
        lower_write_cr(t, ti);
}

static void lower_leaving(struct translation *t, unsigned callout, u32 eip) {
    emit_store_imm32(&t->e, hot_mem(HOT_ARG1), t->next_eip);
    lower_callout(t, callout, eip, false);
    t->ended = true;
}

void bt_lower_system(struct translation *t, const struct bt_tinsn *ti) {
    switch (ti->class) {
    case BT_CLASS_MOV:
        lower_mov(t, ti);
        break;
    case BT_CLASS_PUSHF:
        lower_pushf(t);
        break;
    case BT_CLASS_POPF:
        lower_popf(t, ti);
        break;
    case BT_CLASS_CLI:
        emit_store_imm32(&t->e, hot_mem(HOT_FLAG_IF), 0);
        break;
    case BT_CLASS_STI:
        lower_sti(t, ti);
        break;
    case BT_CLASS_INT:
        emit_store_imm32(&t->e, hot_mem(HOT_ARG0), (u8)ti->in.imm);
        lower_leaving(t, CO_INT, ti->eip);
        break;
    case BT_CLASS_IRET:
        lower_leaving(t, CO_IRET, ti->eip);
        break;
    case BT_CLASS_SYSENTER:
        lower_leaving(t, CO_SYSENTER, ti->eip);
        break;
    case BT_CLASS_SYSEXIT:
        lower_leaving(t, CO_SYSEXIT, ti->eip);
        break;
    case BT_CLASS_INVLPG:
        lower_invlpg(t, ti);
        break;
    case BT_CLASS_AC:
        lower_ac(t, ti);
        break;
    case BT_CLASS_LIGHT:
        lower_light(t, ti);
        break;
    default:
        lower_rdtsc(t, ti);
        break;
    }
}
