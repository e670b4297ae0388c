/*
 * One kernel in many directories: what the kernel maps later it enters in a reference directory,
 * and a process's own gets the entry at its first fault there, as Linux does for vmalloc; tables
 * that lie where no memory is. SDM volume 3A, section 4.10.4.3 "Optional Invalidation".
 * Expected: one fault for each directory and 4 MiB, with P=0 and by data as by fetch; no flush
 * needed for an entry that becomes present; an entry taken away is gone after a flush. A table
 * where nothing is reads as ones and its entries stay so.
 */
#include "guest.h"

enum { PROCESSES = 3, AREA = 0x30000000, AREAS = 4, NOWHERE = 0x60000000 };
#define ALL (PT_P | PT_W)
#define PAGE(n) (SCRATCH + (n)*4096u)
static u32 directories[PROCESSES][1024] __attribute__((aligned(4096)));
static u32 reference[1024] __attribute__((aligned(4096)));
static u32 tables[AREAS][1024] __attribute__((aligned(4096)));
static u32 current, faults, last_error;
CODE(load, "mov (%ecx),%eax" DONE);
CODE(store, "mov %edx,(%ecx)" DONE);
CODE(copy, "cld; mov %ecx,%esi; mov %edx,%edi; mov $8,%ecx; rep movsb" DONE);
CODE(call_it, "call *%ecx; mov %eax,%ebx" DONE);
CODE(callee, "mov $0x5ca1ab1e,%eax; ret");

static bool copy_entry(struct frame *f) {
    if (f->vector != V_PF)
        return false;
    u32 index = read_cr2() >> 22;
    if (directories[current][index] || !reference[index])
        return false;
    faults++;
    last_error = f->error;
    directories[current][index] = reference[index];
    return true;
}
static void switch_to(u32 process) {
    current = process;
    write_cr3((u32)directories[process]);
}
static u32 go(const u8 *code, u32 ecx, u32 edx) {
    reset_run(0);
    in.ecx = ecx;
    in.edx = edx;
    return run(0, code);
}
static u32 address(u32 area) {
    return AREA + (area << 22);
}
static void expect(u32 count, u32 error) {
    EQ(faults, count);
    if (count)
        EQ(last_error, error);
    faults = 0;
}

static void start(void) {
    for (u32 p = 0; p < PROCESSES; p++)
        memcpy(directories[p], page_directory, sizeof directories[p]);
    memcpy(reference, page_directory, sizeof reference);
    for (u32 area = 0; area < AREAS; area++) {
        memset(tables[area], 0, sizeof tables[area]);
        for (u32 i = 0; i < 4; i++) {
            tables[area][i] = PAGE(4 * area + i) | ALL;
            *(u32 *)PAGE(4 * area + i) = area * 16 + i;
        }
        memcpy((void *)PAGE(4 * area + 3), callee, 16);
    }
    faults = 0;
}

/* Each area is entered in a way of its own. */
static void first_access(u32 area, bool fault) {
    u32 at = address(area);
    switch (area) {
    case 0:
        EQ(go(load, at, 0), V_DONE);
        EQ(trap.eax, 0);
        expect(fault, 0);
        break;
    case 1:
        EQ(go(store, at, 16), V_DONE);
        expect(fault, 2);
        break;
    case 2:
        EQ(go(call_it, at + 3 * 4096, 0), V_DONE);
        EQ(trap.ebx, 0x5ca1ab1e);
        expect(fault, 0);
        break;
    default:
        EQ(go(copy, at - (1 << 22) + 4, at), V_DONE); /* from one area to another */
        expect(fault, 2);
        *(u32 *)PAGE(12) = 48;
    }
}

static void synchronisation(void) {
    start();
    trap_hook = copy_entry;
    for (u32 area = 0; area < AREAS; area++) {
        u32 at = address(area);
        reference[at >> 22] = (u32)tables[area] | ALL;
        for (u32 i = 0; i < 3 * PROCESSES; i++) {
            switch_to((i + area) % PROCESSES);
            bool first = i < PROCESSES;
            first_access(area, first);
            for (u32 page = 0; page < 3; page++) {
                EQ(go(load, at + page * 4096, 0), V_DONE);
                EQ(trap.eax, area * 16 + page);
            }
            EQ(go(call_it, at + 3 * 4096, 0), V_DONE);
            EQ(trap.ebx, 0x5ca1ab1e);
            expect(0, 0);
        }
        /* A page more in a table that all have: no fault, no flush. */
        tables[area][8] = PAGE(area) | ALL;
        for (u32 p = 0; p < PROCESSES; p++) {
            switch_to(p);
            tables[area][9 + p] = PAGE(20) | ALL;
            EQ(go(load, at + 8 * 4096, 0), V_DONE);
            EQ(go(load, at + (9 + p) * 4096, 0), V_DONE);
            expect(0, 0);
        }
    }
    trap_hook = NULL;
}

static void removal(void) {
    /* Taken away by vfree: entries cleared, one flush; the table stays. */
    for (u32 i = 0; i < 4; i++)
        tables[1][i] = 0, invlpg(address(1) + i * 4096);
    for (u32 p = 0; p < PROCESSES; p++) {
        switch_to(p);
        EQ(go(load, address(1), 0), V_PF);
        EQ(trap.error, 0);
        EQ(go(call_it, address(1) + 3 * 4096, 0), V_PF);
        EQ(go(load, address(2), 0), V_DONE);
    }
    /* A whole table taken away, from each directory. */
    for (u32 p = 0; p < PROCESSES; p++)
        directories[p][address(2) >> 22] = 0;
    write_cr4(read_cr4() ^ CR4_PGE);
    write_cr4(read_cr4() ^ CR4_PGE);
    for (u32 p = 0; p < PROCESSES; p++) {
        switch_to(p);
        EQ(go(load, address(2), 0), V_PF);
        EQ(go(call_it, address(2) + 3 * 4096, 0), V_PF);
        EQ(trap.eip, address(2) + 3 * 4096);
        EQ(go(load, address(3), 0), V_DONE);
        EQ(trap.eax, 48);
    }
    write_cr3((u32)page_directory);
}

/* The directory entry names a table where no memory is: all its entries read as ones. */
static void tables_nowhere(void) {
    static const u32 places[] = {NOWHERE, 0xfec00000u - 4096, 0xb0000};
    for (u32 i = 0; i < 3; i++) {
        page_directory[AREA >> 22] = places[i] | ALL | PT_U;
        write_cr3(read_cr3());
        EQ(go(load, AREA + 0x5008, 0), V_DONE);
        EQ(trap.eax, 0xffffffff); /* right below 4 GiB, where nothing is either */
        EQ(go(store, AREA + 0x5008, 5), V_DONE);
        EQ(go(load, AREA + 0x5008, 0), V_DONE);
        EQ(trap.eax, 0xffffffff);
        page_directory[AREA >> 22] = places[i] | PT_P;
        write_cr3(read_cr3());
        EQ(go(store, AREA + 0x5008, 5), V_PF);
        EQ(trap.error, 3);
        EQ(page_directory[AREA >> 22] & ~PT_A, places[i] | PT_P);
    }
    page_directory[AREA >> 22] = 0;
    write_cr3(read_cr3());
}

void test(void) {
    paging_prepare();
    paging_on();
    write_cr0(read_cr0() | CR0_WP);
    synchronisation();
    removal();
    if (!is_tcg()) /* QEMU reads zeroes there, and has a ROM below 4 GiB */
        tables_nowhere();
    paging_off();
}
