/*
 * test_traps.c: the machine's traps, entries, timer and console, tried from a guest of a few pages
 * at rings 1 and 3. A metal image of its own; run-traps-test starts it and plays the outside. It
 * prints "ok NAME" or "FAIL NAME" and ends with status 0 or 1.
 *
 * Command line: nothing for all tests, or one of the ends: double_fault, page_fault, guest_fault,
 * crash_hook_faults, fatal, status=N.
 */
#include "metal/metal_internal.h"
#include "metal/ports.h"
#include "traps_guest.h"

#include <stdio.h>
#include <stdlib.h>

enum { EXIT_PORT = 0xf4 };
enum { TF = 0x100, IF = 0x200, DF = 0x400, AC = 0x40000 };
enum { DE = 0, DB = 1, BP = 3, OF = 4, UD = 6, GP = 13, PF = 14 };

/* traps_guest.S */
void guest_enter(const struct metal_frame *frame);
u64 fixup_probe(void);
extern const u8 guest_leave[], test_syscall_entry[], test_sysenter_entry[];
extern const u8 fixup_from[], fixup_to[], fixup_landing[];
extern u64 guest_home_rsp, entry_rsp, entry_rcx, entry_r11, entry_flags;
extern volatile u32 entry_taken;
extern u16 entry_cs, entry_ss;
extern const u8 snippet_ud2[], snippet_read_hole[], snippet_write_hole[], snippet_read_system[],
    snippet_write_read_only[], snippet_jump_to_code3[], snippet_syscall[], snippet_int3[],
    snippet_int_80[], snippet_int_e4[], snippet_int_2[], snippet_in_port[], snippet_cli[],
    snippet_sgdt[], snippet_nops[], snippet_spin[], snippet_wait_for_flag[],
    snippet_touch_and_ud2[], snippet_compat_int_80[], snippet_compat_into[],
    snippet_compat_syscall[], snippet_compat_sysenter[], snippet_compat_sysenter_step[],
    snippet_compat_jump_cs3[], snippet_compat_jump_cs0[], snippet_compat_call_tss[],
    snippet_compat_load_bad_ds[];

void test_say(const char *fmt, ...) {
    char text[400];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    metal_console_write(text, strlen(text));
}

/* ---- The guest ---- */

static u64 root;
static u64 *guest_table;
static u8 *guest_code;
static volatile u32 *guest_flag;

static u64 *new_page(u64 *phys) {
    *phys = metal_pages_alloc(1, 1);
    if (!*phys)
        metal_fatal("no page for the test");
    return memset(metal_phys_pointer(*phys), 0, PAGE_BYTES);
}

static void map(u64 linear, u64 phys, u64 bits) {
    guest_table[linear >> 12 & 511] = phys | METAL_PTE_P | bits;
}

static void build_guest(void) {
    u64 phys[3], code, stack, page;
    root = metal_root_create();
    u64 *table = metal_phys_pointer(root);
    for (unsigned i = 0; i < 3; i++) {
        u64 *next = new_page(&phys[i]);
        table[i == 2 ? CODE1 >> 21 & 511 : 0] = phys[i] | METAL_PTE_P | METAL_PTE_W | METAL_PTE_U;
        table = next;
    }
    guest_table = table;
    guest_code = (u8 *)new_page(&code);
    new_page(&stack);
    map(CODE1, code, 0);
    map(CODE3, code, METAL_PTE_U);
    map(STACK1, stack, METAL_PTE_W);
    map(STACK3, stack, METAL_PTE_W | METAL_PTE_U);
    new_page(&page);
    map(SYSTEM_PAGE, page, METAL_PTE_W);
    map(READ_ONLY, page, METAL_PTE_U);
    guest_flag = (volatile u32 *)new_page(&page);
    map(FLAG, page, METAL_PTE_W | METAL_PTE_U);
    metal_root_load(root);
    metal_direct_gdt()[COMPAT_CS / 8] = 0x00cffb000000ffff; /* flat 32-bit code, DPL 3 */
    metal_direct_gdt()[COMPAT_SS / 8] = 0x00cff3000000ffff;
}

/* What the last run of guest code ended with. */
static struct {
    unsigned traps, interrupts; /* calls of the hooks since the run began */
    unsigned interrupts_in_monitor;
    struct metal_frame frame;
    u64 cr2, flags_in_hook;
    bool at_fixed_place;
} seen;
static bool leave_on_interrupt;
static bool (*on_trap)(struct metal_frame *frame); /* instead of leaving */
static void (*on_interrupt)(void);

static void note(const struct metal_frame *frame, u64 cr2) {
    seen.frame = *frame;
    seen.cr2 = cr2;
    seen.at_fixed_place = (u64)(uintptr_t)frame == metal_trap_stack_top() - FRAME_BYTES;
    __asm__ volatile("pushfq; popq %0" : "=r"(seen.flags_in_hook));
}

static void leave(struct metal_frame *frame) {
    frame->rip = (u64)(uintptr_t)guest_leave;
    frame->cs = METAL_CS0;
    frame->ss = 0;
    frame->rflags = 2;
    frame->rsp = guest_home_rsp;
}

static bool trap_hook(void *opaque, struct metal_frame *frame, u64 cr2) {
    seen.traps++;
    note(frame, cr2);
    if (on_trap)
        return on_trap(frame);
    leave(frame);
    return opaque == &seen;
}

static void interrupt_hook(void *opaque, struct metal_frame *frame) {
    (void)opaque;
    seen.interrupts++;
    if (on_interrupt)
        on_interrupt();
    if (!frame) {
        seen.interrupts_in_monitor++;
    } else if (leave_on_interrupt) {
        note(frame, 0);
        leave(frame);
    }
}

struct entry {
    u16 cs, ss;
    u64 rip, rsp;
    bool direct;
};
static const struct entry ring1 = {METAL_CS1, METAL_SS1, CODE1, STACK1 + 0x800, false};
static const struct entry ring3 = {METAL_CS3, METAL_SS3, CODE3, STACK3 + 0x800, false};
static const struct entry compat = {COMPAT_CS, COMPAT_SS, CODE3, STACK3 + 0x800, true};

static struct metal_frame start_frame(const struct entry *e, u64 rflags) {
    return (struct metal_frame){.r15 = 0x1111111111111115,
                                .r14 = 0x1111111111111114,
                                .r13 = 0x1111111111111113,
                                .r12 = 0x1111111111111112,
                                .r11 = 0x1111111111111111,
                                .r10 = 0x1111111111111110,
                                .r9 = 0x1111111111111109,
                                .r8 = 0x1111111111111108,
                                .rdi = 0x1111111111111107,
                                .rsi = 0x1111111111111106,
                                .rbp = 0x1111111111111105,
                                .rbx = 0x1111111111111104,
                                .rdx = 0x1111111111110080,
                                .rcx = 0x1111111111111102,
                                .rax = 0x1111111111111101,
                                .rip = e->rip,
                                .cs = e->cs,
                                .rflags = rflags | 2,
                                .rsp = e->rsp,
                                .ss = e->ss};
}

static void run_flags(const struct entry *e, const u8 *snippet, u64 rflags) {
    struct metal_frame frame = start_frame(e, rflags);
    memcpy(guest_code, snippet, SNIPPET_BYTES);
    memset(&seen, 0, sizeof seen);
    entry_taken = 0;
    if (e->direct)
        metal_use_direct_gdt(true);
    guest_enter(&frame);
    if (e->direct)
        metal_use_direct_gdt(false);
}

static void run(const struct entry *e, const u8 *snippet) {
    run_flags(e, snippet, 0);
}

/* ---- Expectations ---- */

static unsigned failures;

static void result(const char *name, bool ok) {
    test_say("%s %s\r\n", ok ? "ok" : "FAIL", name);
    if (ok)
        return;
    failures++;
    const struct metal_frame *f = &seen.frame;
    test_say(
        "  traps %u interrupts %u vector %u error %x cs %x rip %llx rsp %llx ss %x flags %x cr2 "
        "%llx "
        "entry %u\r\n",
        seen.traps, seen.interrupts, (unsigned)f->vector, (unsigned)f->error, (unsigned)f->cs,
        (unsigned long long)f->rip, (unsigned long long)f->rsp, (unsigned)f->ss,
        (unsigned)f->rflags, (unsigned long long)seen.cr2, entry_taken);
}

/* One trap, of that kind, at that offset of the snippet, and a complete frame. */
static bool trapped(const struct entry *e, unsigned vector, u64 error, u64 offset) {
    const struct metal_frame *f = &seen.frame;
    return seen.traps == 1 && seen.at_fixed_place && f->vector == vector && f->error == error &&
           f->rip == e->rip + offset && f->cs == e->cs && f->rsp == e->rsp && f->ss == e->ss &&
           !(seen.flags_in_hook & (IF | DF | TF));
}

/* The registers still hold what they started with. */
static bool registers_kept(const struct entry *e) {
    struct metal_frame f = start_frame(e, 0);
    return !memcmp(&f, &seen.frame, offsetof(struct metal_frame, vector));
}

static bool page_faulted(const struct entry *e, u64 error, u64 cr2) {
    return trapped(e, PF, error, 0) && seen.cr2 == cr2;
}

/* ---- Tests ---- */

static bool undefined_instruction(const struct entry *e) {
    run_flags(e, snippet_ud2, DF | AC);
    bool ac_matters = metal_cpuid(0, 0).eax >= 7 && metal_cpuid(7, 0).ebx & BIT(20);
    return trapped(e, UD, 0, 0) && registers_kept(e) &&
           (seen.frame.rflags & (DF | AC)) == (DF | AC) && !(ac_matters && seen.flags_in_hook & AC);
}
static bool ud2_at_ring_3(void) {
    return undefined_instruction(&ring3);
}
static bool ud2_at_ring_1(void) {
    return undefined_instruction(&ring1);
}

/* Error codes: SDM volume 3, section 4.7 "Page-Fault Exceptions". */
static bool page_fault_errors_and_cr2(void) {
    enum { P = 1, W = 2, U = 4 };
    run(&ring3, snippet_read_hole);
    bool ok = page_faulted(&ring3, U, HOLE + 5);
    run(&ring1, snippet_read_hole);
    ok = ok && page_faulted(&ring1, 0, HOLE + 5);
    run(&ring1, snippet_write_hole);
    ok = ok && page_faulted(&ring1, W, HOLE + 6);
    run(&ring3, snippet_write_read_only);
    ok = ok && page_faulted(&ring3, P | W | U, READ_ONLY + 8);
    run(&ring1, snippet_write_read_only);
    return ok && page_faulted(&ring1, P | W, READ_ONLY + 8); /* CR0.WP */
}

static bool supervisor_page_is_ring_1s_only(void) {
    run(&ring3, snippet_read_system);
    bool ok = page_faulted(&ring3, 1 | 4, SYSTEM_PAGE + 7);
    run(&ring1, snippet_touch_and_ud2); /* a user page: SMAP is off */
    return ok && seen.frame.vector == UD;
}

static bool ring_1_cannot_execute_user_page_under_smep(void) {
    u64 cr4;
    __asm__ volatile("movq %%cr4, %0" : "=r"(cr4));
    memcpy(guest_code + 0x800, snippet_ud2, 2);
    run(&ring1, snippet_jump_to_code3);
    if (cr4 & BIT(20))
        return seen.frame.vector == PF && seen.frame.error == (1 | 16) && seen.cr2 == CODE3 + 0x800;
    return seen.frame.vector == UD && seen.frame.rip == CODE3 + 0x800;
}

static bool skip_ud2(struct metal_frame *frame) {
    if (seen.traps == 2) {
        leave(frame);
    } else {
        frame->rip = CODE3;
        frame->rbx = 77;
        memcpy(guest_code, snippet_int3, SNIPPET_BYTES);
    }
    return true;
}
static bool trap_returns_where_the_hook_says(void) {
    on_trap = skip_ud2;
    run(&ring3, snippet_nops);
    on_trap = NULL;
    return seen.traps == 2 && seen.frame.vector == GP && seen.frame.rip == CODE3 &&
           seen.frame.rbx == 77 && seen.frame.rax == 0x1111111111111101;
}

static bool ruin_cs(struct metal_frame *frame) {
    if (seen.traps == 2)
        leave(frame);
    else
        frame->cs = 0x1003; /* nothing there */
    return true;
}
static bool return_to_bad_selector_is_the_guests_fault(void) {
    on_trap = ruin_cs;
    run(&ring3, snippet_ud2);
    on_trap = NULL;
    return seen.traps == 2 && seen.at_fixed_place && seen.frame.vector == GP &&
           seen.frame.error == 0x1000 && seen.frame.cs == 0x1003 && seen.frame.rip == CODE3 &&
           seen.frame.rsp == ring3.rsp && registers_kept(&ring3);
}

static bool single_step_leaves_the_debug_stack(void) {
    run_flags(&ring3, snippet_nops, TF);
    bool ok = trapped(&ring3, DB, 0, 1) && registers_kept(&ring3);
    run_flags(&ring1, snippet_nops, TF);
    return ok && trapped(&ring1, DB, 0, 1);
}

static bool ports_are_closed_to_rings_1_and_3(void) {
    run(&ring1, snippet_in_port);
    bool ok = trapped(&ring1, GP, 0, 0);
    run(&ring3, snippet_in_port);
    ok = ok && trapped(&ring3, GP, 0, 0);
    run(&ring1, snippet_cli);
    return ok && trapped(&ring1, GP, 0, 0);
}

static bool sgdt_faults_under_umip(void) {
    run(&ring3, snippet_sgdt);
    if (metal_cpu_has_umip())
        return trapped(&ring3, GP, 0, 0);
    return seen.traps == 1 && seen.frame.vector == UD;
}

/* The error code of INT n through a gate of too small a DPL: SDM volume 3, section 6.13 "Error
 * Code". QEMU's TCG counts gates of 16 bytes in it. */
static bool int_n_refused(const struct entry *e, unsigned vector) {
    u64 error = seen.frame.error;
    return trapped(e, GP, error, 0) && (error == vector * 8 + 2 || error == vector * 16 + 2);
}

static bool int_n_needs_permission(void) {
    run(&ring3, snippet_int_80);
    bool ok = int_n_refused(&ring3, 0x80);
    run(&ring3, snippet_int3);
    ok = ok && int_n_refused(&ring3, BP);
    metal_allow_int_n(true);
    run(&ring3, snippet_int_80);
    ok = ok && trapped(&ring3, 0x80, 0, 2);
    run(&ring3, snippet_int3);
    ok = ok && trapped(&ring3, BP, 0, 1);
    run(&ring3, snippet_int_e4);
    ok = ok && int_n_refused(&ring3, 0xe4);
    run(&ring3, snippet_int_2);
    ok = ok && int_n_refused(&ring3, 2);
    metal_allow_int_n(false);
    run(&ring3, snippet_int_80);
    return ok && int_n_refused(&ring3, 0x80);
}

static bool entered(const struct entry *e) {
    metal_set_syscall_entry(test_syscall_entry);
    run_flags(e, snippet_syscall, DF | IF | 1);
    metal_set_syscall_entry(NULL);
    return entry_taken == 1 && seen.traps == 0 && entry_rcx == e->rip + 3 && entry_rsp == e->rsp &&
           (entry_r11 & (DF | IF | 1)) == (DF | IF | 1) && !(entry_flags & (DF | IF | TF)) &&
           entry_cs == METAL_CS0 && entry_ss == METAL_SS0;
}
static bool syscall_from_ring_1(void) {
    return entered(&ring1);
}
static bool syscall_from_ring_3(void) {
    return entered(&ring3);
}

static bool syscall_without_entry_is_undefined(void) {
    run(&ring3, snippet_syscall);
    return trapped(&ring3, UD, 0, 1);
}

/* ---- Compatibility mode under the direct GDT ---- */

static bool int_80_from_compatibility_mode(void) {
    run(&compat, snippet_compat_int_80);
    bool ok = int_n_refused(&compat, 0x80);
    metal_allow_int_n(true);
    run(&compat, snippet_compat_int_80);
    ok = ok && trapped(&compat, 0x80, 0, 2);
    run(&compat, snippet_compat_into);
    ok = ok && trapped(&compat, OF, 0, 7);
    metal_allow_int_n(false);
    return ok;
}

static bool syscall_from_compatibility_mode_is_undefined(void) {
    metal_set_syscall_entry(test_syscall_entry);
    metal_set_compat_selectors(COMPAT_CS, COMPAT_SS);
    run_flags(&compat, snippet_compat_syscall, IF);
    metal_set_syscall_entry(NULL);
    return entry_taken == 0 && trapped(&compat, UD, 0, 1) && seen.frame.rflags & IF;
}

static bool is_intel(void) {
    return metal_cpuid(0, 0).ecx == 0x6c65746e; /* "ntel" */
}

/* AMD's processors know SYSENTER in legacy mode only; not all that call themselves AMD agree. */
static bool sysenter_is_undefined(void) {
    run(&compat, snippet_compat_sysenter);
    return seen.frame.vector == UD && !is_intel();
}

static bool sysenter_from_compatibility_mode(void) {
    bool undefined = sysenter_is_undefined();
    bool ok = undefined ? trapped(&compat, UD, 0, 1) : trapped(&compat, GP, 0, 1);
    metal_set_sysenter_entry(test_sysenter_entry);
    run_flags(&compat, snippet_compat_sysenter, IF);
    metal_set_sysenter_entry(NULL);
    if (undefined)
        return ok && trapped(&compat, UD, 0, 1);
    return ok && entry_taken == 2 && seen.traps == 0 && entry_rsp == metal_trap_stack_top() &&
           entry_cs == METAL_CS0 && entry_ss == METAL_SS0 && !(entry_flags & IF);
}

/* The step is due after POPF's successor, SYSENTER, so that it strikes in its entry, in ring 0. */
static bool sysenter_with_tf_reaches_its_entry(void) {
    bool undefined = sysenter_is_undefined();
    metal_set_sysenter_entry(test_sysenter_entry);
    run(&compat, snippet_compat_sysenter_step);
    metal_set_sysenter_entry(NULL);
    if (undefined)
        return seen.traps == 1 && seen.frame.vector == UD;
    return entry_taken == 2 && seen.traps == 0 && !(entry_flags & TF);
}

static bool direct_gdt_leads_to_no_64_bit_segment(void) {
    run(&compat, snippet_compat_jump_cs3);
    bool ok = trapped(&compat, GP, METAL_CS3 & ~3, 0);
    run(&compat, snippet_compat_jump_cs0);
    ok = ok && trapped(&compat, GP, METAL_CS0, 0);
    run(&compat, snippet_compat_call_tss);
    ok = ok && trapped(&compat, GP, METAL_TSS, 0);
    run(&compat, snippet_compat_load_bad_ds);
    return ok && trapped(&compat, GP, METAL_SS0, 5);
}

/* ---- Ring 0 ---- */

static bool fixups_catch_faults_of_ring_0(void) {
    u64 value = 5;
    metal_add_fixup(fixup_from, fixup_to, fixup_landing);
    memset(&seen, 0, sizeof seen);
    bool ok = fixup_probe() == UD && seen.traps == 0;
    ok = ok && !metal_read_safely(HOLE, &value) && !metal_read_safely(0x8000000000000000, &value);
    return ok && metal_read_safely((u64)(uintptr_t)&failures, &value) && (u32)value == failures;
}

static bool stacks_have_guard_pages(void) {
    u64 value, page = metal_trap_stack_top() & ~(u64)PAGE_OFFSET_MASK;
    unsigned pages = 0;
    do
        page -= PAGE_BYTES;
    while (metal_read_safely(page, &value) && ++pages < 1024);
    return pages >= 16 && pages < 1024 && !strcmp(metal_stack_overrun(page), "trap") &&
           !metal_stack_overrun(page + PAGE_BYTES);
}

/* ---- Time and interrupts ---- */

static u64 ms_since(u64 tsc) {
    return (metal_tsc() - tsc) * 1000 / metal_tsc_hz();
}

/* So that the interrupt finds the guest, however slow this machine is: entering it lets them in. */
static void arm_for_guest(u64 ns) {
    metal_interrupts_off();
    metal_timer_arm(ns);
}

static bool timer_leaves(const struct entry *e) {
    u64 start = metal_tsc();
    leave_on_interrupt = true;
    arm_for_guest(20000000);
    run_flags(e, snippet_spin, IF);
    leave_on_interrupt = false;
    return seen.interrupts == 1 && seen.frame.cs == e->cs && seen.frame.rip == e->rip &&
           registers_kept(e) && ms_since(start) >= 19 && ms_since(start) < 2000;
}
static bool timer_interrupts_ring_1(void) {
    return timer_leaves(&ring1);
}
static bool timer_interrupts_ring_3(void) {
    return timer_leaves(&ring3);
}
static bool timer_interrupts_compatibility_mode(void) {
    static const u8 spin[SNIPPET_BYTES] = {0xeb, 0xfe};
    u64 start = metal_tsc();
    leave_on_interrupt = true;
    arm_for_guest(20000000);
    run_flags(&compat, spin, IF);
    leave_on_interrupt = false;
    return seen.interrupts == 1 && seen.frame.cs == COMPAT_CS && seen.frame.rip == CODE3 &&
           ms_since(start) >= 19;
}

static void rearm_then_set_flag(void) {
    if (seen.interrupts < 50)
        metal_timer_arm(200000);
    else
        *guest_flag = 1;
}
static bool guest_code_goes_on_after_interrupts(void) {
    *guest_flag = 0;
    on_interrupt = rearm_then_set_flag;
    arm_for_guest(200000);
    run_flags(&ring1, snippet_wait_for_flag, IF);
    on_interrupt = NULL;
    return seen.interrupts == 50 && seen.traps == 1 && seen.frame.vector == UD &&
           registers_kept(&ring1);
}

static volatile u32 stop;
static void set_stop(void) {
    stop = 1;
}
static bool timer_wakes_the_waiting_monitor(void) {
    memset(&seen, 0, sizeof seen);
    stop = 0;
    on_interrupt = set_stop;
    u64 start = metal_tsc();
    metal_timer_arm(30000000);
    while (!stop)
        metal_wait(&stop);
    metal_wait(&stop); /* returns at once */
    on_interrupt = NULL;
    return seen.interrupts == 1 && seen.interrupts_in_monitor == 1 && ms_since(start) >= 29;
}

static bool disarmed_timer_is_silent(void) {
    memset(&seen, 0, sizeof seen);
    metal_timer_arm(5000000);
    metal_timer_disarm();
    u64 start = metal_tsc();
    while (ms_since(start) < 30)
        __asm__ volatile("pause");
    return seen.interrupts == 0;
}

static u8 cmos_seconds(void) {
    out8(0x70, 0);
    return in8(0x71);
}
/* The next change of the second lies between the two. */
static void next_second(u64 *not_before, u64 *not_after) {
    u64 look = metal_tsc();
    u8 before = cmos_seconds();
    do {
        *not_before = look;
        look = metal_tsc();
    } while (cmos_seconds() == before);
    *not_after = metal_tsc();
}

/* The TSC's frequency against another clock, over a second; the carrier may keep this CPU away. */
static bool tsc_frequency_agrees_with_the_cmos_clock(void) {
    u64 start_min, start_max, end_min, end_max, per_ms = metal_tsc_hz() / 1000;
    next_second(&start_min, &start_max);
    next_second(&end_min, &end_max);
    u64 at_least = (end_min - start_max) / per_ms, at_most = (end_max - start_min) / per_ms;
    if (at_least > 1020 || at_most < 980)
        test_say("  a second took %u to %u ms\r\n", (unsigned)at_least, (unsigned)at_most);
    return at_least <= 1020 && at_most >= 980;
}

/* The runner sets the clock to 1700000000. */
static bool epoch_is_the_clocks(void) {
    i64 s = metal_epoch_s();
    if (s < 1700000000 || s > 1700000060)
        test_say("  epoch %lld\r\n", (long long)s);
    return s >= 1700000000 && s <= 1700000060;
}

/* ---- Power ---- */

static bool machine_tells_how_to_power_off(void) {
    return metal_acpi()->found && (metal_acpi()->pm1a_control || metal_acpi()->sleep_control);
}

/* ---- With the runner's help ---- */

static volatile u32 input_interrupts;
static void count_input(void) {
    input_interrupts++;
    stop = 1;
}

/* Reads a line in pieces of at most `piece` bytes, only when interrupted. */
static bool line_arrives(const char *expected, size_t piece) {
    char got[64] = "";
    size_t n = 0;
    u64 start = metal_tsc();
    while (n < strlen(expected) && ms_since(start) < 15000) {
        metal_timer_arm(1000000000); /* so that this ends when no input interrupts */
        u64 before = metal_tsc();
        while (!stop)
            metal_wait(&stop);
        if (ms_since(before) >= 990)
            stop = 0;
        else
            stop = 0, n += metal_console_read(got + n, MIN(piece, sizeof got - n));
    }
    metal_timer_disarm();
    if (n != strlen(expected) || memcmp(got, expected, n))
        test_say("  got %u bytes: %.*s\r\n", (unsigned)n, (int)n, got);
    return n == strlen(expected) && !memcmp(got, expected, n);
}

static bool input_interrupts_the_wait(void) {
    stop = 0;
    on_interrupt = count_input;
    test_say("type hello\r\n");
    bool ok = line_arrives("hello\n", 64);
    on_interrupt = NULL;
    return ok;
}

static bool unread_input_interrupts_again(void) {
    stop = 0;
    on_interrupt = count_input;
    test_say("type again\r\n");
    bool ok = line_arrives("again\n", 1);
    on_interrupt = NULL;
    return ok;
}

static bool input_before_anyone_listens_is_told(void) {
    metal_set_interrupt(NULL, NULL);
    test_say("type early\r\n");
    u64 start = metal_tsc();
    while (ms_since(start) < 1000)
        __asm__ volatile("pause");
    stop = 0;
    on_interrupt = count_input;
    metal_set_interrupt(interrupt_hook, NULL);
    bool ok = line_arrives("early\n", 64);
    on_interrupt = NULL;
    return ok;
}

static bool nmi_passes_unnoticed(void) {
    u32 before = metal_nmi_count;
    test_say("send nmi\r\n");
    leave_on_interrupt = true;
    u64 start = metal_tsc();
    bool ok = true;
    while (ok && metal_nmi_count == before && ms_since(start) < 10000) {
        arm_for_guest(10000000);
        run_flags(&ring1, snippet_spin, IF);
        ok = seen.interrupts == 1 && registers_kept(&ring1) && seen.frame.rip == CODE1;
    }
    leave_on_interrupt = false;
    return ok && metal_nmi_count != before;
}

/* ---- The ends ---- */

static volatile unsigned depth = ~0u; /* so that the compiler believes in an end */
static unsigned __attribute__((noinline)) recurse(volatile unsigned *p) {
    volatile unsigned here[64] = {*p};
    return depth-- ? recurse(here) + here[3] : 0;
}

static void __attribute__((noinline)) touch_nothing(void) {
    *(volatile u32 *)(uintptr_t)(HOLE + 0x18) = 1;
    __asm__ volatile("");
}

static void faulting_crash_hook(const char *what) {
    test_say("crash hook: %s\r\n", what);
    touch_nothing();
}

static void talking_crash_hook(const char *what) {
    test_say("crash hook: %s\r\n", what);
}

static bool give_up(struct metal_frame *frame) {
    (void)frame;
    return false;
}

static void __attribute__((noinline)) end_by(const char *how) {
    rf_crash_hook = talking_crash_hook;
    if (!strncmp(how, "status=", 7))
        metal_power_off(atoi(how + 7));
    if (!strcmp(how, "fatal"))
        metal_fatal("nothing works: %d", 42);
    if (!strcmp(how, "double_fault"))
        test_say("%u\r\n", recurse(&depth));
    if (!strcmp(how, "page_fault"))
        touch_nothing();
    if (!strcmp(how, "crash_hook_faults")) {
        rf_crash_hook = faulting_crash_hook;
        touch_nothing();
    }
    if (!strcmp(how, "guest_fault")) {
        on_trap = give_up;
        run(&ring1, snippet_ud2);
    }
    test_say("FAIL no such end: %s\r\n", how);
    metal_power_off(1);
}

#define TEST(name)                                                                                 \
    { #name, name }
static const struct {
    const char *name;
    bool (*run)(void);
} tests[] = {
    TEST(ud2_at_ring_3),
    TEST(ud2_at_ring_1),
    TEST(page_fault_errors_and_cr2),
    TEST(supervisor_page_is_ring_1s_only),
    TEST(ring_1_cannot_execute_user_page_under_smep),
    TEST(trap_returns_where_the_hook_says),
    TEST(return_to_bad_selector_is_the_guests_fault),
    TEST(single_step_leaves_the_debug_stack),
    TEST(ports_are_closed_to_rings_1_and_3),
    TEST(sgdt_faults_under_umip),
    TEST(int_n_needs_permission),
    TEST(syscall_from_ring_1),
    TEST(syscall_from_ring_3),
    TEST(syscall_without_entry_is_undefined),
    TEST(int_80_from_compatibility_mode),
    TEST(syscall_from_compatibility_mode_is_undefined),
    TEST(sysenter_from_compatibility_mode),
    TEST(sysenter_with_tf_reaches_its_entry),
    TEST(direct_gdt_leads_to_no_64_bit_segment),
    TEST(fixups_catch_faults_of_ring_0),
    TEST(stacks_have_guard_pages),
    TEST(timer_interrupts_ring_1),
    TEST(timer_interrupts_ring_3),
    TEST(timer_interrupts_compatibility_mode),
    TEST(guest_code_goes_on_after_interrupts),
    TEST(timer_wakes_the_waiting_monitor),
    TEST(disarmed_timer_is_silent),
    TEST(tsc_frequency_agrees_with_the_cmos_clock),
    TEST(epoch_is_the_clocks),
    TEST(cmos_formats),
    TEST(sleep_package_is_found_and_bounded),
    TEST(machine_tells_how_to_power_off),
    TEST(input_interrupts_the_wait),
    TEST(unread_input_interrupts_again),
    TEST(input_before_anyone_listens_is_told),
    TEST(nmi_passes_unnoticed),
};

int metal_main(void) {
    metal_set_exit_port(EXIT_PORT);
    metal_set_guest_trap(trap_hook, &seen);
    metal_set_interrupt(interrupt_hook, NULL);
    build_guest();
    if (*metal_boot()->command_line)
        end_by(metal_boot()->command_line);
    for (unsigned i = 0; i < ARRAY_LEN(tests); i++)
        result(tests[i].name, tests[i].run());
    test_say(failures ? "%u FAILED\r\n" : "all passed\r\n", failures);
    return failures != 0;
}
