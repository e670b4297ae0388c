/*
 * engine_kvm_hosted.c: hardware assist through Linux's /dev/kvm, as a third way to run the same
 * machine: same loader, same devices, same loop, only the CPU is the processor's own. It is there
 * to be compared with. The interrupt controllers stay ours, so that every engine pays for the same
 * devices.
 *
 * While the guest runs its state is KVM's. After each exit vm->cpu has the registers, segments and
 * control registers; all of it after look(), which everyone calls who shows or changes it.
 * Source: the kernel's Documentation/virt/kvm/api.rst.
 *
 * DEVIATION: firmware (-bios) stays writable below 1 MiB.
 */
#include "monitor/kvm_hosted.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

/* Three pages that VMX wants for real mode, and one for its page table: below any ROM. */
#define TSS_GPA 0xfffbd000u
#define IDENTITY_MAP_GPA 0xfffbc000u
#define LOW_RAM_END 0xa0000u
#define HIGH_RAM_START 0xc0000u

/* ---- Creation ---- */

static void release(struct mon_kvm *k) {
    if (k->run)
        munmap(k->run, k->run_bytes);
    if (k->vcpu_fd >= 0)
        close(k->vcpu_fd);
    if (k->vm_fd >= 0)
        close(k->vm_fd);
    if (k->kvm_fd >= 0)
        close(k->kvm_fd);
    if (k->rom)
        munmap(k->rom, k->rom_bytes);
    free(k);
}

static bool fail_errno(struct mon_error *err, const char *what) {
    return mon_fail(err, "-accel kvm: %s: %s", what, strerror(errno));
}

static bool map_memory(struct mon_kvm *k, unsigned slot, u64 gpa, u8 *host, u64 bytes, u32 flags) {
    struct kvm_userspace_memory_region r = {.slot = slot,
                                            .flags = flags,
                                            .guest_phys_addr = gpa,
                                            .memory_size = bytes,
                                            .userspace_addr = (u64)host};
    return bytes == 0 || !ioctl(k->vm_fd, KVM_SET_USER_MEMORY_REGION, &r);
}

/* KVM maps whole pages, which a file in memory need not begin at. */
static bool map_rom(struct vm *vm, struct mon_kvm *k) {
    const struct mon_file *rom = &vm->firmware.rom;
    if (!rom->data)
        return true;
    k->rom_bytes = (u32)rom->bytes;
    k->rom = mmap(NULL, k->rom_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (k->rom == MAP_FAILED) {
        k->rom = NULL;
        return false;
    }
    memcpy(k->rom, rom->data, k->rom_bytes);
    return map_memory(k, 2, 0x100000000ull - k->rom_bytes, k->rom, k->rom_bytes, KVM_MEM_READONLY);
}

static bool open_machine(struct vm *vm, struct mon_kvm *k, struct mon_error *err) {
    u64 ram = mmu_ram_bytes(vm->mmu), identity = IDENTITY_MAP_GPA;
    u8 *host = mmu_ram(vm->mmu);
    k->kvm_fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);
    if (k->kvm_fd < 0)
        return fail_errno(err, "could not open /dev/kvm");
    if (ioctl(k->kvm_fd, KVM_GET_API_VERSION, 0) != KVM_API_VERSION)
        return mon_fail(err, "-accel kvm: /dev/kvm speaks another version");
    k->vm_fd = ioctl(k->kvm_fd, KVM_CREATE_VM, 0);
    if (k->vm_fd < 0)
        return fail_errno(err, "could not create a virtual machine");
    ioctl(k->vm_fd, KVM_SET_IDENTITY_MAP_ADDR, &identity); /* wanted on Intel's only */
    ioctl(k->vm_fd, KVM_SET_TSS_ADDR, TSS_GPA);
    if (!map_memory(k, 0, 0, host, LOW_RAM_END, 0) ||
        !map_memory(k, 1, HIGH_RAM_START, host + HIGH_RAM_START, ram - HIGH_RAM_START, 0) ||
        !map_rom(vm, k))
        return fail_errno(err, "could not map the guest's memory");
    return true;
}

/* MSRs that are the local APIC's come to us. */
static void filter_msrs(struct mon_kvm *k) {
    static u8 none[256 / 8];
    struct kvm_enable_cap cap = {.cap = KVM_CAP_X86_USER_SPACE_MSR,
                                 .args = {KVM_MSR_EXIT_REASON_UNKNOWN | KVM_MSR_EXIT_REASON_INVAL |
                                          KVM_MSR_EXIT_REASON_FILTER}};
    struct kvm_msr_filter filter = {.flags = KVM_MSR_FILTER_DEFAULT_ALLOW};
    const struct { u32 base, count; } ours[] = {{0x1b, 1}, {0x6e0, 1}, {0x800, 0x100}};
    for (unsigned i = 0; i < ARRAY_LEN(ours); i++)
        filter.ranges[i] =
            (struct kvm_msr_filter_range){.flags = KVM_MSR_FILTER_READ | KVM_MSR_FILTER_WRITE,
                                          .base = ours[i].base,
                                          .nmsrs = ours[i].count,
                                          .bitmap = none};
    k->msr_filter =
        !ioctl(k->vm_fd, KVM_ENABLE_CAP, &cap) && !ioctl(k->vm_fd, KVM_X86_SET_MSR_FILTER, &filter);
}

static bool set_cpuid(const struct cpu_model *model, struct mon_kvm *k) {
    /* The structure ends in an array of no size. */
    _Alignas(struct kvm_cpuid2) u8
        room[sizeof(struct kvm_cpuid2) + ARRAY_LEN(model->leaf) * sizeof(struct kvm_cpuid_entry2)];
    struct kvm_cpuid2 *c = (struct kvm_cpuid2 *)room;
    memset(room, 0, sizeof room);
    c->nent = model->count;
    for (unsigned i = 0; i < model->count; i++) {
        const struct cpuid_leaf *l = &model->leaf[i];
        c->entries[i] = (struct kvm_cpuid_entry2){.function = l->leaf,
                                                  .index = l->subleaf,
                                                  .eax = l->eax,
                                                  .ebx = l->ebx,
                                                  .ecx = l->ecx,
                                                  .edx = l->edx};
        if (l->leaf ==
            0x80000008u) /* KVM takes no linear address of 32 bits; no 32-bit guest minds */
            c->entries[i].eax = (l->eax & ~0xff00u) | 48 << 8;
        for (unsigned other = 0; other < model->count; other++)
            if (other != i && model->leaf[other].leaf == l->leaf)
                c->entries[i].flags = KVM_CPUID_FLAG_SIGNIFCANT_INDEX;
    }
    return !ioctl(k->vcpu_fd, KVM_SET_CPUID2, c);
}

static bool open_cpu(struct vm *vm, struct mon_kvm *k, struct mon_error *err) {
    int bytes = ioctl(k->kvm_fd, KVM_GET_VCPU_MMAP_SIZE, 0);
    k->vcpu_fd = ioctl(k->vm_fd, KVM_CREATE_VCPU, 0);
    if (k->vcpu_fd < 0 || bytes <= 0)
        return fail_errno(err, "could not create a virtual CPU");
    void *run = mmap(NULL, (size_t)bytes, PROT_READ | PROT_WRITE, MAP_SHARED, k->vcpu_fd, 0);
    if (run == MAP_FAILED)
        return fail_errno(err, "could not map the virtual CPU");
    k->run = run;
    k->run_bytes = (size_t)bytes;
    if (!set_cpuid(&vm->model, k))
        return fail_errno(err, "the CPU model was refused");
    u64 wanted = KVM_SYNC_X86_REGS | KVM_SYNC_X86_SREGS | KVM_SYNC_X86_EVENTS;
    int there = ioctl(k->kvm_fd, KVM_CHECK_EXTENSION, KVM_CAP_SYNC_REGS);
    k->sync_regs = there > 0 && ((u64)there & wanted) == wanted;
    if (k->sync_regs)
        k->run->kvm_valid_regs = wanted;
    if (vm->clock.from_tsc) /* the host's own: where it cannot be set it is that already */
        ioctl(k->vcpu_fd, KVM_SET_TSC_KHZ, (unsigned long)(vm->clock.tsc_hz / 1000));
    return true;
}

static bool kvm_create(struct vm *vm, struct mon_error *err) {
    if (vm->opt.icount || vm->opt.bt.lockstep)
        return mon_fail(err, "-accel kvm: -icount and -lockstep need -accel bt");
    struct mon_kvm *k = calloc(1, sizeof *k);
    if (!k)
        return mon_fail(err, "out of memory");
    k->kvm_fd = k->vm_fd = k->vcpu_fd = -1;
    if (!open_machine(vm, k, err)) {
        release(k);
        return false;
    }
    filter_msrs(k);
    if (!open_cpu(vm, k, err)) {
        release(k);
        return false;
    }
    vm->kvm = k;
    return true;
}

static void kvm_destroy(struct vm *vm) {
    if (vm->kvm)
        release(vm->kvm);
    vm->kvm = NULL;
}

/* ---- State ---- */

/* An I/O instruction is only complete once KVM was entered again. */
static void complete(struct mon_kvm *k) {
    if (!k->completing)
        return;
    k->run->immediate_exit = 1;
    ioctl(k->vcpu_fd, KVM_RUN, 0);
    k->run->immediate_exit = 0;
    k->completing = false;
}

/* Makes all of vm->cpu true, and whatever is done to it count. */
static void kvm_look(struct vm *vm) {
    struct mon_kvm *k = vm->kvm;
    if (k->in_cpu)
        return;
    complete(k);
    kvm_state_get_basic(vm, k);
    kvm_state_get_rest(vm, k);
    mmu_mode_changed(vm->cpu); /* the guest changed its page tables unseen */
    if (cpu_paging(vm->cpu) && (vm->cpu->cr4 & CR4_PAE))
        mmu_load_pdptrs(vm->cpu, vm->cpu->cr3);
    k->in_cpu = true;
}

/* The machine was reset: vm->cpu is new. */
static void kvm_flush(struct vm *vm) {
    complete(vm->kvm);
    vm->kvm->in_cpu = true;
}

/* ---- Exits ---- */

static void handle_io(struct vm *vm, struct kvm_run *run) {
    u8 *data = (u8 *)run + run->io.data_offset;
    for (u32 i = 0; i < run->io.count; i++, data += run->io.size) {
        u32 value = 0;
        if (run->io.direction == KVM_EXIT_IO_OUT) {
            memcpy(&value, data, run->io.size);
            vm->bus.io_write(vm, run->io.port, value, run->io.size);
        } else {
            value = vm->bus.io_read(vm, run->io.port, run->io.size);
            memcpy(data, &value, run->io.size);
        }
    }
}

static void handle_mmio(struct vm *vm, struct kvm_run *run) {
    u64 value = 0;
    unsigned bytes = MIN(run->mmio.len, 8u);
    if (run->mmio.is_write) {
        memcpy(&value, run->mmio.data, bytes);
        vm->bus.mmio_write(vm, GPA(run->mmio.phys_addr), value, bytes);
    } else {
        value = vm->bus.mmio_read(vm, GPA(run->mmio.phys_addr), bytes);
        memcpy(run->mmio.data, &value, bytes);
    }
}

/* An MSR that KVM does not know, or that is ours. rc_rdmsr and rc_wrmsr take it from the registers.
 */
static void handle_msr(struct vm *vm, struct kvm_run *run, bool write) {
    struct cpu *cpu = vm->cpu;
    const u64 eax = cpu->gpr[R_EAX], ecx = cpu->gpr[R_ECX], edx = cpu->gpr[R_EDX];
    const u8 cpl = cpu->cpl;
    cpu->cpl = 0; /* checked already */
    cpu->gpr[R_ECX] = run->msr.index;
    cpu->gpr[R_EAX] = (u32)run->msr.data;
    cpu->gpr[R_EDX] = run->msr.data >> 32;
    run->msr.error = !(write ? rc_wrmsr(cpu) : rc_rdmsr(cpu));
    if (!write)
        run->msr.data = (u32)cpu->gpr[R_EAX] | cpu->gpr[R_EDX] << 32;
    cpu->gpr[R_EAX] = eax;
    cpu->gpr[R_ECX] = ecx;
    cpu->gpr[R_EDX] = edx;
    cpu->cpl = cpl;
}

static enum mon_exit give_up(struct vm *vm, const char *why, u64 detail) {
    log_error("kvm: %s (%llx) at %04x:%08x", why, (unsigned long long)detail,
              vm->cpu->seg[SEG_CS].selector, vm->cpu->eip);
    vm->finished = true;
    vm->exit_status = 1;
    return MON_EXIT_STEPPED;
}

static enum mon_exit handle_exit(struct vm *vm, struct mon_kvm *k) {
    struct kvm_run *run = k->run;
    k->completing = true;
    switch (run->exit_reason) {
    case KVM_EXIT_IO:
        handle_io(vm, run);
        return MON_EXIT_STEPPED;
    case KVM_EXIT_MMIO:
        handle_mmio(vm, run);
        return MON_EXIT_STEPPED;
    case KVM_EXIT_X86_RDMSR:
        handle_msr(vm, run, false);
        return MON_EXIT_STEPPED;
    case KVM_EXIT_X86_WRMSR:
        handle_msr(vm, run, true);
        return MON_EXIT_STEPPED;
    default:
        k->completing = false;
    }
    switch (run->exit_reason) {
    case KVM_EXIT_HLT:
        vm->cpu->halted = true;
        return MON_EXIT_HALT;
    case KVM_EXIT_IRQ_WINDOW_OPEN:
        return MON_EXIT_STEPPED;
    case KVM_EXIT_INTR:
        return MON_EXIT_KICK;
    case KVM_EXIT_SHUTDOWN:
        kvm_look(vm);
        vm->cpu->shutdown = true;
        return MON_EXIT_STEPPED;
    case KVM_EXIT_INTERNAL_ERROR:
        if (run->internal.suberror != KVM_INTERNAL_ERROR_EMULATION)
            return give_up(vm, "internal error", run->internal.suberror);
        kvm_look(vm); /* what it cannot emulate we can */
        return MON_EXIT_EMULATE;
    case KVM_EXIT_FAIL_ENTRY:
        return give_up(vm, "the processor refused the guest's state",
                       run->fail_entry.hardware_entry_failure_reason);
    default:
        return give_up(vm, "unknown exit", run->exit_reason);
    }
}

static enum mon_exit kvm_engine_run(struct vm *vm) {
    struct mon_kvm *k = vm->kvm;
    if (k->in_cpu && !kvm_state_set(vm, k))
        return give_up(vm, "the guest's state was refused", (u64)errno);
    k->in_cpu = false;
    if (vm->stop) /* a kick came before this one could be told */
        return MON_EXIT_KICK;
    int result = ioctl(k->vcpu_fd, KVM_RUN, 0);
    int error = errno;
    k->run->immediate_exit = 0;
    k->completing = false;
    vm->count.hardware_exits++;
    if (result < 0 && error != EINTR && error != EAGAIN)
        return give_up(vm, strerror(error), (u64)error);
    kvm_state_get_basic(vm, k);
    return result < 0 ? MON_EXIT_KICK : handle_exit(vm, k);
}

/* Between the look at vm->stop and KVM_RUN's first instruction this still counts. */
static void kvm_kick(struct vm *vm) {
    if (vm->kvm)
        vm->kvm->run->immediate_exit = 1;
}

/* The processor delivers: it knows shadows, IF and NMI blocking. */
static void kvm_interrupts(struct vm *vm) {
    struct mon_kvm *k = vm->kvm;
    struct kvm_run *run = k->run;
    if (vm->nmi_pending && !ioctl(k->vcpu_fd, KVM_NMI, 0)) {
        vm->nmi_pending = false;
        vm->cpu->halted = false;
        vm->count.interrupts++;
    }
    run->request_interrupt_window = 0;
    if (!dev_intr_pending(vm->dev))
        return;
    if (k->in_cpu || !run->ready_for_interrupt_injection || !run->if_flag) {
        run->request_interrupt_window = 1;
        return;
    }
    struct kvm_interrupt interrupt = {.irq = dev_intr_acknowledge(vm->dev)};
    ioctl(k->vcpu_fd, KVM_INTERRUPT, &interrupt);
    run->ready_for_interrupt_injection = 0;
    vm->cpu->halted = false;
    vm->count.interrupts++;
}

static const struct engine kvm_engine = {
    .name = "kvm",
    .create = kvm_create,
    .destroy = kvm_destroy,
    .run = kvm_engine_run,
    .kick_sigsafe = kvm_kick,
    .flush = kvm_flush,
    .interrupts = kvm_interrupts,
    .look = kvm_look,
};
const struct engine *const mon_engine_hardware = &kvm_engine;
