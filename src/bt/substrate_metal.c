/*
 * substrate_metal.c: translated code, and applications that run untranslated, on the bare machine.
 * What the hosted substrate learns from signals arrives here as the machine's own traps.
 *
 * Applications run directly in compatibility mode at ring 3, under a descriptor table that holds
 * only copies of their own descriptors (ringcomp/shadow.c). Whatever the hardware refuses them is
 * interpreted, which either does it or raises the guest's own exception.
 *
 * Compiled for general registers only: the guest's x87 and SSE state is live here.
 */
#include "bt/bt_internal.h"
#include "bt/world_metal.h"
#include "metal/metal.h"
#include "ringcomp/shadow.h"

#include <cpuid.h>
#include <stddef.h>
#include <stdio.h>

_Static_assert(offsetof(struct world, cpu) == WORLD_CPU, "cpu");
_Static_assert(offsetof(struct world, is_direct) == WORLD_IS_DIRECT, "is_direct");
_Static_assert(offsetof(struct world, fs_foreign) == WORLD_FS_FOREIGN, "fs_foreign");
_Static_assert(offsetof(struct world, measure) == WORLD_MEASURE, "measure");
_Static_assert(offsetof(struct world, gdt_monitor) == WORLD_GDT_MONITOR, "gdt_monitor");
_Static_assert(offsetof(struct world, gdt_direct) == WORLD_GDT_DIRECT, "gdt_direct");
_Static_assert(WORLD_EXIT_KICK == BT_EXIT_KICK, "what bt_enter returns");
_Static_assert(WORLD_DIRECT == BT_DIRECT && BT_LEAVE == 1, "results of callouts");
_Static_assert(RC_SHADOW_GDT_FREE == METAL_CS0 / 8, "the monitor's own entries");

struct world bt_world;

struct substrate {
    struct memory_code stubs;
    struct rc_shadow shadow;
    bool emulated_carrier;
    bool tsd; /* the machine's CR4.TSD */
    bool has_tsc_aux;
    u32 tsc_aux; /* the machine's IA32_TSC_AUX, which RDTSCP and RDPID read */
};
static struct substrate the_substrate; /* one processor, one guest */

/* ---- Traps out of translated code ---- */

static void trap_from_frame(struct bt_trap *t, const struct metal_frame *f, u64 cr2) {
    *t = (struct bt_trap){.reg = {f->rax, f->rcx, f->rdx, f->rbx, f->rsp, f->rbp, f->rsi, f->rdi,
                                  f->r8, f->r9, f->r10, f->r11, f->r12, f->r13, f->r14, f->r15},
                          .rip = f->rip,
                          .rflags = f->rflags,
                          .vector = f->vector,
                          .error = f->error,
                          .address = cr2};
}

/* The frame then goes on in ring 0, with interrupts off, at bt_fault_exit. */
static void frame_to_monitor(struct metal_frame *f, struct cpu *cpu) {
    f->r15 = (u64)cpu;
    f->rsp = bt_hot(cpu)->host_rsp;
    f->rbp = f->rsp + 64;
    f->rip = (u64)bt_fault_exit;
    f->cs = METAL_CS0;
    f->ss = 0;
    f->rflags = F_FIXED;
}

/* An emulating carrier reads before it writes where a processor would report a write at once: SDM
 * volume 3, section 4.7 "Page-Fault Exceptions". The emulator finds out. */
static bool may_be_write(const struct bt *bt, const struct metal_frame *f) {
    return bt->substrate->emulated_carrier && f->vector == VEC_PF && !(f->error & (PF_W | PF_I));
}

static bool translated_trap(struct bt *bt, struct metal_frame *f, u64 cr2) {
    struct bt_trap trap;
    trap_from_frame(&trap, f, cr2);
    if (!bt_trap(bt, &trap)) {
        bt_trap_save_guest(bt, &trap);
        return false;
    }
    if (trap.leave) {
        if (bt_hot(bt->cpu)->exit == BT_EXIT_FAULT && may_be_write(bt, f))
            bt_hot(bt->cpu)->exit = BT_EXIT_EMULATE;
        frame_to_monitor(f, bt->cpu);
    } else /* the handler changes no other register */
        f->rsp = trap.reg[H_RSP];
    return true;
}

/* ---- Direct execution ---- */

/* Flags an application can change itself, and finds as it left them. TF is set only from within:
 * one that the guest's kernel sets keeps the program out of direct execution. */
#define CPUID_SEP BIT(11)
#define WINDOW_END BIT64(32)
#define DIRECT_FLAGS (F_ARITH | F_TF | F_DF | F_NT | F_AC | F_ID)

/* An application that runs untranslated may read the TSC only while the guest's is the machine's.
 * In translated code RDTSC then traps, too. */
static inline void select_tsd(struct bt *bt) {
    const struct cpu *cpu = bt->cpu;
    bool want = (cpu->cr4 & CR4_TSD) || !bt->tsc_inline || bt_hot(cpu)->tsc_base != cpu->tsc_offset;
    if (likely(want == bt->substrate->tsd))
        return;
    u64 cr4;
    __asm__ volatile("movq %%cr4, %0" : "=r"(cr4));
    cr4 = want ? cr4 | CR4_TSD : cr4 & ~(u64)CR4_TSD;
    __asm__ volatile("movq %0, %%cr4" : : "r"(cr4) : "memory");
    bt->substrate->tsd = want;
}

#define MSR_TSC_AUX 0xc0000103u

static void select_tsc_aux(struct bt *bt) {
    u32 want = bt->cpu->msr_tsc_aux;
    if (likely(want == bt->substrate->tsc_aux) || !bt->substrate->has_tsc_aux)
        return;
    __asm__ volatile("wrmsr" : : "c"(MSR_TSC_AUX), "a"(want), "d"(0));
    bt->substrate->tsc_aux = want;
}

void substrate_load_tsc(struct bt *bt) {
    if (!bt->config.direct)
        return;
    select_tsd(bt);
    select_tsc_aux(bt);
}

/* DEVIATION: where the machine's MXCSR has more bits than the guest's (AMD's misaligned-exception
 * mode), LDMXCSR and FXRSTOR of an application that runs untranslated accept them, and FXSAVE shows
 * the machine's mask. */
bool substrate_direct_ready(struct bt *bt) {
    struct cpu *cpu = bt->cpu;
    struct bt_hot *hot = bt_hot(cpu);
    /* The kernel starts with an empty return stack: see hot_select_ring. */
    if (!hot->ring_user)
        hot->return_rsp = bt->return_top[0];
    return rc_shadow_ready(&bt->substrate->shadow, cpu);
}

#define READ_SELECTOR(name)                                                                        \
    __extension__({                                                                                \
        u32 selector_;                                                                             \
        __asm__ volatile("movl %%" name ", %0" : "=r"(selector_));                                 \
        (u16) selector_;                                                                           \
    })

/* Takes over the selectors that the application has loaded. */
static __attribute__((noinline)) void direct_reload(struct bt *bt, const u16 selector[6]) {
    rc_shadow_reload(&bt->substrate->shadow, bt->cpu, selector);
    hot_sync_selectors(bt->cpu);
}

static void direct_state(struct bt *bt, const struct metal_frame *f) {
    struct cpu *cpu = bt->cpu;
    const u16 *known = bt_hot(cpu)->selectors;
    const u16 es = READ_SELECTOR("es"), ds = READ_SELECTOR("ds");
    const u16 fs = READ_SELECTOR("fs"), gs = READ_SELECTOR("gs");
    cpu->gpr[R_EAX] = (u32)f->rax;
    cpu->gpr[R_ECX] = (u32)f->rcx;
    cpu->gpr[R_EDX] = (u32)f->rdx;
    cpu->gpr[R_EBX] = (u32)f->rbx;
    cpu->gpr[R_ESP] = (u32)f->rsp;
    cpu->gpr[R_EBP] = (u32)f->rbp;
    cpu->gpr[R_ESI] = (u32)f->rsi;
    cpu->gpr[R_EDI] = (u32)f->rdi;
    cpu->eip = (u32)f->rip;
    cpu->eflags = (cpu->eflags & ~(u32)(DIRECT_FLAGS | F_RF)) | ((u32)f->rflags & DIRECT_FLAGS);
    if (unlikely(es != known[SEG_ES] || (u16)f->cs != known[SEG_CS] ||
                 (u16)f->ss != known[SEG_SS] || ds != known[SEG_DS] || fs != known[SEG_FS] ||
                 gs != known[SEG_GS]))
        direct_reload(bt, (const u16[6]){[SEG_ES] = es,
                                         [SEG_CS] = (u16)f->cs,
                                         [SEG_SS] = (u16)f->ss,
                                         [SEG_DS] = ds,
                                         [SEG_FS] = fs,
                                         [SEG_GS] = gs});
    hot_load_flags(cpu); /* leaving stores them back */
}

static bool direct_leave(struct bt *bt, struct metal_frame *f, u32 exit) {
    bt->fault_emulate = false;
    bt_hot(bt->cpu)->exit = exit;
    frame_to_monitor(f, bt->cpu);
    return true;
}

static bool direct_fault(struct bt *bt, struct metal_frame *f, u8 vector) {
    bt->cpu->fault = (struct guest_fault){.vector = vector};
    return direct_leave(bt, f, BT_EXIT_FAULT);
}

/* After a transfer in the middle of a trap: on in translated or untranslated code, or out. */
static bool direct_continue(struct bt *bt, struct metal_frame *f, u64 to) {
    if (to == BT_LEAVE) {
        frame_to_monitor(f, bt->cpu);
        return true;
    }
    bt_resume(bt->cpu, to);
}

/* Bytes of the application's code at eip, or NULL. */
static const u8 *code_bytes(struct cpu *cpu, u32 eip, unsigned bytes) {
    return mmu_host_pointer(cpu, cpu->seg[SEG_CS].base + eip, bytes, MMU_READ);
}

/* INT n, INT3 and INTO arrive behind the instruction; it is two bytes or one long. */
static bool direct_int(struct bt *bt, struct metal_frame *f) {
    struct cpu *cpu = bt->cpu;
    u32 next = cpu->eip;
    bool short_form = false;
    if (f->vector < 32) {
        const u8 *last = code_bytes(cpu, next - 1, 1);
        short_form = last && *last == (f->vector == VEC_BP ? 0xcc : 0xce);
    }
    cpu->eip = next - (short_form ? 1 : 2);
    if (short_form) /* INT3 and INTO do not look at IOPL and the like: left to the emulator */
        return direct_leave(bt, f, BT_EXIT_EMULATE);
    return direct_continue(bt, f, bt_direct_int(cpu, (u32)f->vector, next));
}

/* SYSENTER in compatibility mode is #UD on AMD's processors, and #GP on Intel's while the machine's
 * own SYSENTER_CS is null: SDM volume 2, "SYSENTER". */
static bool direct_refused(struct bt *bt, struct metal_frame *f) {
    struct cpu *cpu = bt->cpu;
    if (cpu->eflags & F_TF) /* the step that follows it is the emulator's */
        return direct_leave(bt, f, BT_EXIT_EMULATE);
    const u8 *code = code_bytes(cpu, cpu->eip, 2);
    if (code && code[0] == 0x0f && code[1] == 0x34 && (cpu->model->f1_edx & CPUID_SEP))
        return direct_continue(bt, f, bt_callout_table[CO_SYSENTER](cpu, cpu->eip));
    return direct_leave(bt, f, BT_EXIT_EMULATE);
}

static bool direct_page_fault(struct bt *bt, struct metal_frame *f, u64 cr2) {
    enum mmu_access access = f->error & PF_I ? MMU_FETCH : f->error & PF_W ? MMU_WRITE : MMU_READ;
    switch (mmu_window_access_fault(bt->cpu, true, GLIN(cr2), access)) {
    case MMU_FAULT_FILLED:
        return true;
    case MMU_FAULT_TRUE:
        return direct_leave(bt, f, may_be_write(bt, f) ? BT_EXIT_EMULATE : BT_EXIT_FAULT);
    default:
        return direct_leave(bt, f, BT_EXIT_EMULATE);
    }
}

/* An application may set TF itself; DR6.BS tells that from INT1. */
static bool direct_debug(struct bt *bt, struct metal_frame *f) {
    u64 dr6;
    __asm__ volatile("movq %%dr6, %0" : "=r"(dr6));
    __asm__ volatile("movq %0, %%dr6" : : "r"(0xffff0ff0ull));
    if (!(dr6 & DR6_BS)) {
        bt->cpu->eip--; /* INT1 */
        return direct_leave(bt, f, BT_EXIT_EMULATE);
    }
    bt->cpu->dr[6] |= DR6_BS;
    return direct_fault(bt, f, VEC_DB);
}

static bool direct_trap(struct bt *bt, struct metal_frame *f, u64 cr2) {
    bt->stats->faults++;
    direct_state(bt, f);
    switch (f->vector) {
    case VEC_PF:
        return direct_page_fault(bt, f, cr2);
    case VEC_DE:
        return direct_fault(bt, f, VEC_DE);
    case VEC_DB:
        return direct_debug(bt, f);
    case VEC_UD:
    case VEC_GP:
        return direct_refused(bt, f);
    case VEC_BP:
    case VEC_OF:
        return direct_int(bt, f);
    default:
        if (f->vector >= 32)
            return direct_int(bt, f);
        return direct_leave(bt, f, BT_EXIT_EMULATE);
    }
}

/* Selectors do not tell: the application's are the guest's choice. Translated code lies far above.
 */
static bool is_direct(const struct metal_frame *f) {
    return bt_world.is_direct && f->rip < WINDOW_END;
}

static bool on_guest_trap(void *opaque, struct metal_frame *f, u64 cr2) {
    struct bt *bt = opaque;
    if (bt_world.measure)
        bt_measure_trap(bt->cpu, f);
    bool direct = is_direct(f);
    bool known = direct ? direct_trap(bt, f, cr2) : translated_trap(bt, f, cr2);
    if (bt_world.measure)
        bt_measure_trap_end(bt->cpu, f);
    return known;
}

void bt_interrupted(struct bt *bt, void *frame) {
    struct metal_frame *f = frame;
    if (bt_world.measure)
        bt_measure_interrupt(bt->cpu, f);
    if (!is_direct(f))
        return; /* translated code comes to a poll */
    direct_state(bt, f);
    /* Set in the middle of a repeated string instruction: an interrupt of the guest pushes it. */
    bt_hot(bt->cpu)->flag_rest |= (u32)f->rflags & F_RF;
    direct_leave(bt, f, BT_EXIT_KICK);
}

/* ---- Creation ---- */

static struct world_gdtr current_gdtr(void) {
    struct world_gdtr g;
    __asm__ volatile("sgdt %0" : "=m"(g));
    return g;
}

/* QEMU's TCG says so in CPUID's hypervisor leaf. */
static bool carrier_is_emulator(void) {
    u32 a, b, c, d;
    __cpuid(1, a, b, c, d);
    if (!(c & BIT(31)))
        return false;
    __cpuid(0x40000000, a, b, c, d);
    return b == 0x54474354 && c == 0x43544743 && d == 0x47435447; /* "TCGTCGTCGTCG" */
}

/* The register goes with RDTSCP; the firmware may have left anything in it. */
static bool clear_tsc_aux(void) {
    u32 a, b, c, d;
    if (!__get_cpuid(0x80000001, &a, &b, &c, &d) || !(d & BIT(27)))
        return false;
    __asm__ volatile("wrmsr" : : "c"(MSR_TSC_AUX), "a"(0), "d"(0));
    return true;
}

bool substrate_open(struct bt *bt, char *err, size_t err_bytes) {
    struct substrate *s = &the_substrate;
    u64 bytes = ALIGN_UP((u64)(bt_stubs_end - bt_stubs_start), PAGE_BYTES);
    bt->substrate = s;
    if (!s->stubs.rw && !memory_code_create(&s->stubs, bytes)) {
        snprintf(err, err_bytes, "no memory for the stubs");
        return false;
    }
    memcpy(s->stubs.rw, bt_stubs_start, (size_t)(bt_stubs_end - bt_stubs_start));
    bt->stub_shift = (u64)s->stubs.rx - (u64)bt_stubs_start;
    s->emulated_carrier = carrier_is_emulator();
    s->has_tsc_aux = clear_tsc_aux();
    s->tsc_aux = 0;
    bt->ring3_delta = memory_ring3_delta();
    rc_shadow_init(&s->shadow, metal_direct_gdt(), metal_direct_ldt());
    bt_world.gdt_monitor = current_gdtr();
    bt_world.gdt_direct = (struct world_gdtr){.limit = 0xffff, .base = (u64)metal_direct_gdt()};
    metal_set_syscall_entry(bt_syscall_entry);
    metal_set_int_entry(bt_int_entry);
    metal_set_guest_trap(on_guest_trap, bt);
    metal_allow_int_n(true);
    return true;
}

void substrate_close(struct bt *bt) {
    (void)bt;
    metal_set_guest_trap(NULL, NULL);
    metal_set_int_entry(NULL);
    metal_set_syscall_entry(NULL);
}

/* GS has base 0 in translated code, always. */
bool substrate_switches_gs(void) {
    return true;
}
void substrate_set_gs_base(u64 base) {
    (void)base;
}

void bt_bad_callout(u64 number) {
    metal_fatal("translated code asked for callout %llu", (unsigned long long)number);
}

/* Backtraces follow frame pointers here; libunwind is not in the image. */
void unwind_register(struct bt *bt) {
    (void)bt;
}
void unwind_unregister(struct bt *bt) {
    (void)bt;
}
