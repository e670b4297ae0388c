/*
 * run.c: the VMM loop on one screen, and the table of what to do at each exit.
 */
#include "monitor/vm.h"

/* Bounds of interpreted stretches. */
#define COLD_INSNS 64
#define MODE_INSNS 1000
#define LONGEST_INSN_BYTES 15

/* ---- Exits ---- */

/* What an interpreter result means to the loop. Faults are delivered here. */
enum mon_exit mon_interp_exit(enum interp_result result) {
    switch (result) {
    case INTERP_FAULT:
        return MON_EXIT_FAULT;
    case INTERP_HALT:
        return MON_EXIT_HALT;
    case INTERP_OK:
    case INTERP_DELIVERED:
    case INTERP_REP_MORE:
        break;
    }
    return MON_EXIT_STEPPED;
}

static void deliver_fault(struct vm *vm) {
    struct cpu *cpu = vm->cpu;
    vm->count.faults++;
    if (cpu->fault.vector == VEC_PF)
        TRACE_AT(page, cpu->eip, "page fault at %08x error %x from %08x\n", cpu->fault.cr2,
                 cpu->fault.error, cpu->eip);
    rc_deliver_fault(cpu);
}

static void handle_interp_result(struct vm *vm, enum interp_result result) {
    if (result == INTERP_FAULT)
        deliver_fault(vm);
}

static void handle_emulate(struct vm *vm) {
    vm->count.emulated++;
    handle_interp_result(vm, interp_step(vm->interp, vm->cpu));
}

/* The guest has just opened the door to an interrupt that waits, or stands at a breakpoint. */
static bool must_look(const struct vm *vm) {
    return (rc_interruptible(vm->cpu) && dev_intr_pending(vm->dev)) || mon_gdb_at_breakpoint(vm);
}

/* Up to the next taken branch: bt counts how often code is met at its exits. */
static void handle_cold(struct vm *vm) {
    struct cpu *cpu = vm->cpu;
    vm->count.cold_runs++;
    u64 max = COLD_INSNS;
    if (vm->clock.icount)
        max = MIN(max, mon_clock_budget(vm, mon_next_deadline_ns(vm)));
    enum interp_result result = INTERP_OK;
    while (max-- && result == INTERP_OK && !vm->stop) {
        u32 eip = cpu->eip;
        result = interp_step(vm->interp, cpu);
        if (cpu->eip - eip - 1 >= LONGEST_INSN_BYTES || must_look(vm))
            break;
    }
    handle_interp_result(vm, result);
}

static void handle_mode(struct vm *vm) {
    vm->count.mode_runs++;
    u64 max = MODE_INSNS;
    if (vm->clock.icount)
        max = MIN(max, mon_clock_budget(vm, mon_next_deadline_ns(vm)));
    enum interp_result result = INTERP_OK;
    while (max-- && result == INTERP_OK && !vm->stop) {
        result = interp_step(vm->interp, vm->cpu);
        if (bt_mode_translatable(vm->cpu) || must_look(vm))
            break;
    }
    handle_interp_result(vm, result);
}

/* icount: the next unit is longer than what is left until something is due. */
static void handle_budget(struct vm *vm) {
    u64 left = MIN(mon_clock_budget(vm, mon_next_deadline_ns(vm)), (u64)MODE_INSNS);
    u64 end = vm->cpu->insn_count + left;
    enum interp_result result = INTERP_OK;
    while (vm->cpu->insn_count < end && result == INTERP_OK && !vm->stop && !must_look(vm))
        result = interp_step(vm->interp, vm->cpu);
    handle_interp_result(vm, result);
    vm->stop = 1;
}

static void handle_nothing(struct vm *vm) {
    (void)vm;
}
static void handle_kick(struct vm *vm) {
    vm->stop = 1;
}

static void (*const exit_table[MON_EXIT_COUNT])(struct vm *vm) = {
    [MON_EXIT_EMULATE] = handle_emulate,  [MON_EXIT_FAULT] = deliver_fault,
    [MON_EXIT_KICK] = handle_kick,        [MON_EXIT_COLD] = handle_cold,
    [MON_EXIT_MODE] = handle_mode,        [MON_EXIT_BUDGET] = handle_budget,
    [MON_EXIT_UNIT_END] = handle_nothing, [MON_EXIT_STEPPED] = handle_nothing,
    [MON_EXIT_HALT] = handle_nothing, /* cpu->halted says it */
};
static const char *const exit_name[MON_EXIT_COUNT] = {
#define X(name, help) #name,
    MON_EXITS(X)
#undef X
};

/* ---- Between exits ---- */

static void finish(struct vm *vm, int status) {
    vm->finished = true;
    vm->exit_status = status;
}

static void print_line(void *opaque, const char *line) {
    (void)opaque;
    log_printf("%s\n", line);
}

static void reset(struct vm *vm) {
    struct mon_error err;
    if (vm->opt.no_reboot) {
        finish(vm, 0);
        return;
    }
    vm->count.resets++;
    if (!mon_machine_reset(vm, &err)) {
        log_error("%s", err.text);
        finish(vm, 1);
    }
}

/* Triple fault: the full story once, then one line each time, then ever more rarely: a guest may do
 * nothing else. */
static void handle_shutdown(struct vm *vm) {
    struct cpu *cpu = vm->cpu;
    u64 n = ++vm->triple_faults;
    if (n <= 8 || (n & (n - 1)) == 0)
        log_error("the guest triple-faulted (exception %u at %04x:%08x): %s", cpu->fault.vector,
                  cpu->seg[SEG_CS].selector, cpu->eip,
                  vm->opt.no_reboot ? "exiting" : "resetting the machine");
    if (n == 1 || trace_on(TRACE_cpu_reset))
        mon_crash_guest_state(vm, print_line, NULL);
    reset(vm);
}

static void handle_requests(struct vm *vm) {
    struct dev_requests *r = dev_machine_requests(vm->dev);
    vm->nmi_pending |= r->nmi;
    r->nmi = false;
    if (r->exit) {
        finish(vm, r->exit_code);
    } else if (r->poweroff) {
        r->poweroff = false;
        if (vm->opt.no_shutdown)
            vm->paused = true;
        else
            finish(vm, 0);
    } else if (r->reset || vm->reset_wanted) {
        r->reset = vm->reset_wanted = false;
        reset(vm);
    }
}

static void report_signal(struct vm *vm) {
    int pid = vm->events.signal_pid;
    if (pid)
        log_error("terminating on signal %d from pid %d", vm->events.pending_signal, pid);
    else
        log_error("terminating on signal %d", vm->events.pending_signal);
    finish(vm, 0);
}

/* Everything that can happen without the guest: signals, input, gdb, timers, requests. */
static void process_events(struct vm *vm) {
    vm->stop = 0;
    vm->count.kicks++;
    if (vm->events.pending_signal)
        report_signal(vm);
    if (vm->events.stdin_ready || vm->console.rewatch)
        mon_console_input(vm);
    if (vm->events.gdb_ready) {
        mon_engine_look(vm);
        mon_gdb_service(vm);
    }
    if (!vm->paused) {
        u64 now = mon_clock_now_ns(vm);
        if (vm->clock.icount) {
            if (now >= vm->next_input_poll_ns)
                mon_console_input(vm);
            mon_replay_poll(vm);
        }
        if (now >= dev_next_deadline_ns(vm->dev))
            dev_run_timers(vm->dev, now);
        if (mon_serial_waiting(vm))
            dev_serial_poll(vm->dev);
    }
    if (unlikely(vm->recording))
        mon_recording_drain(vm);
    if (unlikely(vm->sampler))
        mon_sampler_drain(vm);
    handle_requests(vm);
    mon_events_arm(vm);
}

/* By another one in service, by MOV SS, or by debug traps that are due first: SDM volume 3, table
 * 6-2 "Priority Among Simultaneous Exceptions and Interrupts". */
static bool nmi_held_back(const struct cpu *cpu) {
    return cpu->nmi_blocked || (cpu->shadow & (SHADOW_SS | SHADOW_DEBUG));
}

/* One NMI waits while another is in service, up to the handler's IRET, which the interpreter
 * therefore watches for. SDM volume 3, section 6.7.1 "Handling Multiple NMIs". */
static void deliver_nmi(struct vm *vm) {
    struct cpu *cpu = vm->cpu;
    enum interp_result result = INTERP_OK;
    for (u64 max = MODE_INSNS; max-- && result == INTERP_OK && !vm->stop && !cpu->halted;) {
        if (!nmi_held_back(cpu))
            break;
        result = interp_step(vm->interp, cpu);
    }
    handle_interp_result(vm, result);
    if (nmi_held_back(cpu) || cpu->shutdown)
        return;
    vm->nmi_pending = false;
    vm->count.interrupts++;
    rc_deliver_external(cpu, VEC_NMI);
}

static void deliver_interrupts(struct vm *vm) {
    struct cpu *cpu = vm->cpu;
    if (vm->engine->interrupts) {
        vm->engine->interrupts(vm);
        return;
    }
    if (unlikely(vm->nmi_pending))
        deliver_nmi(vm);
    if (!dev_intr_pending(vm->dev))
        return;
    if ((cpu->eflags & F_IF) && cpu->shadow && !cpu->halted)
        handle_interp_result(vm, interp_step(vm->interp, cpu));
    if (!rc_interruptible(cpu))
        return;
    u8 vector = dev_intr_acknowledge(vm->dev);
    vm->count.interrupts++;
    rc_deliver_external(cpu, vector);
}

static void wait_for_interrupt(struct vm *vm) {
    vm->count.halts++;
    mon_events_wait(vm, mon_next_deadline_ns(vm));
    vm->stop = 1;
}

static void step(struct vm *vm) {
    if (mon_gdb_watches(vm)) {
        mon_engine_look(vm);
        if (mon_gdb_step(vm))
            return;
    }
    enum mon_exit why = vm->engine->run(vm);
    vm->exit_count[why]++;
    TRACE_AT(exits, vm->cpu->eip, "exit %s at %08x\n", exit_name[why], vm->cpu->eip);
    if (why == MON_EXIT_FAULT || !mon_gdb_at_breakpoint(vm)) /* else the next turn stops there */
        exit_table[why](vm);
    if (vm->clock.icount && mon_clock_now_ns(vm) >= mon_next_deadline_ns(vm))
        vm->stop = 1; /* no host timer says it */
}

/* ---- The loop ---- */

int mon_vm_run(struct vm *vm) {
    struct mon_error err;
    if (!mon_events_start(vm, &err)) {
        log_error("%s", err.text);
        return 1;
    }
    if (!mon_sampler_start(vm, &err)) {
        log_error("%s", err.text);
        mon_sampler_end(vm);
        mon_events_stop(vm);
        return 1;
    }
    mon_console_open(vm);
    vm->stop = 1;
    while (!vm->finished) {
        vm->count.loops++;
        if (vm->stop)
            process_events(vm);
        if (vm->paused || vm->finished) {
            if (!vm->finished)
                mon_events_wait(vm, DEV_NEVER);
            continue;
        }
        deliver_interrupts(vm);
        if (vm->cpu->shutdown)
            handle_shutdown(vm);
        else if (vm->cpu->halted)
            wait_for_interrupt(vm);
        else if (likely(!vm->nmi_pending) || vm->engine->interrupts) /* else deliver_nmi runs it */
            step(vm);
    }
    if (!mon_sampler_end(vm) && !vm->exit_status)
        vm->exit_status = 1;
    mon_events_stop(vm);
    return vm->exit_status;
}
