/*
 * lower_stack.c: guest stack instructions. The guest's ESP is r12; the host's RSP is the return
 * stack and is never used for guest data. ESP moves only after every access has succeeded. Pushes
 * and pops in a row do not each move r12: the distance is kept in the translation (and in the PC
 * table, for faults) and settled before anything that looks at r12 itself. A chain of LEAs would
 * otherwise be as long as the prologue, where the hardware's stack engine has none.
 */
#include "bt/bt_internal.h"

#define FURTHEST_ESP 512

void lower_settle_esp(struct translation *t, i32 delta) {
    i32 total = t->esp_delta + delta;
    t->esp_delta = 0;
    if (total)
        emit_lea32(&t->e, H_R12, (struct host_mem){.base = H_R12, .index = H_NONE, .disp = total});
}

static void move_esp(struct translation *t, i32 delta) {
    t->esp_delta += delta;
    if (t->esp_delta < -FURTHEST_ESP || t->esp_delta > FURTHEST_ESP)
        lower_settle_esp(t, 0);
}

static void lower_push(struct translation *t, const struct insn *in) {
    struct emit *e = &t->e;
    i32 bytes = in->op_bytes;
    bool word = bytes == 2;
    const struct insn_op *op = &in->op[0];
    struct host_op store = {.p66 = word, .opcode = 0x89};
    if (op->type == OP_IMM) {
        store.opcode = 0xc7;
        emit_op_mem(e, store, stack_mem(t, -bytes));
        emit_imm(e, in->imm, (unsigned)bytes);
    } else {
        if (op->type == OP_MEM) {
            struct host_mem m = lower_mem(t, in, 0);
            emit_op_mem(e, (struct host_op){.p66 = word, .opcode = 0x8b, .reg = H_R9}, m);
            store.reg = H_R9;
        } else if (op->reg_class == RC_SEG) {
            /* The upper half of the pushed doubleword is zero, as on current processors. */
            emit_op_mem(e, (struct host_op){.map = 1, .opcode = 0xb7, .reg = H_R9},
                        hot_mem(HOT_SELECTORS + 2u * op->reg));
            store.reg = H_R9;
        } else {
            store.reg = host_reg(op->reg);
        }
        emit_op_mem(e, store, stack_mem(t, -bytes));
    }
    move_esp(t, -bytes);
}

/* POP Sreg: the callout loads the segment and only then moves ESP. */
static void lower_pop_segment(struct translation *t, const struct bt_tinsn *ti) {
    static const u8 callout[6] = {CO_LOAD_ES, 0, 0, CO_LOAD_DS, CO_LOAD_FS, CO_LOAD_GS};
    struct emit *e = &t->e;
    u8 seg = ti->in.op[0].reg;
    if (seg == SEG_SS || seg == SEG_CS) {
        lower_emulate(t, ti->eip);
        return;
    }
    /* All of the operand is read, as by POP to a register. */
    if (ti->in.op_bytes == 4) {
        emit_load32(e, H_R9, stack_mem(t, 0));
        emit_op_reg(e, (struct host_op){.map = 1, .opcode = 0xb7, .reg = H_R9}, H_R9);
    } else {
        emit_op_mem(e, (struct host_op){.map = 1, .opcode = 0xb7, .reg = H_R9}, stack_mem(t, 0));
    }
    emit_store32(e, hot_mem(HOT_ARG0), H_R9);
    emit_store_imm32(e, hot_mem(HOT_ARG1), t->next_eip);
    emit_store_imm32(e, hot_mem(HOT_ARG2), ti->in.op_bytes);
    lower_callout(t, callout[seg], ti->eip, true);
}

static void lower_pop(struct translation *t, const struct bt_tinsn *ti) {
    struct emit *e = &t->e;
    const struct insn *in = &ti->in;
    const struct insn_op *op = &in->op[0];
    i32 bytes = in->op_bytes;
    bool word = bytes == 2;
    if (op->type == OP_REG && op->reg_class == RC_SEG) {
        lower_pop_segment(t, ti);
        return;
    }
    if (op->type == OP_MEM) {
        /* An ESP base in the destination counts after the increment. */
        struct host_mem m = lower_mem(t, in, in->mem_base == R_ESP ? bytes : 0);
        emit_op_mem(e, (struct host_op){.p66 = word, .opcode = 0x8b, .reg = H_R9}, stack_mem(t, 0));
        emit_op_mem(e, (struct host_op){.p66 = word, .opcode = 0x89, .reg = H_R9}, m);
        move_esp(t, bytes);
        return;
    }
    struct host_op load = {.p66 = word, .opcode = 0x8b, .reg = host_reg(op->reg)};
    if (op->reg == R_ESP) { /* the popped value wins */
        if (word) {
            lower_emulate(t, ti->eip);
            return;
        }
        emit_op_mem(e, load, stack_mem(t, 0));
        t->esp_delta = 0;
        return;
    }
    emit_op_mem(e, load, stack_mem(t, 0));
    move_esp(t, bytes);
}

static void lower_pusha(struct translation *t) {
    for (int r = 0; r < 8; r++)
        emit_store32(&t->e, stack_mem(t, -4 * (r + 1)), host_reg((u8)r));
    lower_settle_esp(t, -32);
}

static void lower_popa(struct translation *t) {
    struct emit *e = &t->e;
    /* Upwards, so that CR2 is that of the first word to fault, and to no guest register before all
     * can be read. */
    for (int i = 0; i < 8; i++)
        if (i != 7 - R_ESP)
            emit_load32(e, H_R9, stack_mem(t, 4 * i));
    for (int r = 7; r > 0; r--)
        if (r != R_ESP)
            emit_load32(e, (u8)r, stack_mem(t, 4 * (7 - r)));
    emit_mov_reg32(e, H_RAX, H_R9);
    lower_settle_esp(t, 32);
}

static void lower_leave(struct translation *t) {
    struct emit *e = &t->e;
    emit_load32(e, H_R9, (struct host_mem){.base = H_RBP, .index = H_NONE, .window = true});
    emit_lea32(e, H_R12, (struct host_mem){.base = H_RBP, .index = H_NONE, .disp = 4});
    t->esp_delta = 0;
    emit_mov_reg32(e, H_RBP, H_R9);
}

void bt_lower_stack(struct translation *t, const struct bt_tinsn *ti) {
    switch (ti->class) {
    case BT_CLASS_PUSH:
        lower_push(t, &ti->in);
        break;
    case BT_CLASS_POP:
        lower_pop(t, ti);
        break;
    case BT_CLASS_PUSHA:
        lower_pusha(t);
        break;
    case BT_CLASS_POPA:
        lower_popa(t);
        break;
    default:
        lower_leave(t);
        break;
    }
}
