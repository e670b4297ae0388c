/*
 * trap.c: what trap.S does not decide in a few instructions: faults in ring 0, traps that come on
 * their own stack, and device interrupts.
 */
#include "metal/metal_internal.h"
#include "metal/ports.h"

enum {
    VECTOR_DB = 1,
    VECTOR_DF = 8,
    VECTOR_MC = 18,
    FLAG_TF = 0x100,
    DR6_BS = BIT(14),
    MAX_FIXUPS = 16
};

static bool no_guest_trap(void *opaque, struct metal_frame *frame, u64 cr2) {
    (void)opaque, (void)frame, (void)cr2;
    return false;
}

/* trap.S calls the first two. */
metal_guest_trap metal_guest_trap_hook = no_guest_trap;
void *metal_guest_trap_opaque;
static metal_interrupt interrupt_hook;
static void *interrupt_opaque;

void metal_set_guest_trap(metal_guest_trap handler, void *opaque) {
    metal_guest_trap_opaque = opaque;
    metal_guest_trap_hook = handler ? handler : no_guest_trap;
}

void metal_set_interrupt(metal_interrupt handler, void *opaque) {
    bool on = metal_interrupts_save();
    interrupt_hook = handler;
    interrupt_opaque = opaque;
    metal_console_enable_input(); /* what came while nobody listened is told now */
    metal_interrupts_restore(on);
}

static struct { u64 from, to, landing; } fixups[MAX_FIXUPS];
static unsigned fixup_count;

void metal_add_fixup(const void *from, const void *to, const void *landing) {
    if (fixup_count == MAX_FIXUPS)
        metal_fatal("no room for another fixup");
    fixups[fixup_count].from = (u64)(uintptr_t)from;
    fixups[fixup_count].to = (u64)(uintptr_t)to;
    fixups[fixup_count].landing = (u64)(uintptr_t)landing;
    fixup_count++;
}

static bool apply_fixup(struct metal_frame *f) {
    for (unsigned i = 0; i < fixup_count; i++)
        if (f->rip >= fixups[i].from && f->rip < fixups[i].to) {
            f->rip = fixups[i].landing;
            f->rax = f->vector << 32 | (u32)f->error;
            return true;
        }
    return false;
}

static struct metal_frame *fixed_frame(void) {
    return (struct metal_frame *)(uintptr_t)(metal_trap_stack_top() - FRAME_BYTES);
}

/* The final IRETQ could not load what the hook asked for: selectors of the guest's, say. The
 * guest's registers are loaded by then, and the frame it refused is where RSP points. Both together
 * are the guest's trap. */
static struct metal_frame *refused_return(const struct metal_frame *f) {
    struct metal_frame guest = *f; /* the fixed frame overlaps both */
    memcpy(&guest.rip, (const void *)(uintptr_t)f->rsp, 5 * sizeof(u64));
    if (!(guest.cs & 3))
        return NULL;
    struct metal_frame *fixed = fixed_frame();
    *fixed = guest;
    return fixed;
}

/* TF of an application survives SYSENTER, and strikes at the first instruction of its entry; one
 * held back by MOV SS may strike after SYSCALL. Ring 0 never steps itself: the step is dropped, and
 * with it the application's TF. SDM volume 2, "SYSENTER"; volume 3, section 6.8.3 "Masking
 * Exceptions and Interrupts When Switching Stacks". */
static bool stray_single_step(struct metal_frame *f) {
    u64 dr6;
    __asm__ volatile("movq %%dr6, %0" : "=r"(dr6));
    if (f->vector != VECTOR_DB || !(dr6 & DR6_BS))
        return false;
    __asm__ volatile("movq %0, %%dr6" : : "r"(dr6 & ~(u64)DR6_BS));
    f->rflags &= ~(u64)FLAG_TF;
    return true;
}

struct metal_frame *metal_trap_slow(struct metal_frame *frame, u64 cr2) {
    if (frame->vector == VECTOR_DF)
        metal_report_trap(frame, cr2, "double fault");
    if (frame->vector == VECTOR_MC)
        metal_report_trap(frame, cr2, "machine check");
    if (frame->cs & 3) { /* #DB: leave its stack before the hook does much */
        struct metal_frame *fixed = fixed_frame();
        *fixed = *frame;
        return fixed;
    }
    if (stray_single_step(frame) || apply_fixup(frame))
        return frame;
    if (frame->rip == (u64)(uintptr_t)metal_trap_iret) {
        struct metal_frame *guest = refused_return(frame);
        if (guest)
            return guest;
    }
    metal_report_trap(frame, cr2, "exception in the monitor");
}

void metal_trap_unexplained(struct metal_frame *frame, u64 cr2) {
    metal_report_trap(frame, cr2, "exception in translated or guest code");
}

void metal_device_interrupt(struct metal_frame *frame) {
    if (!metal_interrupt_acknowledge((u8)frame->vector) || !interrupt_hook)
        return;
    interrupt_hook(interrupt_opaque, frame->cs & 3 ? frame : NULL);
}

/* AC means something at CPL 0 only where the CPU knows SMAP; there CLAC goes into the trap path.
 * The image is not writable by its own address. */
static void insert_clac(void) {
    if (metal_cpuid(0, 0).eax < 7 || !(metal_cpuid(7, 0).ebx & BIT(20)))
        return;
    static const u8 clac[3] = {0x0f, 0x01, 0xca};
    memcpy(metal_phys_pointer(metal_pointer_phys(metal_trap_clac)), clac, sizeof clac);
    metal_cpuid(0, 0); /* serialises: SDM volume 3, section 8.1.3 "Handling Self- and
                        * Cross-Modifying Code" */
}

void metal_traps_init(void) {
    insert_clac();
    metal_stacks_guard();
    metal_add_fixup(metal_read_from, metal_read_to, metal_read_landing);
    metal_interrupt_controllers_init();
}
