/*
 * shadow.h: shadow descriptors for direct execution. An application that runs untranslated in
 * compatibility mode has a second GDT and LDT beneath it, in which the guest's own descriptors
 * stand at the guest's own selectors, so that it sees its selectors, reloads its segments and
 * inspects descriptors as on the real machine.
 *
 * A descriptor of the guest is, for a program in ring 3, one of three things:
 *   hidden    neither loading nor LAR, LSL, VERR, VERW tells it from an absent one: absent here
 *   mirrored  present code or data, DPL 3 or conforming, accessed, no L bit: here bit by bit
 *   opaque    a program could tell that it is there, but it must not stand here: system descriptors
 *             of DPL 3, those not present, with the L bit, or not yet accessed (the processor would
 *             set the bit in the copy), and those in the monitor's slots: absent here
 * Whatever is absent faults when loaded (LAR and the like say no), and the emulator goes by the
 * guest's tables. While a table holds an opaque descriptor the state does not run directly, so that
 * nothing is answered wrongly; translated code runs, and loads set the accessed bits as usual.
 *
 * Nothing here trusts the guest: no table makes a real entry that lets ring 3 leave 32-bit mode or
 * gain privilege. Compiled without floating point, calls no libc, allocates nothing: may run in
 * trap handlers with the guest's x87 and SSE state live.
 *
 * DEVIATION: changes that a running application makes to its descriptor tables through a second
 * mapping of their pages (or that a device makes by DMA) take effect when the monitor next runs,
 * not with the next load of a segment.
 */
#ifndef RINGFOLD_RINGCOMP_SHADOW_H
#define RINGFOLD_RINGCOMP_SHADOW_H

#include "base/base.h"
#include "base/cpu.h"

enum {
    RC_SHADOW_ENTRIES = 8192,    /* of each table */
    RC_SHADOW_GDT_FREE = 0x1ffe, /* entries of the real GDT from here on are the monitor's */
    RC_SHADOW_PAGES = 17         /* that 64 KiB can touch */
};

struct rc_shadow_table {
    u64 *real;       /* the table the processor uses; entry i is made of seen[i] alone */
    u32 first, free; /* entries that may be mirrored: GDT 1 to 1FFDh, LDT all */
    u32 base, count; /* the guest's table as last seen: linear address, entries */
    u32 opaque;      /* entries that keep the state from running directly */
    _Alignas(16)
        u64 seen[RC_SHADOW_ENTRIES]; /* the guest's entries as last seen; zero beyond its limit */
};
/* A page of a guest's table in RAM: the entries that lie wholly in it. */
struct rc_shadow_page {
    const u8 *raw;
    u64 *seen;
    u32 count;
    u32 first;      /* index of the first of them */
    bool straddled; /* one more begins here and ends in the next page */
    struct rc_shadow_table *table;
};
/* A word of the paging structures that leads to such a page: the bits of `mask` count. */
struct rc_shadow_watch {
    const u64 *at;
    u64 value, mask;
};

/* About 135 KiB; allocated by the caller, one per CPU; holds pointers to itself. Private to
 * shadow.c but for `lenient`. */
struct rc_shadow {
    /* Set by the engine: run in spite of opaque descriptors, for guests that keep DPL-3 ones which
     * nobody ever loads.
     * DEVIATION: LAR, LSL, VERR and VERW in ring 3 then deny that these exist. */
    bool lenient;
    bool in_step; /* the last sync found both tables */
    bool known;   /* the registers below were found ready, and the tables have not changed since */
    u32 cr0;      /* where the tables were found: these, LDTR, and what is watched */
    u64 cr3_cr4, gdtr;
    _Alignas(16) u64 segments[14]; /* ES to LDTR */
    u32 watches, pages;
    u32 plain_blocks; /* the only page holds that many times 16 entries, aligned; 0: otherwise */
    struct rc_shadow_watch watch[2 * RC_SHADOW_PAGES * 4];
    struct rc_shadow_page page[2 * RC_SHADOW_PAGES];
    struct rc_shadow_table gdt, ldt;
};

/* Empties both tables (the monitor's entries of the GDT stay) and starts over. gdt, ldt: 8192
 * entries each, 8-byte aligned (pages, for speed), outliving *s. False when they are not. */
bool rc_shadow_init(struct rc_shadow *s, u64 *gdt, u64 *ldt);

/* Brings the real tables in step with the guest's GDT and LDT as they are in memory now. False when
 * they cannot be shown to ring 3 as they are: a page of one is not mapped, not RAM or may be
 * written by ring 3 (so that the copy would go stale under the application), or there are opaque
 * descriptors. Raises no guest exception and leaves the guest's paging structures alone: their
 * accessed bits are as for a processor that holds the tables' pages in its TLB. SDM volume 3,
 * section 3.5.1 "Segment Descriptor Tables". */
bool rc_shadow_sync(struct rc_shadow *s, struct cpu *cpu);

/* True when reloading all six segment registers' selectors from the real tables, as the return to
 * ring 3 does, cannot fault and gives exactly cpu->seg. Null selectors 1 to 3 are not: IRET makes 0
 * of them. After rc_shadow_sync. */
bool rc_shadow_matches(const struct rc_shadow *s, const struct cpu *cpu);

/* After direct execution and before the next sync: the processor's selectors, in the order of enum
 * seg. Those that differ from cpu->seg's are loaded there from the guest's descriptors; the checks
 * were the processor's. CS changes by far transfers, at CPL 3. */
void rc_shadow_reload(struct rc_shadow *s, struct cpu *cpu, const u16 selectors[6]);

/* May this state run directly, as far as registers tell? Ring 3 of paged protected mode with IF=1
 * and IOPL=0 (POPF would not trap), no single step, alignment checks (the host's CR0.AM is 0),
 * breakpoints or interrupt shadow, with x87 and SSE allowed and no x87 error waiting at FERR#. The
 * stack must be a 32-bit one: the return to ring 3 restores only SP of others; and EIP within CS,
 * or that return would fault. */
bool rc_direct_state(const struct cpu *cpu);

/* All of it, for every entry to ring 3: rc_direct_state, rc_shadow_sync and rc_shadow_matches. What
 * was found is remembered and, while registers, paging structures and every entry of the tables
 * have the same values, used again: 144 host instructions with Linux's GDT and no LDT, of which
 * three for two entries; about 1,040 when one has changed. Borrows two SSE registers, which are the
 * guest's, and gives them back. */
bool rc_shadow_ready(struct rc_shadow *s, struct cpu *cpu);

#endif
