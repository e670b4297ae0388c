/*
 * selfcheck.c: pages that mix code with data that is written, or code that is rewritten. Such a
 * page is not protected: its units begin with a comparison of their own source with what they were
 * made from, and end behind every instruction that may have changed what follows. Every way into a
 * unit (links, the view's table, returns, the dispatcher) meets the comparison, so that no write,
 * by whom and through which address ever, goes unnoticed before the next instruction; writes cost
 * nothing. Immediates that keep changing are no longer compared but read where they stand.
 *
 * The comparison leaves the flags alone: differences of 32 bits, added up in 64, are all zero if
 * their sum is.
 */
#include "bt/bt_internal.h"

#include <stdlib.h>

/* A page is worth it when the writes to it weigh so much. Kernels that patch their code once write
 * each place once; data beside code, and an immediate, are written again and again. */
#define HEAVY 1024
#define WEIGHT_OF_NEW_PLACE 1
#define WEIGHT_OF_OLD_PLACE 16
/* They must be among so many instructions that the emulator took. */
#define WRITES_AMONG 8192
/* Kicks (mostly timer interrupts of the guest) after which pages are tried as protected again. */
#define KICKS_CHECKED 1024

bool selfcheck_create(struct bt *bt) {
    bt->page_checked = calloc(bt->page_count, sizeof *bt->page_checked);
    bt->stale_unit = BT_NONE;
    if (bt->page_checked && bt->config.selfcheck_all)
        memset(bt->page_checked, true, bt->page_count * sizeof *bt->page_checked);
    return bt->page_checked;
}

void selfcheck_destroy(struct bt *bt) {
    free(bt->page_checked);
}

/* ---- Which pages ---- */

static void drop_units(struct bt *bt, u32 page) {
    while (bt->page_head[page] != BT_NONE)
        cache_invalidate_unit(bt, bt->page_head[page], BT_CAUSE_check);
}

/* From now on units made of the page protect it. */
static void end_checking(struct bt *bt, u32 index) {
    u32 page = bt->checked_page[index];
    bt->page_checked[page] = false;
    bt->checked_page[index] = bt->checked_page[--bt->checked_pages];
    drop_units(bt, page);
}

/* Sites that are callouts because they stored to the page need not be any more. */
static void forget_sites(struct bt *bt, u32 page) {
    for (u32 i = 0; i < ARRAY_LEN(bt->site); i++) {
        struct bt_site *s = &bt->site[i];
        if (s->page != page || !s->adapted)
            continue;
        s->adapted = false;
        s->faults = 0;
        cache_invalidate_range(bt, s->gpa, 1, BT_CAUSE_check);
    }
}

static void begin_checking(struct bt *bt, u32 page) {
    if (bt->checked_pages == BT_CHECKED_PAGES)
        end_checking(bt, page % BT_CHECKED_PAGES);
    bt->checked_page[bt->checked_pages++] = page;
    bt->page_checked[page] = true;
    drop_units(bt, page); /* the last one takes the protection with it */
    forget_sites(bt, page);
    bt->stats->checked_pages++;
}

void selfcheck_note_write(struct bt *bt, u64 gpa) {
    u32 page = (u32)(gpa >> PAGE_SHIFT);
    u64 now = bt->stats->exits_by_reason[BT_EXIT_EMULATE];
    struct bt_written_page *w = &bt->written[page % BT_WRITTEN_PAGES];
    if (!bt->config.selfcheck || bt->page_checked[page] || bt->page_head[page] == BT_NONE)
        return;
    if (w->page != page || now - w->since > WRITES_AMONG)
        *w = (struct bt_written_page){.page = page, .since = now};
    u32 at = (u32)gpa & PAGE_OFFSET_MASK;
    w->weight += w->at[at / 64] & BIT64(at % 64) ? WEIGHT_OF_OLD_PLACE : WEIGHT_OF_NEW_PLACE;
    w->at[at / 64] |= BIT64(at % 64);
    if (w->weight < HEAVY)
        return;
    w->weight = 0;
    begin_checking(bt, page);
}

/* A site without a callout that stored to a page with code: it had better fault, for the page is
 * soon one that checks itself, and what the site stores to next may be another page. */
bool selfcheck_spares_site(const struct bt *bt) {
    struct insn in;
    u64 gpa = bt->fault_gpa;
    size_t room = MIN(PAGE_BYTES - (gpa & PAGE_OFFSET_MASK), (u64)INSN_MAX_BYTES);
    return bt->config.selfcheck && bt->fault_page != BT_NONE &&
           insn_decode(&in, mmu_ram(bt->cpu->mmu) + gpa, room, true, true) == INSN_OK &&
           !bt_adapted_stays(&in);
}

void selfcheck_age(struct bt *bt) {
    if (!bt->checked_pages || bt->config.icount || ++bt->kicks < KICKS_CHECKED)
        return;
    bt->kicks = 0;
    while (bt->checked_pages)
        end_checking(bt, 0);
}

/* ---- Units found stale ---- */

/* The byte at this offset of the unit's source has changed: the site of the instruction if it is in
 * its immediate, else NULL. */
static struct bt_site *immediate_at(struct bt *bt, const struct bt_unit *u, u32 offset) {
    u32 guest = 0;
    for (u32 i = 0; i < u->pc_count; i++)
        if (bt->pc[u->pc_first + i].guest <= offset)
            guest = bt->pc[u->pc_first + i].guest;
    u64 gpa = u->gpa + guest;
    size_t room = MIN(PAGE_BYTES - (gpa & PAGE_OFFSET_MASK), (u64)INSN_MAX_BYTES);
    struct insn in;
    if (insn_decode(&in, mmu_ram(bt->cpu->mmu) + gpa, room, true, true) != INSN_OK ||
        offset - guest - in.imm_offset >= in.imm_bytes)
        return NULL;
    return site_at(bt, gpa);
}

static u8 source_byte(const struct bt *bt, const struct bt_unit *u, u32 offset) {
    u32 first =
        u->page2 == UINT64_MAX ? UINT32_MAX : (u32)(PAGE_BYTES - (u->gpa & PAGE_OFFSET_MASK));
    u64 gpa = offset < first ? u->gpa + offset : u->page2 + offset - first;
    return mmu_ram(bt->cpu->mmu)[gpa];
}

/* True when only immediates have changed, and none that is read in place where it can be. */
static bool learn(struct bt *bt, const struct bt_unit *u) {
    bool all = true;
    struct bt_site *last = NULL;
    for (u32 i = 0; i < u->check_count; i++) {
        const struct bt_check *c = &bt->check[u->check_first + i];
        for (u32 k = 0; k < c->bytes; k++)
            if (source_byte(bt, u, c->guest + k) != (u8)(c->expected >> (8 * k))) {
                struct bt_site *site = immediate_at(bt, u, c->guest + k);
                all &= site && (site == last || !site->live);
                if (site)
                    site->live = true;
                last = site;
            }
    }
    return all;
}

void selfcheck_drop_stale(struct bt *bt) {
    if (likely(bt->stale_unit == BT_NONE))
        return;
    struct bt_unit *u = &bt->unit[bt->stale_unit];
    if (!learn(bt, u)) /* code that changes as such must prove anew that it is hot */
        bt_cool(bt, u->gpa);
    cache_invalidate_unit(bt, bt->stale_unit, BT_CAUSE_stale);
    bt->stale_unit = BT_NONE;
    bt->stats->stale_units++;
}

/* ---- Where a unit ends ---- */

static bool memory_written(const struct insn *in) {
    switch (in->mnemonic) {
    case ZYDIS_MNEMONIC_CMP:
    case ZYDIS_MNEMONIC_TEST:
    case ZYDIS_MNEMONIC_BT:
        return false;
    case ZYDIS_MNEMONIC_XCHG:
        return (in->modrm >> 6) != 3;
    default:
        return in->op_count && in->op[0].type == OP_MEM;
    }
}

/* No row here: it may write, or a callout of it may. */
bool selfcheck_ends_unit(const struct bt_tinsn *ti) {
    const struct insn *in = &ti->in;
    if (ti->adapted)
        return true;
    switch (ti->class) {
    case BT_CLASS_NOP:
    case BT_CLASS_LEA:
    case BT_CLASS_POPA:
    case BT_CLASS_LEAVE:
    case BT_CLASS_JCC:
    case BT_CLASS_LOOP:
    case BT_CLASS_CLI:
    case BT_CLASS_STI:
    case BT_CLASS_RDTSC:
        return false;
    case BT_CLASS_PLAIN:
    case BT_CLASS_FP:
    case BT_CLASS_INCDEC:
        return memory_written(in);
    case BT_CLASS_MOV:
    case BT_CLASS_POP:
        return in->op[0].type != OP_REG || in->op[0].reg_class > RC_GPR32;
    case BT_CLASS_STRING:
        return (in->opcode & 0xfe) == 0xa4 || (in->opcode & 0xfe) == 0xaa; /* MOVS, STOS */
    default:
        return true;
    }
}

/* ---- The comparison ---- */

static void emit_piece(struct translation *t, const u8 *source, u32 from, u32 bytes) {
    struct bt *bt = t->bt;
    struct emit *e = &t->e;
    if (bt->check_count == bt->check_capacity) {
        t->failed = true;
        return;
    }
    bool first = bt->check_count == t->check_first;
    u32 expected = bytes == 4   ? load32(source + from)
                   : bytes == 2 ? load16(source + from)
                                : source[from];
    bt->check[bt->check_count++] =
        (struct bt_check){.expected = expected, .guest = (u16)from, .bytes = (u8)bytes};
    struct host_op load = {.map = bytes == 4 ? 0 : 1,
                           .opcode = bytes == 4   ? 0x8b
                                     : bytes == 2 ? 0xb7
                                                  : 0xb6,
                           .reg = first ? H_R8 : H_R9};
    emit_op_mem(e, load, source_mem(&t->insn[0], from));
    if (first) {
        EMIT_BYTES(e, 0x45, 0x8d, 0x80); /* lea r8d,[r8+disp32] */
        emit_u32(e, -expected);
        return;
    }
    EMIT_BYTES(e, 0x45, 0x8d, 0x89); /* lea r9d,[r9+disp32] */
    emit_u32(e, -expected);
    EMIT_BYTES(e, 0x4f, 0x8d, 0x04, 0x08); /* lea r8,[r8+r9] */
}

/* Pieces may overlap. */
static void emit_range(struct translation *t, const u8 *source, u32 from, u32 to) {
    while (to - from >= 4) {
        emit_piece(t, source, from, 4);
        from += 4;
        if (from < to && to - from < 4)
            from = to - 4;
    }
    if (to - from >= 2) {
        emit_piece(t, source, from, 2);
        from += 2;
    }
    if (to > from)
        emit_piece(t, source, from, 1);
}

static void emit_pieces(struct translation *t) {
    u8 source[BT_MAX_UNIT_INSNS * INSN_MAX_BYTES];
    u32 from = 0, to = 0;
    for (u32 i = 0; i < t->count; i++) {
        const struct bt_tinsn *ti = &t->insn[i];
        const struct insn *in = &ti->in;
        if (ti->class == BT_CLASS_EMULATE) /* fetched again by the emulator */
            break;
        to = ti->eip - t->eip + in->length;
        memcpy(source + to - in->length, in->bytes, in->length);
        if (!ti->live)
            continue;
        u32 immediate = to - in->length + in->imm_offset;
        emit_range(t, source, from, immediate);
        from = immediate + in->imm_bytes;
        t->bt->stats->live_immediates++;
    }
    emit_range(t, source, from, to);
}

void lower_self_check(struct translation *t) {
    struct emit *e = &t->e;
    translation_note_pc(t, 0, RECOVER_CHECK, 0);
    emit_pieces(t);
    if (t->bt->check_count == t->check_first)
        return;
    /* mov r9d,ecx; mov rcx,r8; jrcxz over what follows: mov ecx,r9d and the callout */
    EMIT_BYTES(e, 0x44, 0x8b, 0xc9, 0x49, 0x8b, 0xc8, 0xe3, 22);
    emit_mov_reg32(e, H_RCX, H_R9);
    lower_callout(t, CO_STALE, t->bt->unit_count, false);
    emit_mov_reg32(e, H_RCX, H_R9);
}

/* ---- Live immediates ---- */

/* Forms that lower_live and lower_branch.c know. */
static bool has_live_form(const struct bt_tinsn *ti) {
    const struct insn *in = &ti->in;
    u8 extension = (in->modrm >> 3) & 7;
    if (in->map != 0 || !in->imm_bytes || in->imm2)
        return false;
    bool word = in->op_bytes == 4;
    switch (ti->class) {
    case BT_CLASS_JMP:
    case BT_CLASS_CALL:
        return word && in->imm_bytes == 4;
    case BT_CLASS_PUSH:
        return word;
    case BT_CLASS_MOV:
        return (in->opcode >= 0xb0 && in->opcode <= 0xb7) ||
               (word && ((in->opcode >= 0xb8 && in->opcode <= 0xbf) || in->opcode == 0xc7));
    case BT_CLASS_PLAIN:
        return word && (in->opcode == 0x81 || in->opcode == 0x83 || in->opcode == 0xa9 ||
                        (in->opcode & 0xc7) == 0x05 || (in->opcode == 0xf7 && extension == 0));
    default:
        return false;
    }
}

bool selfcheck_immediate_is_live(const struct translation *t, const struct bt_tinsn *ti, u64 gpa) {
    return t->checked && !ti->adapted && site_live(t->bt, gpa) && has_live_form(ti);
}

static void load_immediate(struct translation *t, const struct bt_tinsn *ti, u8 reg) {
    struct host_op load = {.opcode = 0x8b, .reg = reg};
    if (ti->in.imm_bytes == 1)
        load = (struct host_op){.map = 1, .opcode = 0xbe, .reg = reg}; /* movsx */
    emit_op_mem(&t->e, load, source_mem(ti, ti->in.imm_offset));
}

/* The operation on r/m and a register, for that on r/m and an immediate. */
static void lower_live_rm(struct translation *t, const struct insn *in, u8 opcode) {
    struct host_op op = {.opcode = opcode, .reg = H_R9, .lock = in->lock};
    if (!in->has_modrm)
        emit_op_reg(&t->e, op, H_RAX);
    else if ((in->modrm >> 6) == 3)
        emit_op_reg(&t->e, op, host_reg(in->modrm & 7));
    else
        emit_op_mem(&t->e, op, lower_mem(t, in, 0));
}

bool lower_live(struct translation *t, const struct bt_tinsn *ti) {
    const struct insn *in = &ti->in;
    if (ti->class == BT_CLASS_JMP || ti->class == BT_CLASS_CALL)
        return false;
    if (ti->class == BT_CLASS_MOV && in->opcode != 0xc7) {
        u8 low = in->opcode & 7;
        bool byte = in->opcode < 0xb8;
        struct host_op op = {.opcode = byte ? 0x8a : 0x8b, .reg = byte ? low : host_reg(low)};
        emit_op_mem(&t->e, op, source_mem(ti, in->imm_offset));
        return true;
    }
    load_immediate(t, ti, H_R9);
    if (ti->class == BT_CLASS_PUSH) {
        emit_store32(&t->e, stack_mem(t, -4), H_R9);
        lower_settle_esp(t, -4);
    } else if (ti->class == BT_CLASS_MOV) {
        lower_live_rm(t, in, 0x89);
    } else if (in->opcode == 0xa9 || in->opcode == 0xf7) {
        lower_live_rm(t, in, 0x85);
    } else {
        u8 operation = in->has_modrm ? in->modrm & 0x38 : in->opcode & 0x38;
        lower_live_rm(t, in, operation | 1);
    }
    return true;
}
