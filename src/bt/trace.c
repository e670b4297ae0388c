/*
 * trace.c: what -d in_asm, out_asm and exec print about units, within -dfilter's ranges.
 */
#include "bt/bt_internal.h"

static void print_line(void *opaque, const char *line) {
    (void)opaque;
    trace_printf("%s\n", line);
}

/* Guest bytes of an instruction: a unit of one instruction may run into a second page. */
static u8 guest_byte(const struct translation *t, u32 offset) {
    const u8 *ram = mmu_ram(t->bt->cpu->mmu);
    u64 room = PAGE_BYTES - (t->gpa & PAGE_OFFSET_MASK);
    return t->page2 != UINT64_MAX && offset >= room ? ram[t->page2 + offset - room]
                                                    : ram[t->gpa + offset];
}

static void print_guest_code(const struct translation *t) {
    for (u32 i = 0; i < t->count; i++) {
        const struct bt_tinsn *ti = &t->insn[i];
        char text[96] = "(not decoded: left to the emulator)";
        trace_printf("0x%08x: ", ti->eip);
        for (u32 k = 0; k < MAX(ti->in.length, 8u); k++)
            if (k < ti->in.length)
                trace_printf(" %02x", guest_byte(t, ti->eip - t->eip + k));
            else
                trace_printf("   ");
        if (ti->in.length)
            insn_format(&ti->in, ti->eip, text, sizeof text);
        trace_printf("  %s\n", text);
    }
}

void bt_trace_translation(struct bt *bt, const struct translation *t, u32 unit) {
    const struct bt_unit *u = &bt->unit[unit];
    if (!trace_wants(u->eip, u->guest_bytes))
        return;
    if (trace_on(TRACE_in_asm)) {
        trace_printf("----------------\nIN: unit %u cpl %u gpa %08llx\n", unit, u->cpl,
                     (unsigned long long)u->gpa);
        print_guest_code(t);
    }
    if (trace_on(TRACE_out_asm)) {
        struct bt_unit_info info;
        trace_printf("OUT: ");
        if (bt_unit_at(bt, (u64)unit_direct_entry(bt, unit), &info))
            bt_dump_unit(bt, &info, print_line, NULL);
    }
}

void bt_trace_exec(const struct bt *bt, u32 unit) {
    const struct bt_unit *u = &bt->unit[unit];
    if (trace_wants(u->eip, 1))
        trace_printf("exec %08x cpl %u unit %u\n", u->eip, u->cpl, unit);
}
