/*
 * verify_trap.c: the privileged host instructions that translated kernel code may hold, byte for
 * byte, where bt_config.trap_classes leaves them in place. All raise #GP outside ring 0 before they
 * do anything: lower_trap.c says why. Nothing here is shared with the code that emits them.
 *
 * Compiled for general registers only: traps are counted with the guest's x87 and SSE state live.
 */
#include "bt/bt_internal.h"

/* IN and OUT: 66 selects the word; AL has no other size. */
static unsigned io_form(const u8 *p, size_t room) {
    unsigned prefix = p[0] == 0x66;
    if (room < prefix + 1u)
        return 0;
    u8 opcode = p[prefix];
    bool immediate = opcode >= 0xe4 && opcode <= 0xe7, dx = opcode >= 0xec && opcode <= 0xef;
    if ((!immediate && !dx) || (prefix && !(opcode & 1)))
        return 0;
    unsigned length = prefix + (immediate ? 2 : 1);
    return length <= room ? length : 0;
}

/* MOV to and from CR0, CR2, CR3, CR4; guest ESP is r12, and no other register needs a prefix. */
static unsigned mov_cr_form(const u8 *p, size_t room) {
    unsigned prefix = p[0] == 0x41;
    if (room < prefix + 3u)
        return 0;
    p += prefix;
    u8 cr = p[2] >> 3 & 7, gpr = p[2] & 7;
    bool form = p[0] == 0x0f && (p[1] == 0x20 || p[1] == 0x22) && p[2] >= 0xc0;
    bool exists = cr == 0 || (cr >= 2 && cr <= 4);
    return form && exists && (gpr == 4) == (prefix == 1) ? prefix + 3 : 0;
}

struct fixed_form {
    u8 bytes[4];
    u8 length;
    bool hot; /* and the distance of HOT_SCRATCH from r15 */
    u32 class;
};
static const struct fixed_form fixed_forms[] = {
    {{0xfa}, 1, false, BT_TRAP_CLI_STI},                     /* cli */
    {{0xfb}, 1, false, BT_TRAP_CLI_STI},                     /* sti */
    {{0xf4}, 1, false, BT_TRAP_HLT},                         /* hlt */
    {{0x0f, 0x06}, 2, false, BT_TRAP_CR},                    /* clts */
    {{0x0f, 0x01, 0xf0}, 3, false, BT_TRAP_CR},              /* lmsw ax */
    {{0x0f, 0x30}, 2, false, BT_TRAP_MSR},                   /* wrmsr */
    {{0x0f, 0x32}, 2, false, BT_TRAP_MSR},                   /* rdmsr */
    {{0x0f, 0x00, 0xd0}, 3, false, BT_TRAP_DESCRIPTOR},      /* lldt ax */
    {{0x0f, 0x00, 0xd8}, 3, false, BT_TRAP_DESCRIPTOR},      /* ltr ax */
    {{0x41, 0x0f, 0x01, 0x97}, 4, true, BT_TRAP_DESCRIPTOR}, /* lgdt [r15+..] */
    {{0x41, 0x0f, 0x01, 0x9f}, 4, true, BT_TRAP_DESCRIPTOR}, /* lidt [r15+..] */
    {{0x41, 0x0f, 0x01, 0xbf}, 4, true, BT_TRAP_INVLPG},     /* invlpg [r15+..] */
};

static bool fixed_form_at(const struct fixed_form *f, const u8 *p, size_t room) {
    if (room < f->length + (f->hot ? 4u : 0u) || memcmp(p, f->bytes, f->length) != 0)
        return false;
    return !f->hot || load32(p + f->length) == HOT_SCRATCH;
}

unsigned bt_privileged_form(const u8 *code, size_t room, u32 *class) {
    unsigned length;
    if (room == 0)
        return 0;
    *class = BT_TRAP_IO;
    if ((length = io_form(code, room)))
        return length;
    *class = BT_TRAP_CR;
    if ((length = mov_cr_form(code, room)))
        return length;
    for (size_t i = 0; i < ARRAY_LEN(fixed_forms); i++) {
        const struct fixed_form *f = &fixed_forms[i];
        if (fixed_form_at(f, code, room)) {
            *class = f->class;
            return f->length + (f->hot ? 4 : 0);
        }
    }
    *class = 0;
    return 0;
}

void bt_count_trap(struct bt *bt, u64 pc) {
    u64 offset = bt_plain_address(bt, pc) - (u64)bt->cache_rx;
    u32 class;
    if (offset < bt->cache_used &&
        bt_privileged_form(bt->cache_rx + offset, bt->cache_used - offset, &class))
        bt->stats->traps_by_class[__builtin_ctz(class)]++;
}
