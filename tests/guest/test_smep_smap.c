/*
 * Supervisor-mode execution and access prevention: what ring 0 may do with user pages under
 * CR4.SMEP, CR4.SMAP and EFLAGS.AC, in both table formats. SDM volume 3A, section 4.6.1
 * "Determination of Access Rights", 4.7 "Page-Fault Exceptions"; volume 2, "CLAC", "STAC".
 * Expected: fetches fault under SMEP; explicit data accesses fault under SMAP unless AC=1,
 * implicit ones (descriptor tables, TSS, the frame of an interrupt from ring 3) whatever AC is and
 * whatever the CPL; ring 3 notices nothing; error codes have I/D under SMEP.
 * OPTIONS: -cpu max
 */
#include "guest.h"

enum {
    AREA = 0x30000000, /* user pages: code, two of data */
    DATA = AREA + 0x1000,
    PRIVATE = AREA + 0x3000, /* a supervisor page: what DATA maps */
    ALONE = 0x31000000,      /* DATA again, with no supervisor page in the same 4 MiB */
    TABLES = 0x30400000,     /* aliases of descriptor tables: a supervisor page, a user page */
    P = 1,
    W = 2,
    U = 4,
    I = 16, /* error code */
    V_SOFT = 0x90
};
#define CR4_SMEP (1u << 20)
#define CR4_SMAP (1u << 21)

CODE(land, DONE);
CODE(load, "mov (%ecx),%eax" DONE);
CODE(store, "mov %edx,(%ecx)" DONE);
CODE(modify, "add %edx,(%ecx)" DONE);
CODE(exchange, "mov $5,%eax; lock cmpxchg %edx,(%ecx)" DONE);
CODE(push_memory, "push (%ecx); pop %eax" DONE);
CODE(pop_memory, "push %edx; pop (%ecx)" DONE);
CODE(copy_in, "mov %ecx,%esi; mov %edx,%edi; mov $4,%ecx; rep movsl" DONE);
CODE(copy_out, "mov %ecx,%edi; mov %edx,%esi; mov $4,%ecx; rep movsl" DONE);
CODE(fill, "mov %ecx,%edi; mov $16,%ecx; rep stosb" DONE);
CODE(compare, "mov %ecx,%esi; mov %ecx,%edi; mov $4,%ecx; repe cmpsl" DONE);
CODE(sixteen, "movups (%ecx),%xmm0; movups %xmm0,(%ecx)" DONE);
CODE(bracketed,
     "stac; pushf; pop %ebx; mov (%ecx),%eax; clac; pushf; pop %ebp; mov (%ecx),%esi" DONE);
CODE(by_popf, "pushf; pop %eax; or $0x40000,%eax; push %eax; popf; mov (%ecx),%ebx;"
              "and $~0x40000,%eax; push %eax; popf; mov (%ecx),%esi" DONE);
CODE(flags_stay, "mov $0x8d5,%eax; push %eax; popf; stac; pushf; pop %ebx; clac; pushf; pop %ebp;"
                 "push $2; popf" DONE);
CODE(do_stac, "stac" DONE);
CODE(do_clac, "clac" DONE);
CODE(jump_it, "jmp *%ecx");
CODE(call_it, "call *%ecx; ud2");
CODE(return_to, "push %ecx; ret");
CODE(straddle, "mov $0x12345678,%eax" DONE);
CODE(stack_on, "mov %esp,%ebp; mov %ecx,%esp; push %edx; pop %eax; mov %ebp,%esp" DONE);
CODE(interrupt, "int $0x90");
CODE(touch_and_interrupt, "mov (%ecx),%eax; int $0x90; mov (%ecx),%ebx" DONE);
CODE(two_interrupts, "int $0x90; int $0x80");
CODE(interrupt_on, "mov %ecx,%esp; int $0x80");
CODE(load_segment, "mov %edx,%fs" DONE);
CODE(port_in, "in %dx,%al" DONE);

static bool pae, smep, smap;
static u8 code_page[4096] __attribute__((aligned(4096)));
static u32 data_page[2048] __attribute__((aligned(4096)));
static u8 table_pages[8192] __attribute__((aligned(4096)));

static void set(u32 at, u32 physical, u32 flags) {
    if (pae)
        *pae_pte(at) = physical | flags;
    else
        *pte(at) = physical | flags;
    invlpg(at);
}
/* The kernel is the supervisor's, but for the stack of ring 3. */
static void privatize(void) {
    for (u32 at = 0; at < 32 << 20; at += 4096) {
        bool user = at >= ((u32)user_stack & ~0xfffu) && at < USER_STACK_TOP;
        set(at, at, PT_P | PT_W | (user ? PT_U : 0));
    }
}
static void enable(bool e, bool a) {
    smep = e, smap = a;
    u32 cr4 = read_cr4() & ~(CR4_SMEP | CR4_SMAP);
    write_cr4(cr4 | (e ? CR4_SMEP : 0) | (a ? CR4_SMAP : 0));
}
static void clear_ac(void) {
    __asm__ volatile("push $2; popf" ::: "cc", "memory");
}

static u32 at_ring(u32 ring, const void *code, u32 ecx, u32 edx, u32 flags) {
    reset_run(ring);
    in.ecx = ecx;
    in.edx = edx;
    in.eflags |= flags;
    u32 number = run(ring, code);
    clear_ac(); /* a trap leaves AC as it was */
    return number;
}
static void faults(u32 ring, const void *code, u32 ecx, u32 flags, u32 error, u32 cr2) {
    EQ(at_ring(ring, code, ecx, (u32)data_page + 64, flags), V_PF);
    EQ(trap.error, error);
    EQ(trap_cr2, cr2);
}
static void works(u32 ring, const void *code, u32 ecx, u32 flags) {
    EQ(at_ring(ring, code, ecx, (u32)data_page + 64, flags), V_DONE);
}
/* Ring 3 has code of its own. */
static const void *in_user_page(const u8 *code) {
    memcpy(code_page, code, 64);
    return (void *)AREA;
}

/* ---- SMEP ---- */

static void fetches(void) {
    u32 error = P | (smep ? I : 0);
    in_user_page(land);
    for (u32 i = 0; i < 3; i++) {
        static const u8 *const ways[] = {jump_it, call_it, return_to};
        EQ(at_ring(0, ways[i], AREA, 0, 0), smep ? V_PF : V_DONE);
        if (smep) {
            EQ(trap.error, error);
            EQ(trap_cr2, AREA);
            EQ(trap.eip, AREA);
        }
    }
    EQ(at_ring(0, (void *)AREA, 0, 0, F_AC), smep ? V_PF : V_DONE); /* AC does not matter */
    works(3, (void *)AREA, 0, 0);
    works(0, jump_it, (u32)land, 0);
    /* What is not there, for both rings: I/D says fetch only under SMEP (or NXE). */
    set(AREA + 0x2000, 0, 0);
    faults(0, jump_it, AREA + 0x2000, 0, smep ? I : 0, AREA + 0x2000);
    in_user_page(jump_it);
    faults(3, (void *)AREA, AREA + 0x2000, 0, U | (smep ? I : 0), AREA + 0x2000);
    set(AREA + 0x2000, (u32)data_page + 4096, PT_P | PT_W | PT_U);
    /* An instruction that begins on a supervisor page and ends on a user page. */
    set(TABLES, (u32)table_pages, PT_P | PT_W);
    set(TABLES + 0x1000, (u32)table_pages + 4096, PT_P | PT_W | PT_U);
    memcpy(table_pages + 4093, straddle, 16);
    EQ(at_ring(0, (void *)(TABLES + 4093), 0, 0, 0), smep ? V_PF : V_DONE);
    if (smep) {
        EQ(trap.error, error);
        EQ(trap_cr2, TABLES + 0x1000);
        EQ(trap.eip, TABLES + 4093);
    }
}

/* ---- SMAP ---- */

static void explicit_accesses(void) {
    static const struct {
        const u8 *code;
        u32 error;
    } cases[] = {{load, P},        {store, P | W},      {modify, P | W}, {exchange, P | W},
                 {push_memory, P}, {pop_memory, P | W}, {copy_in, P},    {copy_out, P | W},
                 {fill, P | W},    {compare, P},        {sixteen, P}};
    for (u32 i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        works(0, cases[i].code, PRIVATE + 16, 0);
        works(0, cases[i].code, DATA + 16, F_AC);
        /* QEMU reports the read of a read-modify-write. */
        bool read_first = cases[i].code == modify || cases[i].code == exchange;
        u32 error = is_tcg() && read_first ? P : cases[i].error;
        if (smap)
            faults(0, cases[i].code, DATA + 16, 0, error, DATA + 16);
        else
            works(0, cases[i].code, DATA + 16, 0);
        works(0, cases[i].code, DATA + 16, F_AC);
    }
    static const u8 *const user[] = {load, store, modify, copy_out};
    for (u32 i = 0; i < 4; i++) {
        const void *code = in_user_page(user[i]);
        EQ(at_ring(3, code, DATA + 16, DATA + 64, 0), V_DONE);
        EQ(at_ring(3, code, DATA + 16, DATA + 64, F_AC), V_DONE);
        EQ(at_ring(3, code, PRIVATE, DATA + 64, F_AC), V_PF);
        EQ(trap.error & ~(is_tcg() ? (u32)W : 0u), P | U | (i && !is_tcg() ? (u32)W : 0u));
    }
}

/* From a supervisor page into a user page: nothing is written. */
static void half_reachable(void) {
    set(DATA, (u32)data_page, PT_P | PT_W);
    data_page[1023] = 0x44332211;
    faults(0, store, DATA + 4094, 0, P | W, DATA + 4096);
    EQ(data_page[1023], 0x44332211);
    works(0, store, DATA + 4094, F_AC);
    CHECK(data_page[1023] != 0x44332211);
    set(DATA, (u32)data_page, PT_P | PT_W | PT_U);
}

static void flag_instructions(void) {
    data_page[4] = 0x600d;
    EQ(at_ring(0, bracketed, DATA + 16, 0, 0), V_PF);
    EQ(trap.eax, 0x600d);
    EQ(trap.ebx & F_AC, F_AC);
    EQ(trap.ebp & F_AC, 0);
    EQ(trap.esi, 0);
    EQ(trap.eflags & F_AC, 0);
    EQ(at_ring(0, by_popf, DATA + 16, 0, 0), V_PF);
    EQ(trap.ebx, 0x600d);
    EQ(trap.esi, 0);
    RUNS(0, flags_stay);
    EQ(trap.ebx, 0x8d5 | F_FIXED | F_AC);
    EQ(trap.ebp, 0x8d5 | F_FIXED);
    FAULTS(3, in_user_page(do_stac), V_UD, 0);
    FAULTS(3, in_user_page(do_clac), V_UD, 0);
    /* Present-bit changes and right changes go by the entry, as ever. */
    set(DATA, (u32)data_page, PT_P | PT_U);
    faults(0, store, DATA + 16, F_AC, P | W, DATA + 16);
    write_cr0(read_cr0() & ~CR0_WP);
    works(0, store, DATA + 16, F_AC);
    faults(0, store, DATA + 16, 0, P | W, DATA + 16);
    write_cr0(read_cr0() | CR0_WP);
    set(DATA, 0, 0);
    faults(0, load, DATA + 16, 0, 0, DATA + 16);
    set(DATA, (u32)data_page, PT_P | PT_W | PT_U);
}

/* A handler runs with the AC of what it interrupted, and reaches user pages accordingly, though
 * ring 3 touched them a moment ago. */
CODE(look_at, "mov (%ecx),%eax; ret");
static u32 seen, seen_value, seen_faults, target;
static bool look(struct frame *f) {
    if (f->vector == V_PF && f->eip == (u32)look_at) {
        seen_faults += f->error == P && read_cr2() == ALONE + 16;
        f->eip += 2; /* to the RET */
        f->eax = 0;
        return true;
    }
    if (f->vector != V_SOFT)
        return false;
    u32 flags;
    __asm__ volatile("pushf; pop %0" : "=r"(flags));
    seen = flags & F_AC;
    __asm__ volatile("call look_at" : "=a"(seen_value) : "c"(target) : "memory");
    return true;
}
static void handlers(void) {
    data_page[4] = 0x1d1d;
    idt_set(V_SOFT, gate((u32)trap_stubs + 16 * V_SOFT, KERNEL_CODE, 0xee));
    trap_hook = look;
    const void *user_code = in_user_page(touch_and_interrupt);
    /* First on a supervisor page, so that all of the way is translated when it comes to a fault. */
    target = PRIVATE + 16;
    for (u32 i = 0; i < 4; i++)
        EQ(at_ring(3, user_code, ALONE + 16, 0, 0), V_DONE);
    target = ALONE + 16;
    for (u32 i = 0; i < 4; i++)
        for (u32 ring = 3; ring <= 3; ring -= 3)
            for (u32 ac = 0; ac <= F_AC; ac += F_AC) {
                if (!ring && !ac && smap)
                    continue;
                seen = 1, seen_value = seen_faults = 0;
                EQ(at_ring(ring, ring ? user_code : touch_and_interrupt, ALONE + 16, 0, ac),
                   V_DONE);
                EQ(seen, ac);
                EQ(seen_value, ac || !smap ? 0x1d1d : 0);
                EQ(seen_faults, ac || !smap ? 0 : 1);
                EQ(trap.eflags & F_AC, ac);
                EQ(trap.ebx, 0x1d1d);
            }
    trap_hook = NULL;
    idt_set(V_SOFT, default_gate(V_SOFT));
}

/* ---- Implicit accesses ---- */

static void load_table(bool interrupts, u32 base, u16 limit) {
    struct {
        u16 limit;
        u32 base;
    } __attribute__((packed)) image = {limit, base};
    if (interrupts)
        __asm__ volatile("lidt %0" ::"m"(image));
    else
        __asm__ volatile("lgdt %0" ::"m"(image));
}

/* A copy of the GDT of which the first page is the supervisor's and the second, from selector 20h
 * on, is a user page; likewise of the IDT from vector 40h on. */
static void descriptor_tables(void) {
    u32 gdt_at = TABLES + 4096 - 0x30, idt_at = TABLES + 4096 - 0x40 * 8;
    u64 data = descriptor(0, 0xfffff, 0x93, 12);
    set(TABLES, (u32)table_pages, PT_P | PT_W);
    set(TABLES + 0x1000, (u32)table_pages + 4096, PT_P | PT_W | PT_U);
    memcpy(table_pages + 4096 - 0x30, gdt, 0x30);
    memcpy(table_pages + 4096, &data, 8);
    load_table(false, gdt_at, 0x37);
    for (u32 ac = 0; ac <= F_AC && !is_tcg(); ac += F_AC) { /* QEMU lets AC=1 through */
        EQ(at_ring(0, load_segment, 0, 0x30, ac), smap ? V_PF : V_DONE);
        if (smap) {
            EQ(trap.error, P);
            EQ(trap_cr2, TABLES + 0x1000);
        }
    }
    EQ(at_ring(0, load_segment, 0, 0x30, 0), smap ? V_PF : V_DONE);
    load_table(false, (u32)gdt, GDT_BYTES - 1);

    memcpy(table_pages + 4096 - 0x40 * 8, idt, sizeof idt);
    *(u64 *)(table_pages + 4096 - 0x40 * 8 + V_SOFT * 8) =
        gate((u32)trap_stubs + 16 * V_SOFT, KERNEL_CODE, 0xee);
    *(u64 *)(table_pages + 4096 - 0x40 * 8 + V_DONE * 8) = default_gate(V_DONE);
    load_table(true, idt_at, sizeof idt - 1);
    const void *user_code = in_user_page(interrupt);
    for (u32 ring = 0; ring <= 3; ring += 3)
        for (u32 ac = 0; ac <= F_AC; ac += F_AC) {
            if (is_tcg() && ac && !ring)
                continue;
            EQ(at_ring(ring, ring ? user_code : interrupt, 0, 0, ac), smap ? V_PF : V_SOFT);
            if (smap) {
                EQ(trap.error, P); /* not U, though the program asked for it */
                EQ(trap_cr2, idt_at + V_SOFT * 8);
            }
        }
    load_idt_limit(sizeof idt - 1);
}

/* The second page of the TSS holds its I/O bitmap. */
static void io_bitmap(void) {
    u32 port = (4096 + 16 - offsetof(struct tss, bitmap)) * 8, second = (u32)&tss + 4096;
    const void *code = in_user_page(port_in);
    u16 iomap = tss.iomap;
    tss.iomap = offsetof(struct tss, bitmap);
    EQ(at_ring(3, code, 0, port, 0), V_DONE);
    set(second, second, PT_P | PT_W | PT_U);
    EQ(at_ring(3, code, 0, port, 0), smap ? V_PF : V_DONE);
    if (smap) {
        EQ(trap.error, P);
        EQ(trap_cr2 & ~1u, second + 16);
    }
    set(second, second, PT_P | PT_W);
    tss.iomap = iomap;
}

/* Where a fault finds no stack: #PF goes to a task. */
struct tss pf_tss __attribute__((aligned(4096)));
u32 pf_stack[1024], pf_error;
void pf_back(void);
__asm__(".pushsection .text\npf_task: pop pf_error; jmp pf_back\n.popsection");
extern const u8 pf_task[];
_Noreturn void run_leave(void);

void pf_back(void) {
    /* Makes the old task current again without a task switch: clears busy, NT and TS. */
    gdt[TSS_SEL >> 3] &= ~(2ull << 40);
    __asm__ volatile("ltr %w0; clts; push $2; popf" ::"r"(TSS_SEL));
    gdt[FREE_GDT] &= ~(2ull << 40);
    trap.vector = V_PF;
    trap.error = pf_error;
    trap_cr2 = read_cr2();
    run_leave();
}

static bool stack_to_user_page(struct frame *f) {
    if (f->vector != V_SOFT)
        return false;
    tss.esp0 = DATA + 0x1000;
    return true;
}

static void stacks(void) {
    pf_tss = (struct tss){.eip = (u32)pf_task,
                          .esp = (u32)pf_stack + sizeof pf_stack,
                          .eflags = F_FIXED,
                          .cs = KERNEL_CODE,
                          .ss = KERNEL_DATA,
                          .ds = KERNEL_DATA,
                          .es = KERNEL_DATA,
                          .fs = KERNEL_DATA,
                          .gs = KERNEL_DATA,
                          .cr3 = read_cr3()};
    u16 selector = gdt_set(FREE_GDT, descriptor((u32)&pf_tss, 0x67, 0x89, 0));
    idt_set(V_PF, gate(0, selector, 0x85));
    u32 top = DATA + 0x1000;
    if (smap)
        faults(0, stack_on, top, 0, P | W, top - 4);
    works(0, stack_on, top, F_AC);
    /* The frame of an interrupt: on the same ring an explicit access, from ring 3 an implicit one
     * (accesses while CPL < 3 are explicit unless they are to system data structures; that to an
     * inner stack begins at CPL 3). */
    if (smap)
        faults(0, interrupt_on, top, 0, P | W, top - 4);
    EQ(at_ring(0, interrupt_on, top, 0, F_AC), V_DONE);
    EQ(trap.esp, top);
    idt_set(V_SOFT, gate((u32)trap_stubs + 16 * V_SOFT, KERNEL_CODE, 0xee));
    trap_hook = stack_to_user_page;
    const void *user_code = in_user_page(two_interrupts);
    if (smap)
        for (u32 ac = 0; ac <= F_AC; ac += F_AC)
            faults(3, user_code, 0, ac, P | W, top - 4);
    else
        works(3, user_code, 0, 0);
    trap_hook = NULL;
    idt_set(V_SOFT, default_gate(V_SOFT));
    idt_set(V_PF, default_gate(V_PF));
    gdt_set(FREE_GDT, 0);
}

static void all(void) {
    for (u32 mode = 0; mode < 4; mode++) {
        enable(mode & 1, mode & 2);
        fetches();
        explicit_accesses();
        if (smap) {
            half_reachable();
            flag_instructions();
        } else {
            EQ(at_ring(0, do_stac, 0, 0, 0), V_DONE); /* they do not depend on CR4 */
            EQ(trap.eflags & F_AC, F_AC);
        }
        handlers();
        descriptor_tables();
        io_bitmap();
        stacks();
    }
    /* Off and on again under code that is hot. */
    in_user_page(land);
    for (u32 i = 0; i < 8; i++) {
        enable(i & 1, i & 1);
        EQ(at_ring(0, jump_it, AREA, 0, 0), i & 1 ? V_PF : V_DONE);
        EQ(at_ring(0, load, DATA, 0, 0), i & 1 ? V_PF : V_DONE);
    }
    enable(false, false);
}

void test(void) {
    if (cpuid(0).eax < 7 || (cpuid(7).ebx & (1 << 20 | 1 << 7)) != (1 << 20 | 1 << 7))
        skip("this CPU has no SMEP or no SMAP");
    write_cr4(read_cr4() | CR4_OSFXSR);
    for (u32 format = 0; format < 2; format++) {
        pae = format;
        if (pae)
            pae_prepare();
        else
            paging_prepare();
        set(AREA, (u32)code_page, PT_P | PT_W | PT_U);
        set(DATA, (u32)data_page, PT_P | PT_W | PT_U);
        set(DATA + 0x1000, (u32)data_page + 4096, PT_P | PT_W | PT_U);
        set(ALONE, (u32)data_page, PT_P | PT_W | PT_U);
        set(PRIVATE, (u32)data_page, PT_P | PT_W);
        set(TABLES, (u32)table_pages, PT_P | PT_W);
        set(TABLES + 0x1000, (u32)table_pages + 4096, PT_P | PT_W);
        privatize();
        if (pae)
            pae_on();
        else
            paging_on();
        write_cr0(read_cr0() | CR0_WP);
        all();
        paging_off();
    }
}
