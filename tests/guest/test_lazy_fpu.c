/*
 * Floating-point state that a kernel gives back late: CR0.TS is set at each switch of process, and
 * the #NM that the first x87, MMX or SSE instruction raises saves the owner's state and restores
 * the new one's, by FXSAVE and FXRSTOR or by FNSAVE and FRSTOR. SDM volume 3A, section 13.4
 * "Designing OS Facilities for Saving x87 FPU, SSE and Extended States on Task or Context
 * Switches". Expected: each process finds its own registers, whoever ran in between; a process that
 * uses none costs no #NM; #NM reports the instruction that used the FPU and leaves it to be run
 * again.
 */
#include "guest.h"

enum { PROCESSES = 3, TURNS = 12 };
CODE(turn_fpu, "fildl (%esi); faddp; fistl (%edi); movd (%esi),%xmm1; paddd %xmm1,%xmm0;"
               "movd %xmm0,4(%edi)" DONE);
CODE(turn_mmx, "movd (%esi),%mm3; paddd %mm3,%mm2; movd %mm2,8(%edi)" DONE);
CODE(turn_none, "mov (%esi),%eax; add %eax,12(%edi)" DONE);
CODE(turn_x87, "fildl (%esi); faddp; fistl (%edi)" DONE);
CODE(fresh, "fninit; fldz" DONE);
CODE(fresh_sse, "pxor %xmm0,%xmm0; pxor %mm2,%mm2; emms; fldz" DONE);

static u8 image[PROCESSES][512] __attribute__((aligned(16)));
static u32 increment, out[PROCESSES][4], sum[PROCESSES][4];
static u32 current, owner, faults;
static bool old_style;

static void save(u8 *to) {
    if (old_style)
        __asm__ volatile("fnsave (%0); fwait" ::"r"(to) : "memory");
    else
        __asm__ volatile("fxsave (%0)" ::"r"(to) : "memory");
}
static bool on_trap(struct frame *f) {
    if (f->vector != V_NM)
        return false;
    faults++;
    __asm__ volatile("clts");
    if (owner != current) {
        save(image[owner]);
        if (old_style)
            __asm__ volatile("frstor (%0)" ::"r"(image[current]));
        else
            __asm__ volatile("fxrstor (%0)" ::"r"(image[current]));
        owner = current;
    }
    return true;
}
static void switch_to(u32 process) {
    current = process;
    write_cr0(owner == process ? read_cr0() & ~CR0_TS : read_cr0() | CR0_TS);
}
static void take_turn(u32 ring, const u8 *code, u32 expected_faults) {
    reset_run(ring);
    in.esi = (u32)&increment;
    in.edi = (u32)out[current];
    faults = 0;
    RUNS(ring, code);
    EQ(faults, expected_faults);
}

static void round_robin(u32 ring) {
    memset(out, 0, sizeof out);
    memset(sum, 0, sizeof sum);
    __asm__ volatile("clts");
    for (u32 p = 0; p < PROCESSES; p++) {
        RUNS(ring, fresh);
        if (!old_style)
            RUNS(ring, fresh_sse);
        save(image[p]);
        if (old_style)
            RUNS(ring, fresh);
    }
    owner = PROCESSES - 1;
    for (u32 turn = 0; turn < TURNS; turn++)
        for (u32 p = 0; p < PROCESSES; p++) {
            u32 kind = old_style ? 3 * (turn & 1) : (turn + p) % 3;
            increment = turn * 100 + p + 1;
            switch_to(p);
            bool moves = owner != p;
            if (kind == 0) { /* no #NM: TS stays, the owner too */
                take_turn(ring, turn_none, 0);
                sum[p][3] += increment;
                EQ(out[p][3], sum[p][3]);
            } else if (kind == 3) {
                take_turn(ring, turn_x87, moves);
                sum[p][0] += increment;
                EQ(out[p][0], sum[p][0]);
            } else {
                take_turn(ring, turn_fpu, moves);
                sum[p][0] += increment;
                sum[p][1] += increment;
                EQ(out[p][0], sum[p][0]);
                EQ(out[p][1], sum[p][1]);
            }
        }
    /* MMX in one process, x87 in another: the registers are the same. */
    if (!old_style) {
        switch_to(1);
        RUNS(ring, fresh_sse);
        increment = 5;
        take_turn(ring, turn_mmx, 0);
        switch_to(2);
        take_turn(ring, turn_x87, 1);
        switch_to(1);
        take_turn(ring, turn_mmx, 1);
        EQ(out[1][2], 10);
        __asm__ volatile("emms");
    }
    __asm__ volatile("clts; fninit");
}

void test(void) {
    u32 cr0 = read_cr0(), cr4 = read_cr4();
    write_cr0((cr0 & ~(CR0_EM | CR0_TS)) | CR0_MP | CR0_NE);
    write_cr4(cr4 | CR4_OSFXSR | CR4_OSXMMEXCPT);
    trap_hook = on_trap;
    for (u32 ring = 0; ring <= 3; ring += 3)
        for (u32 style = 0; style < 2; style++) {
            old_style = style;
            round_robin(ring);
        }
    trap_hook = NULL;
    write_cr0(cr0);
    write_cr4(cr4);
}
