/*
 * machine.c: the glue. It puts one CPU, its memory, the devices and an engine together, lends the
 * CPU a bus to the devices, and brings everything into the state after power-on.
 */
#include "base/memory.h"
#include "monitor/outside.h"
#include "monitor/vm.h"

#include <stdlib.h>

/* -icount: the RTC starts here unless -rtc says otherwise, so that runs are alike. */
#define FIXED_EPOCH_S 1577836800 /* 2020-01-01 */
#define MSR_TSC 0x10u
#define APIC_BASE_DISABLED 0xfee00000u

/* ---- The CPU's bus ---- */

/* After the guest touched a device: an interrupt may have come up, a timer may be due earlier, the
 * machine may have been told to stop. */
static void note_device_access(struct vm *vm) {
    struct dev_requests *r = dev_machine_requests(vm->dev);
    if (r->intr_changed || r->nmi || r->reset || r->poweroff || r->exit) {
        r->intr_changed = false;
        vm->stop = 1;
    }
    if (unlikely(vm->cpu->a20_masked == dev_a20_enabled(vm->dev))) {
        mmu_set_a20(vm->cpu, dev_a20_enabled(vm->dev));
        vm->stop = 1; /* the engine may be another: see bt_engine_run */
    }
    if (vm->clock.icount)
        vm->stop = 1; /* the budget may have become too long */
    else if (dev_next_deadline_ns(vm->dev) < vm->events.armed_ns)
        mon_events_arm(vm);
}

static u32 bus_io_read(void *opaque, u16 port, unsigned bytes) {
    struct vm *vm = opaque;
    vm->count.io_reads++;
    u32 value = dev_io_read(vm->dev_bus, port, bytes);
    TRACE(ioport, "in  %04x/%u -> %x at %08x\n", port, bytes, value, vm->cpu->eip);
    note_device_access(vm);
    return value;
}
static void bus_io_write(void *opaque, u16 port, u32 value, unsigned bytes) {
    struct vm *vm = opaque;
    vm->count.io_writes++;
    TRACE(ioport, "out %04x/%u <- %x at %08x\n", port, bytes, value, vm->cpu->eip);
    dev_io_write(vm->dev_bus, port, value, bytes);
    note_device_access(vm);
}
static u64 bus_mmio_read(void *opaque, struct gpa addr, unsigned bytes) {
    struct vm *vm = opaque;
    vm->count.mmio_reads++;
    u64 value = dev_mmio_read(vm->dev_bus, addr, bytes);
    note_device_access(vm);
    return value;
}
static void bus_mmio_write(void *opaque, struct gpa addr, u64 value, unsigned bytes) {
    struct vm *vm = opaque;
    vm->count.mmio_writes++;
    dev_mmio_write(vm->dev_bus, addr, value, bytes);
    note_device_access(vm);
}
static u64 bus_tsc(void *opaque) {
    return mon_clock_tsc(opaque);
}

/* The TSC that the guest sees, which a deadline is in terms of. */
static u64 guest_tsc(void *opaque) {
    const struct vm *vm = opaque;
    return mon_clock_tsc(vm) + vm->cpu->tsc_offset;
}
static bool bus_msr(void *opaque, u32 index, bool write, u64 *value) {
    struct vm *vm = opaque;
    bool good = true;
    if (index == MSR_TSC)
        dev_apic_tsc_changed(vm->dev);
    else
        good = dev_apic_msr(vm->dev, index, write, value);
    note_device_access(vm);
    return good;
}

/* Under -icount a run must be repeatable: then the numbers are a fixed sequence (the generator is
 * SplitMix64, by Sebastiano Vigna). */
static bool bus_random(void *opaque, u64 *value) {
    struct vm *vm = opaque;
    if (!vm->clock.icount)
        return mon_host_random(value);
    u64 z = vm->random_state += 0x9e3779b97f4a7c15ull;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ z >> 27) * 0x94d049bb133111ebull;
    *value = z ^ z >> 31;
    return true;
}

static bool bus_ferr(void *opaque, bool asserted) {
    struct vm *vm = opaque;
    bool ignne = dev_ferr_set(vm->dev, asserted);
    note_device_access(vm);
    return ignne;
}

static u64 clock_now(void *opaque) {
    return mon_clock_now_ns(opaque);
}
static void dma_written(void *opaque, struct gpa addr, u64 bytes) {
    mmu_phys_written(((struct vm *)opaque)->mmu, addr, bytes);
}
static bool ram_writable(void *opaque, struct gpa addr, u64 bytes) {
    return mmu_phys_writable(((struct vm *)opaque)->mmu, addr, bytes);
}
static void shadow_changed(void *opaque, struct gpa addr, u64 bytes, bool writable) {
    mon_firmware_shadow(opaque, addr, bytes, writable);
}

/* ---- Reset ---- */

/* What a BIOS leaves in registers that Linux reads. */
static void set_firmware_registers(struct cpu *cpu) {
    cpu->msr_mtrr_deftype = 0x806; /* MTRRs on, everything write-back */
}

/* The guest stands at its entry: firmware at the reset vector, a kernel as its protocol says. */
static bool load_guest(struct vm *vm, struct mon_error *err) {
    if (mon_firmware_place(vm))
        return true;
    set_firmware_registers(vm->cpu);
    if (!mon_image_load(&vm->image, mmu_ram(vm->mmu), mmu_ram_bytes(vm->mmu), vm->cpu, err))
        return false;
    dev_mp_place_tables(vm->dev);
    dev_acpi_place_tables(vm->dev);
    return true;
}

bool mon_machine_reset(struct vm *vm, struct mon_error *err) {
    struct cpu *cpu = vm->cpu;
    u64 insns = cpu->insn_count;
    if (vm->count.resets) /* fresh memory is zero */
        mmu_ram_clear(vm->mmu);
    cpu_reset(cpu);
    cpu->insn_count = insns; /* -icount's clock never runs back */
    if (!mon_cpu_has(cpu->model, "apic"))
        cpu->msr_apicbase = APIC_BASE_DISABLED;
    dev_machine_reset(vm->dev);
    mmu_phys_written(vm->mmu, GPA(0), mmu_ram_bytes(vm->mmu));
    if (!load_guest(vm, err))
        return false;
    vm->nmi_pending = false;
    mmu_mode_changed(cpu);
    if (vm->engine->flush)
        vm->engine->flush(vm);
    vm->stop = 1;
    if (trace_on(TRACE_cpu_reset))
        trace_printf("CPU reset, entry at %08x\n", cpu->eip);
    return true;
}

u64 mon_next_deadline_ns(struct vm *vm) {
    u64 deadline = dev_next_deadline_ns(vm->dev);
    if (vm->clock.icount) {
        deadline = MIN(deadline, vm->next_input_poll_ns);
        deadline = MIN(deadline, mon_replay_next_ns(vm));
    }
    return deadline;
}

/* ---- Creation ---- */

/* Guest RAM is taken page by page: what the host can never give must be refused now. */
static bool host_has_memory(u64 bytes, struct mon_error *err) {
    u64 total = memory_host_bytes();
    return !total || bytes <= total ||
           mon_fail(err, "-m: cannot get %llu MiB of memory: the host has %llu MiB",
                    (unsigned long long)(bytes >> 20), (unsigned long long)(total >> 20));
}

static bool create_memory(struct vm *vm, struct mon_error *err) {
    struct mmu_error why;
    if (!host_has_memory(vm->opt.ram_bytes, err))
        return false;
    vm->mmu = mmu_create(vm->opt.ram_bytes, &why);
    if (!vm->mmu)
        return mon_fail(err, "-m: cannot get %llu MiB of memory from the host: %s",
                        (unsigned long long)(vm->opt.ram_bytes >> 20), why.text);
    vm->cpu = cpu_create();
    if (!vm->cpu)
        return mon_fail(err, "out of memory");
    vm->bus = (struct cpu_bus){.io_read = bus_io_read,
                               .io_write = bus_io_write,
                               .mmio_read = bus_mmio_read,
                               .mmio_write = bus_mmio_write,
                               .tsc = bus_tsc,
                               .msr = mon_cpu_has(&vm->model, "apic") ? bus_msr : NULL,
                               .random = bus_random,
                               .ferr = bus_ferr,
                               .opaque = vm,
                               .io_light = mon_io_light};
    vm->cpu->mmu = vm->mmu;
    vm->cpu->bus = &vm->bus;
    vm->cpu->model = &vm->model;
    vm->cpu->owner = vm;
    return true;
}

static bool create_devices(struct vm *vm, struct mon_error *err) {
    const struct mon_options *o = &vm->opt;
    struct dev_config c = {.ram_bytes = o->ram_bytes,
                           .clock = {.now_ns = clock_now, .opaque = vm},
                           .apic = {.present = mon_cpu_has(&vm->model, "apic"),
                                    .x2apic = mon_cpu_has(&vm->model, "x2apic"),
                                    .tsc_deadline = mon_cpu_has(&vm->model, "tsc-deadline"),
                                    .timer_hz = vm->model.crystal_hz,
                                    .tsc_hz = vm->clock.tsc_hz,
                                    .tsc = guest_tsc,
                                    .opaque = vm},
                           .debug_exit = o->debug_exit,
                           .debug_exit_iobase = o->debug_exit_iobase,
                           .debug_exit_iosize = o->debug_exit_iosize,
                           .testdev = o->testdev,
                           .debugcon = mon_serial_chardev(&vm->debugcon),
                           .ram = mmu_ram(vm->mmu),
                           .dma_written = dma_written,
                           .ram_writable = ram_writable,
                           .shadow_changed = vm->firmware.rom.data ? shadow_changed : NULL,
                           .dma_opaque = vm,
                           .fw_cfg = vm->firmware.item,
                           .fw_cfg_items = vm->firmware.items};
    c.clock.epoch_s = o->rtc_set ? o->rtc_epoch_s : o->icount ? FIXED_EPOCH_S : mon_epoch_s();
    for (unsigned i = 0; i < ARRAY_LEN(vm->serial); i++)
        c.serial[i] = mon_serial_chardev(&vm->serial[i]);
    vm->dev = dev_machine_create(&c);
    if (!vm->dev)
        return mon_fail(err, "out of memory for the devices");
    vm->dev_bus = dev_machine_bus(vm->dev);
    return true;
}

static const struct engine *engine_named(const char *accel) {
    if (!strcmp(accel, "kvm"))
        return mon_engine_hardware;
    return !strcmp(accel, "interp") ? &mon_engine_interp : &mon_engine_bt;
}

static bool build(struct vm *vm, struct mon_error *err) {
    const struct mon_options *o = &vm->opt;
    struct mon_host_cpu host;
    mon_host_cpu(&host);
    mon_clock_init(&vm->clock, o, &host);
    if (!mon_cpu_model(o->cpu, &host, vm->clock.tsc_hz, &vm->model, err))
        return false;
    if (o->kernel && !mon_image_open(&vm->image, o->kernel, o->initrd, o->append, err))
        return false;
    if (!mon_firmware_open(vm, err))
        return false;
    if (!create_memory(vm, err) || !mon_serial_open(vm, err) || !create_devices(vm, err))
        return false;
    cpu_reset(vm->cpu);
    vm->interp = interp_create();
    if (!vm->interp)
        return mon_fail(err, "out of memory for the interpreter");
    vm->engine = engine_named(o->accel);
    if (!vm->engine)
        return mon_fail(err, "-accel %s: there is none here", o->accel);
    if (vm->engine->create && !vm->engine->create(vm, err))
        return false;
    if (o->bt.lockstep && !mon_lockstep_open(vm, err))
        return false;
    if (!mon_replay_open(vm, err) || !mon_gdb_open(vm, err) || !mon_recording_open(vm, err) ||
        !mon_perfmap_open(vm, err))
        return false;
    return mon_machine_reset(vm, err);
}

struct vm *mon_vm_create(const struct mon_options *options, struct mon_error *err) {
    struct vm *vm = calloc(1, sizeof *vm);
    if (!vm) {
        mon_fail(err, "out of memory");
        return NULL;
    }
    vm->opt = *options;
    vm->gdb.fd = vm->gdb.listen_fd = -1;
    vm->events.armed_ns = DEV_NEVER;
    vm->next_input_poll_ns = DEV_NEVER;
    vm->host_start_ns = mon_host_ns();
    vm->paused = options->start_paused;
    if (!build(vm, err)) {
        mon_vm_destroy(vm);
        return NULL;
    }
    return vm;
}

void mon_vm_destroy(struct vm *vm) {
    if (!vm)
        return;
    mon_recording_end(vm);
    mon_perfmap_close(vm);
    mon_gdb_close(vm);
    mon_replay_close(vm);
    mon_lockstep_close(vm);
    if (vm->engine && vm->engine->destroy)
        vm->engine->destroy(vm);
    if (vm->interp)
        interp_destroy(vm->interp);
    dev_machine_destroy(vm->dev);
    mon_serial_close(vm);
    mon_firmware_close(vm);
    mon_image_close(&vm->image);
    cpu_destroy(vm->cpu);
    if (vm->mmu)
        mmu_destroy(vm->mmu);
    free(vm);
}
