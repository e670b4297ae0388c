/*
 * lower_branch.c: transfers of control. Direct branches leave through slots that are linked to
 * their target unit; at CPL 3 a branch to another page, and every indirect branch, goes through the
 * view's jump table, so that no link outlives the mapping it was made under. CALL and RET pair on
 * the host's return stack: the continuation after the host call compares the guest EIP that RET
 * loaded with the one it stands for.
 */
#include "bt/bt_internal.h"

static bool same_page(const struct translation *t, u32 target) {
    return t->page2 == UINT64_MAX && ((target ^ t->eip) & ~PAGE_OFFSET_MASK) == 0;
}

static struct host_mem view_entry(u32 eip) {
    return (struct host_mem){
        .base = H_R13, .index = H_NONE, .disp = (i32)((eip & (VIEW_ENTRIES - 1)) * 8)};
}

/* Emits opcode bytes and a rel32 for a new slot (opcode2 0: one byte). */
u8 *lower_slot_jump(struct translation *t, u8 opcode1, u8 opcode2, u32 target_eip) {
    struct bt *bt = t->bt;
    struct emit *e = &t->e;
    if (bt->slot_count == bt->slot_capacity) {
        t->failed = true;
        return NULL;
    }
    emit_u8(e, opcode1);
    if (opcode2)
        emit_u8(e, opcode2);
    struct bt_slot *slot = &bt->slot[bt->slot_count++];
    *slot = (struct bt_slot){
        .patch = (u32)(e->p - bt->cache_rw),
        .target_eip = target_eip,
        .target = BT_NONE,
        .next_incoming = BT_NONE,
        .same_page = same_page(t, target_eip),
    };
    emit_u32(e, 0);
    return e->p;
}

static void lower_view_transfer(struct translation *t, u32 target_eip, bool call) {
    emit_mov_imm32(&t->e, H_R8, target_eip);
    emit_op_mem(&t->e, (struct host_op){.opcode = 0xff, .reg = call ? 2 : 4},
                view_entry(target_eip));
}

static bool needs_view(const struct translation *t, u32 target_eip) {
    return t->cpl == 3 && !same_page(t, target_eip);
}

void lower_exit(struct translation *t, u32 target_eip) {
    if (needs_view(t, target_eip))
        lower_view_transfer(t, target_eip, false);
    else
        lower_slot_jump(t, 0xe9, 0, target_eip);
    t->ended = true;
}

/* The stub a slot's branch goes to until it is linked. */
static void emit_slot_stub(struct translation *t, u32 index) {
    struct bt_slot *slot = &t->bt->slot[index];
    slot->stub = (u32)(t->e.p - t->bt->cache_rw);
    if (needs_view(t, slot->target_eip))
        lower_view_transfer(t, slot->target_eip, false);
    else
        lower_callout(t, CO_LINK, index, false);
    if (!t->e.overflow)
        store32(t->bt->cache_rw + slot->patch, slot->stub - (slot->patch + 4));
}

void lower_slot_stubs(struct translation *t) {
    for (u32 i = t->slot_first; i < t->bt->slot_count; i++)
        emit_slot_stub(t, i);
}

/* r8d = target EIP. */
static void lower_indirect(struct translation *t, bool call) {
    struct emit *e = &t->e;
    emit_lea32(e, H_R9, (struct host_mem){.base = H_NONE, .index = H_R8, .scale = 4});
    emit_op_reg(e, (struct host_op){.map = 1, .opcode = 0xb7, .reg = H_R9}, H_R9);
    emit_op_mem(e, (struct host_op){.opcode = 0xff, .reg = call ? 2 : 4},
                (struct host_mem){.base = H_R13, .index = H_R9, .scale = 2});
}

/* Compares r8d with an EIP; falls through when equal, else jumps through the stub pointer at
 * hot_stub. By LEA and JECXZ, because the flags must survive either way: whoever is reached after a
 * miss may want them. */
void lower_eip_check(struct translation *t, u32 eip, u32 hot_stub) {
    struct emit *e = &t->e;
    emit_mov_reg32(e, H_R9, H_RCX);
    emit_lea32(e, H_RCX, (struct host_mem){.base = H_R8, .index = H_NONE, .disp = (i32)-eip});
    emit_u8(e, 0x67); /* jecxz over the 3-byte mov and the 7-byte jmp */
    emit_u8(e, 0xe3);
    emit_u8(e, 10);
    emit_mov_reg32(e, H_RCX, H_R9);
    emit_op_mem(e, (struct host_op){.opcode = 0xff, .reg = 4}, hot_mem(hot_stub));
    emit_mov_reg32(e, H_RCX, H_R9);
}

/* Loads the target of an indirect branch, or of one that is rewritten, into r8d. */
static void load_target(struct translation *t, const struct bt_tinsn *ti) {
    const struct insn *in = &ti->in;
    if (ti->live) {
        emit_load32(&t->e, H_R8, source_mem(ti, in->imm_offset));
        emit_lea32(&t->e, H_R8,
                   (struct host_mem){.base = H_R8, .index = H_NONE, .disp = (i32)t->next_eip});
    } else if (in->op[0].type == OP_REG) {
        emit_mov_reg32(&t->e, H_R8, host_reg(in->op[0].reg));
    } else {
        struct host_mem m = lower_mem(t, in, 0);
        emit_load32(&t->e, H_R8, m);
    }
}

static void push_return(struct translation *t) {
    struct emit *e = &t->e;
    emit_op_mem(e, (struct host_op){.opcode = 0xc7}, stack_mem(t, -4));
    emit_u32(e, t->next_eip);
    lower_settle_esp(t, -4);
}

/* After a host call: the place RET comes back to. */
static void lower_continuation(struct translation *t) {
    struct bt *bt = t->bt;
    if (bt->cont_count == bt->cont_capacity) {
        t->failed = true;
        return;
    }
    bt->cont[bt->cont_count++] = (u32)(t->e.p - bt->cache_rw);
    lower_eip_check(t, t->next_eip, HOT_STUB_RETURN_MISS);
}

static bool backward(const struct bt_tinsn *ti, u32 target) {
    return target <= ti->eip;
}

/* No poll where calls pair: a loop of calls alone overflows the return stack, and that fault looks
 * for kicks (fault.c). */
static void lower_call(struct translation *t, const struct bt_tinsn *ti) {
    const struct insn *in = &ti->in;
    bool pair = t->bt->config.retstack;
    if (!pair)
        lower_poll(t);
    if (in->op[0].type == OP_IMM && !ti->live) {
        u32 target = t->next_eip + (u32)in->imm;
        push_return(t);
        if (needs_view(t, target))
            lower_view_transfer(t, target, pair);
        else
            lower_slot_jump(t, pair ? 0xe8 : 0xe9, 0, target);
    } else {
        load_target(t, ti);
        push_return(t);
        lower_indirect(t, pair);
    }
    if (pair)
        lower_continuation(t);
    else
        t->ended = true;
}

static void lower_ret(struct translation *t, const struct bt_tinsn *ti) {
    struct emit *e = &t->e;
    bool pair = t->bt->config.retstack;
    if (!pair)
        lower_poll(t);
    emit_load32(e, H_R8, stack_mem(t, 0));
    lower_settle_esp(t, 4 + (i32)(u16)ti->in.imm);
    if (pair)
        emit_u8(e, 0xc3);
    else
        lower_indirect(t, false);
    t->ended = true;
}

static void lower_jmp(struct translation *t, const struct bt_tinsn *ti) {
    if (ti->in.op[0].type == OP_IMM && !ti->live) {
        u32 target = t->next_eip + (u32)ti->in.imm;
        if (backward(ti, target))
            lower_poll(t);
        lower_exit(t, target);
        return;
    }
    lower_poll(t);
    load_target(t, ti);
    lower_indirect(t, false);
    t->ended = true;
}

static void lower_jcc(struct translation *t, const struct bt_tinsn *ti) {
    u32 target = t->next_eip + (u32)ti->in.imm;
    if (backward(ti, target))
        lower_poll(t);
    lower_slot_jump(t, 0x0f, 0x80 | (ti->in.opcode & 15), target);
}

/* loop/jecxz have only a short form: over a short jmp to a slot's jmp. */
static void lower_loop(struct translation *t, const struct bt_tinsn *ti) {
    struct emit *e = &t->e;
    u32 target = t->next_eip + (u32)ti->in.imm;
    if (backward(ti, target))
        lower_poll(t);
    emit_u8(e, 0x67);
    emit_u8(e, ti->in.opcode);
    emit_u8(e, 2);
    emit_u8(e, 0xeb);
    emit_u8(e, 5);
    lower_slot_jump(t, 0xe9, 0, target);
}

void bt_lower_branch(struct translation *t, const struct bt_tinsn *ti) {
    switch (ti->class) {
    case BT_CLASS_JMP:
        lower_jmp(t, ti);
        break;
    case BT_CLASS_JCC:
    case BT_CLASS_LOOP:
        if (ti->class == BT_CLASS_JCC)
            lower_jcc(t, ti);
        else
            lower_loop(t, ti);
        if (t->straight)
            lower_exit(t, t->next_eip);
        break;
    case BT_CLASS_CALL:
        lower_call(t, ti);
        break;
    default:
        lower_ret(t, ti);
        break;
    }
}
