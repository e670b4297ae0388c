/*
 * Limits and types of segments: byte and page granularity, expand-down, read-only and
 * execute-only, the stack, the last byte of an access, CS. SDM volume 3A, sections 5.3 "Limit
 * Checking" and 5.4 "Type Checking".
 * Expected: inside, the access; outside, #GP(0), or #SS(0) for the stack segment; EIP at the
 * access.
 * QEMU: TCG checks no segment limits and no types
 * UNPAGED: an emulating carrier checks no limits of untranslated code
 */
#include "guest.h"

extern const u8 image_end[];
CODE(load1, "movb %fs:(%ecx),%al" DONE);
CODE(load2, "movw %fs:(%ecx),%ax" DONE);
CODE(load4, "movl %fs:(%ecx),%eax" DONE);
CODE(store4, "movl %eax,%fs:(%ecx)" DONE);
CODE(lea4, ".byte 0x64; lea (%ecx),%eax" DONE); /* touches no memory */
CODE(push4, "push %eax" DONE);
CODE(pop4, "pop %eax" DONE);
CODE(ss_load, "mov (%esp,%ecx),%eax" DONE);
CODE(cs_store, "mov %eax,%cs:scratch" DONE);
CODE(cs_load, "mov %cs:scratch,%eax" DONE);
CODE(movs_limit, "cld; mov $16,%ecx; xor %esi,%esi; mov $scratch+65536,%edi; rep fs movsl" DONE);
CODE(call_out, "call *%ecx" DONE);
CODE(jump_out, "jmp *%ecx" DONE);
CODE(bts_far, "mov $0x8000,%eax; bts %eax,%fs:0" DONE);
CODE(xlat_fs, "mov $0x80,%eax; fs xlatb" DONE);
CODE(fld_fs, "fldl %fs:(%ecx); fstp %st(0)" DONE);
CODE(sse_fs, "movups %fs:(%ecx),%xmm0" DONE);

static u32 at(const u8 *code, u16 fs, u32 offset) {
    reset_run(3);
    in.fs = fs;
    in.ecx = offset;
    u32 vector = run(3, code);
    if (vector != V_DONE) {
        EQ(trap.error, 0);
        EQ(trap.eip, code);
    }
    return vector;
}

static void data_limits(void) {
    u16 bytes = gdt_set(FREE_GDT, descriptor(SCRATCH, 0xfff, 0xf2, 4));
    EQ(at(load1, bytes, 0xfff), V_DONE);
    EQ(at(load1, bytes, 0x1000), V_GP);
    EQ(at(load2, bytes, 0xffe), V_DONE);
    EQ(at(load2, bytes, 0xfff), V_GP);
    EQ(at(load4, bytes, 0xffc), V_DONE);
    EQ(at(load4, bytes, 0xffd), V_GP);
    EQ(at(store4, bytes, 0xffc), V_DONE);
    EQ(at(store4, bytes, 0xffd), V_GP);
    EQ(at(load4, bytes, 0xffffffff), V_GP);
    EQ(at(load4, bytes, 0xfffffffc), V_GP);
    EQ(at(lea4, bytes, 0xfffffff0), V_DONE);
    EQ(at(fld_fs, bytes, 0xff8), V_DONE);
    EQ(at(fld_fs, bytes, 0xff9), V_GP);
    u16 pages = gdt_set(FREE_GDT, descriptor(SCRATCH, 1, 0xf2, 12));
    EQ(at(load4, pages, 0x1ffc), V_DONE);
    EQ(at(load4, pages, 0x1ffd), V_GP);
    u16 down = gdt_set(FREE_GDT, descriptor(SCRATCH, 0xfff, 0xf6, 4));
    EQ(at(load4, down, 0x1000), V_DONE);
    EQ(at(load4, down, 0xffd), V_GP);
    EQ(at(load4, down, 0), V_GP);
    u16 read_only = gdt_set(FREE_GDT, descriptor(SCRATCH, 0xfffff, 0xf0, 12));
    EQ(at(load4, read_only, 0), V_DONE);
    EQ(at(store4, read_only, 0), V_GP);
    u16 readable_code = gdt_set(FREE_GDT, descriptor(SCRATCH, 0xfffff, 0xfa, 12));
    EQ(at(load4, readable_code, 0), V_DONE);
    EQ(at(store4, readable_code, 0), V_GP);
}

static void special_forms(void) {
    u16 bytes = gdt_set(FREE_GDT, descriptor(SCRATCH, 0xfff, 0xf2, 4));
    reset_run(3);
    in.fs = bytes;
    EQ(run(3, bts_far), V_GP); /* bit 8000h is byte 1000h */
    reset_run(3);
    in.fs = bytes;
    in.ebx = 0xf80;
    EQ(run(3, xlat_fs), V_GP);
    reset_run(3);
    in.fs = bytes;
    in.ebx = 0xf7f;
    RUNS(3, xlat_fs);
    u16 tiny = gdt_set(FREE_GDT, descriptor(SCRATCH, 35, 0xf2, 4));
    reset_run(3);
    in.fs = tiny;
    EQ(run(3, movs_limit), V_GP); /* nine whole words, then the fault */
    EQ(trap.ecx, 7);
    EQ(trap.esi, 36);
    EQ(trap.edi, SCRATCH + 65536 + 36);
    reset_run(3);
    in.fs = tiny;
    in.ecx = 20;
    RUNS(3, sse_fs);
    reset_run(3);
    in.fs = tiny;
    in.ecx = 21;
    EQ(run(3, sse_fs), V_GP);
}

static void stack_limits(void) {
    u16 small = gdt_set(FREE_GDT, descriptor(SCRATCH, 0xff, 0xf2, 4));
    static const struct {
        const u8 *code;
        u32 esp, vector;
    } cases[] = {{push4, 0x100, V_DONE},  {push4, 0x104, V_SS}, {push4, 0, V_SS},
                 {push4, 2, V_SS},        {pop4, 0xfc, V_DONE}, {pop4, 0xfd, V_SS},
                 {ss_load, 0xfc, V_DONE}, {ss_load, 0xfd, V_SS}};
    for (u32 i = 0; i < sizeof cases / sizeof *cases; i++) {
        reset_run(3);
        in.ss = small;
        in.esp = cases[i].esp;
        EQ(run(3, cases[i].code), cases[i].vector);
        if (cases[i].vector == V_SS) {
            EQ(trap.error, 0);
            EQ(trap.eip, cases[i].code);
            EQ(trap.esp, cases[i].esp); /* a push that faults leaves ESP alone */
        }
    }
}

static void code_segments(void) {
    EQ(run(3, cs_store), V_GP);
    RUNS(3, cs_load);
    u16 execute_only = gdt_set(FREE_GDT, descriptor(0, 0xfffff, 0xf8, 12));
    reset_run(3);
    in.cs = execute_only;
    FAULTS(3, cs_load, V_GP, 0);
    u32 limit = (u32)image_end;
    u16 short_code = gdt_set(FREE_GDT, descriptor(0, limit >> 12, 0xfa, 12));
    reset_run(3);
    in.cs = short_code;
    RUNS(3, cs_load);
    for (u32 i = 0; i < 2; i++) {
        reset_run(3);
        in.cs = short_code;
        in.ecx = (limit | 0xfff) + 1;
        FAULTS(3, i ? call_out : jump_out, V_GP, 0);
        EQ(trap.eip, i ? call_out : jump_out);
        EQ(trap.esp, USER_STACK_TOP);
    }
}

void test(void) {
    write_cr4(read_cr4() | CR4_OSFXSR);
    data_limits();
    special_forms();
    stack_limits();
    code_segments();
    gdt_set(FREE_GDT, 0);
}
