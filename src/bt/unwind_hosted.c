/*
 * unwind_hosted.c: tells libunwind how to walk through translated code. Every translated frame
 * looks the same: RSP is the return stack, the return address lies at [rsp], nothing else is saved.
 * So one FDE stands for the whole cache, registered once; the stubs around it describe themselves
 * with the directives in entry.S.
 *
 * The format is that of .eh_frame: Linux Standard Base Core 5.0, section 10.6 "Exception Frames".
 */
#include "bt/bt_internal.h"

#define UNW_LOCAL_ONLY
#include <libunwind.h>
#include <stdlib.h>

/* DWARF 5, section 7.24 "Call Frame Information"; x86-64 psABI, section 3.6.2, register numbers. */
enum {
    DW_CFA_nop = 0x00,
    DW_CFA_def_cfa = 0x0c,
    DW_CFA_offset = 0x80,
    DWARF_RSP = 7,
    DWARF_RETURN_ADDRESS = 16,
    DATA_ALIGN_MINUS_8 = 0x78 /* SLEB128 */
};

/* libunwind's binary search table: offsets from start_ip and from segbase. */
struct table_entry {
    i32 start_ip_offset, fde_offset;
};

struct unwind_entry {
    unw_dyn_info_t info;
    /* libunwind 1.6 looks for a function's end in the row behind it, hence the second one. */
    struct table_entry table[2];
    struct {
        u32 bytes; /* that follow */
        u32 id;    /* 0: a CIE */
        u8 version, augmentation, code_align, data_align, return_address;
        u8 program[7];
    } cie;
    struct {
        u32 bytes;
        u32 cie_offset; /* from this field back to the CIE */
        u64 start, size;
        u8 program[8];
    } __attribute__((packed)) fde;
    u32 end; /* a length of 0 */
};
_Static_assert(sizeof(((struct unwind_entry *)0)->cie) == 20, "no padding inside");
_Static_assert(sizeof(struct table_entry) == sizeof(unw_word_t), "one word per row");

void unwind_register(struct bt *bt) {
    struct unwind_entry *u = calloc(1, sizeof *u);
    if (!u)
        return;
    u->cie.bytes = sizeof u->cie - sizeof u->cie.bytes;
    u->cie.version = 1;
    u->cie.code_align = 1;
    u->cie.data_align = DATA_ALIGN_MINUS_8;
    u->cie.return_address = DWARF_RETURN_ADDRESS;
    const u8 program[] = {DW_CFA_def_cfa, DWARF_RSP, 8, DW_CFA_offset | DWARF_RETURN_ADDRESS, 1};
    memcpy(u->cie.program, program, sizeof program);
    u->fde.bytes = sizeof u->fde - sizeof u->fde.bytes;
    u->fde.cie_offset = (u32)((u8 *)&u->fde.cie_offset - (u8 *)&u->cie);
    u->fde.start = (u64)bt->cache_rx;
    u->fde.size = bt->cache_bytes;
    for (unsigned i = 0; i < ARRAY_LEN(u->table); i++)
        u->table[i] = (struct table_entry){.start_ip_offset = i ? (i32)bt->cache_bytes : 0,
                                           .fde_offset = (i32)((u8 *)&u->fde - (u8 *)u)};
    u->info.start_ip = (u64)bt->cache_rx;
    u->info.end_ip = (u64)bt->cache_rx + bt->cache_bytes;
    u->info.format = UNW_INFO_FORMAT_IP_OFFSET;
    u->info.u.rti.segbase = (u64)u;
    u->info.u.rti.table_data = (u64)u->table;
    u->info.u.rti.table_len = sizeof u->table / sizeof(unw_word_t);
    bt->unwind = u;
    _U_dyn_register(&u->info);
}

void unwind_unregister(struct bt *bt) {
    if (!bt->unwind)
        return;
    _U_dyn_cancel(&bt->unwind->info);
    unw_flush_cache(unw_local_addr_space, bt->unwind->info.start_ip, bt->unwind->info.end_ip);
    free(bt->unwind);
    bt->unwind = NULL;
}
