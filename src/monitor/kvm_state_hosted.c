/*
 * kvm_state_hosted.c: the CPU's state between struct cpu and KVM's structures. Source: the kernel's
 * Documentation/virt/kvm/api.rst, sections 4.11 to 4.22, and 4.31 "KVM_GET_VCPU_EVENTS".
 */
#include "monitor/kvm_hosted.h"

#include <sys/ioctl.h>

/* MSRs by index, and where struct cpu has them. */
enum {
    MSR_TSC = 0x10,
    MSR_SYSENTER_CS = 0x174,
    MSR_SYSENTER_ESP = 0x175,
    MSR_SYSENTER_EIP = 0x176,
    MSR_PAT = 0x277
};

/* Offsets in the FXSAVE image: SDM volume 1, section 10.5.1 "FXSAVE Area". */
enum {
    FX_FCW,
    FX_FSW = 2,
    FX_FTW = 4,
    FX_FOP = 6,
    FX_FIP = 8,
    FX_FDP = 16,
    FX_MXCSR = 24,
    FX_ST = 32,
    FX_XMM = 160
};

/* ---- segments ---- */

static struct kvm_segment segment_to_kvm(const struct segment *s) {
    return (struct kvm_segment){.base = s->base,
                                .limit = s->limit,
                                .selector = s->selector,
                                .type = s->attr & ATTR_TYPE,
                                .present = !!(s->attr & ATTR_P),
                                .dpl = (s->attr & ATTR_DPL) >> ATTR_DPL_SHIFT,
                                .db = !!(s->attr & ATTR_DB),
                                .s = !!(s->attr & ATTR_S),
                                .g = !!(s->attr & ATTR_G),
                                .avl = !!(s->attr & ATTR_AVL),
                                .unusable = !!(s->attr & ATTR_NULL)};
}

static struct segment segment_from_kvm(const struct kvm_segment *s) {
    u32 attr = s->type | (s->s ? (u32)ATTR_S : 0) | (u32)s->dpl << ATTR_DPL_SHIFT |
               (s->present ? (u32)ATTR_P : 0) | (s->avl ? (u32)ATTR_AVL : 0) |
               (s->db ? (u32)ATTR_DB : 0) | (s->g ? (u32)ATTR_G : 0) |
               (s->unusable ? (u32)ATTR_NULL : 0);
    return (struct segment){
        .selector = s->selector, .attr = attr, .limit = s->limit, .base = (u32)s->base};
}

/* KVM's names in the order of enum seg. */
static struct kvm_segment *kvm_segment_of(struct kvm_sregs *s, unsigned seg) {
    struct kvm_segment *const at[SEG_COUNT] = {&s->es, &s->cs, &s->ss,  &s->ds,
                                               &s->fs, &s->gs, &s->ldt, &s->tr};
    return at[seg];
}

/* ---- registers ---- */

static void regs_to_kvm(const struct cpu *cpu, struct kvm_regs *r) {
    *r = (struct kvm_regs){.rax = cpu->gpr[R_EAX],
                           .rbx = cpu->gpr[R_EBX],
                           .rcx = cpu->gpr[R_ECX],
                           .rdx = cpu->gpr[R_EDX],
                           .rsi = cpu->gpr[R_ESI],
                           .rdi = cpu->gpr[R_EDI],
                           .rsp = cpu->gpr[R_ESP],
                           .rbp = cpu->gpr[R_EBP],
                           .rip = cpu->eip,
                           .rflags = cpu->eflags};
}

static void regs_from_kvm(struct cpu *cpu, const struct kvm_regs *r) {
    const u64 gpr[8] = {r->rax, r->rcx, r->rdx, r->rbx, r->rsp, r->rbp, r->rsi, r->rdi};
    for (unsigned i = 0; i < 8; i++)
        cpu->gpr[i] = (u32)gpr[i];
    cpu->eip = (u32)r->rip;
    cpu->eflags = (u32)r->rflags;
}

static void sregs_to_kvm(const struct cpu *cpu, struct kvm_sregs *s) {
    *s = (struct kvm_sregs){
        .gdt = {.base = cpu->gdtr.base, .limit = cpu->gdtr.limit},
        .idt = {.base = cpu->idtr.base, .limit = cpu->idtr.limit},
        .cr0 = cpu->cr0,
        .cr2 = cpu->cr2,
        .cr3 = cpu->cr3,
        .cr4 = cpu->cr4,
        .efer = cpu->efer,
        .apic_base = cpu->msr_apicbase,
    };
    for (unsigned seg = 0; seg < SEG_COUNT; seg++)
        *kvm_segment_of(s, seg) = segment_to_kvm(&cpu->seg[seg]);
    s->ss.dpl = cpu->cpl;
}

static void sregs_from_kvm(struct cpu *cpu, struct kvm_sregs *s) {
    cpu->gdtr = (struct table_register){(u32)s->gdt.base, s->gdt.limit};
    cpu->idtr = (struct table_register){(u32)s->idt.base, s->idt.limit};
    cpu->cr0 = (u32)s->cr0;
    cpu->cr2 = (u32)s->cr2;
    cpu->cr3 = (u32)s->cr3;
    cpu->cr4 = (u32)s->cr4;
    cpu->efer = s->efer;
    for (unsigned seg = 0; seg < SEG_COUNT; seg++)
        cpu->seg[seg] = segment_from_kvm(kvm_segment_of(s, seg));
    cpu->cpl = !(cpu->cr0 & CR0_PE) ? 0 : cpu->eflags & F_VM ? 3 : s->ss.dpl;
}

static void events_from_kvm(struct cpu *cpu, const struct kvm_vcpu_events *e) {
    cpu->nmi_blocked = e->nmi.masked;
    cpu->shadow = e->interrupt.shadow & (SHADOW_STI | SHADOW_SS);
}

void kvm_state_get_basic(struct vm *vm, struct mon_kvm *k) {
    struct kvm_sync_regs *s = &k->run->s.regs, fetched;
    if (!k->sync_regs) {
        s = &fetched;
        memset(s, 0, sizeof *s);
        if (ioctl(k->vcpu_fd, KVM_GET_REGS, &s->regs) ||
            ioctl(k->vcpu_fd, KVM_GET_SREGS, &s->sregs) ||
            ioctl(k->vcpu_fd, KVM_GET_VCPU_EVENTS, &s->events))
            return;
    }
    regs_from_kvm(vm->cpu, &s->regs);
    sregs_from_kvm(vm->cpu, &s->sregs);
    events_from_kvm(vm->cpu, &s->events);
}

/* ---- x87 and SSE, debug registers, MSRs ---- */

static bool set_fpu(const struct cpu *cpu, int fd) {
    struct kvm_fpu f = {.fcw = load16(cpu->fx + FX_FCW),
                        .fsw = load16(cpu->fx + FX_FSW),
                        .ftwx = cpu->fx[FX_FTW],
                        .last_opcode = load16(cpu->fx + FX_FOP),
                        .last_ip = load64(cpu->fx + FX_FIP),
                        .last_dp = load64(cpu->fx + FX_FDP),
                        .mxcsr = load32(cpu->fx + FX_MXCSR)};
    memcpy(f.fpr, cpu->fx + FX_ST, sizeof f.fpr);
    memcpy(f.xmm, cpu->fx + FX_XMM, sizeof f.xmm);
    return !ioctl(fd, KVM_SET_FPU, &f);
}

static bool get_fpu(struct cpu *cpu, int fd) {
    struct kvm_fpu f;
    if (ioctl(fd, KVM_GET_FPU, &f))
        return false;
    store16(cpu->fx + FX_FCW, f.fcw);
    store16(cpu->fx + FX_FSW, f.fsw);
    cpu->fx[FX_FTW] = f.ftwx;
    store16(cpu->fx + FX_FOP, f.last_opcode);
    store64(cpu->fx + FX_FIP, f.last_ip);
    store64(cpu->fx + FX_FDP, f.last_dp);
    store32(cpu->fx + FX_MXCSR, f.mxcsr);
    memcpy(cpu->fx + FX_ST, f.fpr, sizeof f.fpr);
    memcpy(cpu->fx + FX_XMM, f.xmm, sizeof f.xmm);
    return true;
}

/* One at a time: hosts lack some. The structure ends in an array of no size. */
union one_msr {
    struct kvm_msrs list;
    u8 room[sizeof(struct kvm_msrs) + sizeof(struct kvm_msr_entry)];
};
static union one_msr one_msr(u32 index, u64 value) {
    union one_msr m;
    memset(&m, 0, sizeof m);
    m.list.nmsrs = 1;
    m.list.entries[0].index = index;
    m.list.entries[0].data = value;
    return m;
}
static bool set_msr(int fd, u32 index, u64 value) {
    union one_msr m = one_msr(index, value);
    return ioctl(fd, KVM_SET_MSRS, &m.list) == 1;
}
static u64 get_msr(int fd, u32 index, u64 otherwise) {
    union one_msr m = one_msr(index, 0);
    return ioctl(fd, KVM_GET_MSRS, &m.list) == 1 ? m.list.entries[0].data : otherwise;
}

static bool set_msrs(struct vm *vm, int fd) {
    const struct cpu *cpu = vm->cpu;
    set_msr(fd, MSR_PAT, cpu->msr_pat);
    set_msr(fd, MSR_TSC, mon_clock_tsc(vm) + cpu->tsc_offset);
    return set_msr(fd, MSR_SYSENTER_CS, cpu->sysenter_cs) &&
           set_msr(fd, MSR_SYSENTER_ESP, cpu->sysenter_esp) &&
           set_msr(fd, MSR_SYSENTER_EIP, cpu->sysenter_eip);
}

static void get_msrs(struct cpu *cpu, struct vm *vm, int fd) {
    cpu->msr_pat = get_msr(fd, MSR_PAT, cpu->msr_pat);
    cpu->sysenter_cs = (u32)get_msr(fd, MSR_SYSENTER_CS, cpu->sysenter_cs);
    cpu->sysenter_esp = (u32)get_msr(fd, MSR_SYSENTER_ESP, cpu->sysenter_esp);
    cpu->sysenter_eip = (u32)get_msr(fd, MSR_SYSENTER_EIP, cpu->sysenter_eip);
    u64 now = mon_clock_tsc(vm);
    cpu->tsc_offset = get_msr(fd, MSR_TSC, now + cpu->tsc_offset) - now;
}

static bool set_debug(const struct cpu *cpu, int fd) {
    struct kvm_debugregs d = {.dr6 = cpu->dr[6], .dr7 = cpu->dr[7]};
    for (unsigned i = 0; i < 4; i++)
        d.db[i] = cpu->dr[i];
    return !ioctl(fd, KVM_SET_DEBUGREGS, &d);
}
static bool get_debug(struct cpu *cpu, int fd) {
    struct kvm_debugregs d;
    if (ioctl(fd, KVM_GET_DEBUGREGS, &d))
        return false;
    for (unsigned i = 0; i < 4; i++)
        cpu->dr[i] = (u32)d.db[i];
    cpu->dr[6] = (u32)d.dr6;
    cpu->dr[7] = (u32)d.dr7;
    return true;
}

bool kvm_state_get_rest(struct vm *vm, struct mon_kvm *k) {
    if (!get_fpu(vm->cpu, k->vcpu_fd) || !get_debug(vm->cpu, k->vcpu_fd))
        return false;
    get_msrs(vm->cpu, vm, k->vcpu_fd);
    return true;
}

bool kvm_state_set(struct vm *vm, struct mon_kvm *k) {
    struct kvm_regs regs;
    struct kvm_sregs sregs;
    struct kvm_vcpu_events events = {.flags = KVM_VCPUEVENT_VALID_SHADOW,
                                     .nmi = {.masked = vm->cpu->nmi_blocked},
                                     .interrupt = {.shadow = vm->cpu->shadow}};
    regs_to_kvm(vm->cpu, &regs);
    sregs_to_kvm(vm->cpu, &sregs);
    return !ioctl(k->vcpu_fd, KVM_SET_SREGS, &sregs) && !ioctl(k->vcpu_fd, KVM_SET_REGS, &regs) &&
           !ioctl(k->vcpu_fd, KVM_SET_VCPU_EVENTS, &events) && set_fpu(vm->cpu, k->vcpu_fd) &&
           set_debug(vm->cpu, k->vcpu_fd) && set_msrs(vm, k->vcpu_fd);
}
