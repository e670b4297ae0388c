/*
 * The edges of the address space: accesses that wrap at 4 GiB, the last bytes below it, page
 * crossings whose second half faults, unaligned accesses of all sizes, stacks at the edges,
 * negative and scaled addresses. SDM volume 3A, section 3.3.5; volume 1, section 3.7.5
 * "Specifying an Offset".
 * Expected: effective addresses are modulo 2^32; a crossing access that faults writes nothing and
 * reports in CR2 the first byte on the faulting page.
 */
#include "guest.h"

enum { AREA = 0x30000000 };
#define TOP 0xfffff000u
CODE(load4, "mov (%ecx),%eax" DONE);
CODE(load2, "movzwl (%ecx),%eax" DONE);
CODE(store4, "mov %edx,(%ecx)" DONE);
CODE(store2, "mov %dx,(%ecx)" DONE);
CODE(add4, "add %edx,(%ecx)" DONE);
CODE(xchg4, "xchg %edx,(%ecx)" DONE);
CODE(push4, "mov %esp,%ebp; mov %ecx,%esp; push %edx; mov %esp,%ecx; mov %ebp,%esp" DONE);
CODE(pop4, "mov %esp,%ebp; mov %ecx,%esp; pop %edx; mov %esp,%ecx; mov %ebp,%esp" DONE);
CODE(sse16, "movups (%ecx),%xmm0; movups %xmm0,(%edx)" DONE);
CODE(fpu8, "fldl (%ecx); fstpl (%edx)" DONE);
CODE(scaled, "mov 16(%ecx,%edx,8),%eax; lea 16(%ecx,%edx,8),%ebx; mov -4(%ebx),%esi" DONE);
CODE(based_esp,
     "push %ecx; mov (%esp),%eax; pop %ebx; lea 8(%esp,%ecx),%edx; push 0(%esp); pop (%esp);"
     "push $5; pop -8(%esp); mov -8(%esp),%esi" DONE);
CODE(high_bytes, "mov $0x12345678,%eax; mov %ah,(%ecx); mov 1(%ecx),%bh; add %ah,%bh; xchg %bl,%bh;"
                 "push $0x3400; mov (%esp),%dl; mov 1(%esp),%dh; mov %dh,%ah; pop %edi" DONE);

static u32 at(u32 ring, const u8 *code, u32 ecx, u32 edx) {
    reset_run(ring);
    in.ecx = ecx;
    in.edx = edx;
    return run(ring, code);
}

static void wrap(u32 ring) {
    /* Last page of the address space and page 0 map two pages of scratch. */
    map(TOP, SCRATCH, PT_P | PT_W | PT_U);
    u32 zero_page = *pte(0);
    map(0, SCRATCH + 4096, PT_P | PT_W | PT_U);
    *(u32 *)(SCRATCH + 4092) = 0x44332211;
    *(u32 *)(SCRATCH + 4096) = 0x88776655;
    EQ(at(ring, load4, 0xfffffffc, 0), V_DONE);
    EQ(trap.eax, 0x44332211);
    EQ(at(ring, load4, 0xfffffffd, 0), V_DONE);
    EQ(trap.eax, 0x55443322);
    EQ(at(ring, load2, 0xffffffff, 0), V_DONE);
    EQ(trap.eax, 0x5544);
    EQ(at(ring, store4, 0xfffffffe, 0xaabbccdd), V_DONE);
    EQ(*(u32 *)(SCRATCH + 4094), 0xaabbccdd);
    EQ(at(ring, add4, 0xfffffffe, 1), V_DONE);
    EQ(*(u32 *)(SCRATCH + 4094), 0xaabbccde);
    EQ(at(ring, push4, 2, 0x01020304), V_DONE);
    EQ(*(u32 *)(SCRATCH + 4094), 0x01020304);
    EQ(trap.ecx, 0xfffffffe);
    EQ(at(ring, pop4, 0xfffffffe, 0), V_DONE);
    EQ(trap.edx, 0x01020304);
    EQ(trap.ecx, 2);
    EQ(at(ring, push4, 0, 0x0a0b0c0d), V_DONE);
    EQ(*(u32 *)(SCRATCH + 4092), 0x0a0b0c0d);
    EQ(at(ring, scaled, 0xfffffff0, 0x1ffffffe), V_DONE); /* wraps twice */
    EQ(trap.ebx, 0xfffffff0);
    map(0, 0, 0);
    EQ(at(ring, load4, 0xfffffffd, 0), V_PF);
    EQ(trap_cr2, 0);
    *(u32 *)(SCRATCH + 4092) = 0x44332211;
    EQ(at(ring, store4, 0xfffffffe, 0), V_PF);
    EQ(*(u32 *)(SCRATCH + 4092), 0x44332211);
    EQ(trap_cr2, 0);
    map(TOP, 0, 0);
    *pte(0) = zero_page;
    invlpg(0);
    EQ(at(ring, load4, 0xfffffffe, 0), V_PF);
    EQ(trap_cr2, 0xfffffffe);
}

static void crossing(u32 ring) {
    map(AREA, SCRATCH, PT_P | PT_W | PT_U);
    map(AREA + 4096, SCRATCH + 8192, PT_P | PT_U);
    map(AREA + 8192, 0, 0);
    *(u32 *)(SCRATCH + 4092) = 0x44332211;
    *(u32 *)(SCRATCH + 8192) = 0x88776655;
    EQ(at(ring, load4, AREA + 4094, 0), V_DONE);
    EQ(trap.eax, 0x66554433);
    static const u8 *const writers[] = {store4, add4, xchg4};
    for (u32 i = 0; i < 3; i++) {
        EQ(at(ring, writers[i], AREA + 4094, 0xffffffff), V_PF);
        EQ(trap.error, ring ? 7 : 3);
        EQ(trap_cr2, AREA + 4096);
        EQ(*(u32 *)(SCRATCH + 4092), 0x44332211);
        EQ(trap.edx, 0xffffffff);
    }
    EQ(at(ring, store2, AREA + 4095, 0xffff), V_PF);
    EQ(scratch[4095], 0x44);
    EQ(at(ring, load4, AREA + 8190, 0), V_PF);
    EQ(trap_cr2, AREA + 8192);
    /* The first page faults: CR2 is the address itself. */
    EQ(at(ring, store4, AREA + 8188, 0), V_PF);
    EQ(trap_cr2, AREA + 8188);
    if (ring) { /* at ring 0 the fault would have no stack */
        EQ(at(ring, push4, AREA + 4098, 0), V_PF);
        EQ(trap.esp, AREA + 4098);
        EQ(trap_cr2, AREA + 4096);
    }
    EQ(at(ring, sse16, SCRATCH + 33, AREA + 4090), V_PF);
    EQ(trap_cr2, AREA + 4096);
    EQ(at(ring, fpu8, SCRATCH + 33, AREA + 4090), V_PF);
    EQ(trap_cr2, AREA + 4096);
    __asm__ volatile("fninit");
    EQ(*(u32 *)(SCRATCH + 4092), 0x44332211);
    map(AREA, 0, 0);
    map(AREA + 4096, 0, 0);
}

void test(void) {
    write_cr4(read_cr4() | CR4_OSFXSR);
    paging_prepare();
    pte(AREA);
    pte(TOP);
    paging_on();
    write_cr0(read_cr0() | CR0_WP);
    for (u32 ring = 0; ring <= 3; ring += 3) {
        wrap(ring);
        crossing(ring);
        reset_run(ring);
        in.ecx = 0x1234;
        in.esp = USER_STACK_TOP - 256;
        RUNS(ring, based_esp);
        EQ(trap.eax, 0x1234);
        EQ(trap.ebx, 0x1234);
        EQ(trap.edx, USER_STACK_TOP - 256 + 8 + 0x1234);
        EQ(trap.esi, 5);
        EQ(trap.esp, USER_STACK_TOP - 256);
        reset_run(ring);
        in.ecx = SCRATCH;
        scratch[1] = 0x10;
        RUNS(ring, high_bytes);
        EQ(scratch[0], 0x56);
        EQ(trap.ebx, 0x66);
        EQ(trap.edx, 0x3400);
        EQ(trap.eax, 0x12343478);
    }
    paging_off();
}
