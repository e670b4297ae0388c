/*
 * kvm_hosted.h: internal: what the two halves of the kvm engine share: engine_kvm_hosted.c runs the
 * guest, kvm_state_hosted.c carries the CPU's state over and back.
 */
#ifndef RINGFOLD_MONITOR_KVM_HOSTED_H
#define RINGFOLD_MONITOR_KVM_HOSTED_H

#include "monitor/vm.h"

#include <linux/kvm.h>

struct mon_kvm {
    int kvm_fd, vm_fd, vcpu_fd;
    struct kvm_run *run;
    size_t run_bytes;
    bool sync_regs; /* registers travel in struct kvm_run */
    bool msr_filter;
    bool in_cpu;     /* vm->cpu is the truth: KVM has to be told before it runs */
    bool completing; /* an I/O exit's result is taken at the next entry only */
    u8 *rom;
    u32 rom_bytes;
};

/* All of vm->cpu into the vCPU. */
bool kvm_state_set(struct vm *vm, struct mon_kvm *k);
/* Registers, segments and control registers out of it: what the loop looks at after each exit. */
void kvm_state_get_basic(struct vm *vm, struct mon_kvm *k);
/* The rest: x87 and SSE, debug registers, MSRs. */
bool kvm_state_get_rest(struct vm *vm, struct mon_kvm *k);

#endif
