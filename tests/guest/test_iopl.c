/*
 * IOPL and IF in all four rings: IRET and POPF change IOPL at CPL 0 only, IF only when CPL <= IOPL,
 * and say nothing otherwise; CLI and STI raise #GP(0) when CPL > IOPL; IN asks the bitmap then. SDM
 * volume 1, section 19.5.1 "I/O Privilege Level"; volume 2, "IRET", "POPF", "CLI", "STI".
 * Expected: per ring and IOPL, what the rule gives.
 */
#include "guest.h"

CODE(get_flags, "pushf; pop %eax" DONE);
CODE(by_popf, "push %ecx; popf; pushf; pop %eax" DONE);
CODE(by_iret, "pushl %ecx; push %cs; push $1f; iret; 1: pushf; pop %eax" DONE);
CODE(by_popf16, "pushw %cx; popfw; pushf; pop %eax" DONE);
CODE(by_iret16, "pushw %cx; pushw %cs; pushw $by_iret16_end; data16 iret; .globl by_iret16_end\n"
                ".set by_iret16_end, 0x7000");
CODE(do_cli, "cli; pushf; pop %eax" DONE);
CODE(do_sti, "sti; pushf; pop %eax" DONE);
CODE(do_in, "in $0x61,%al; .globl after_in\nafter_in:" DONE);
static u16 code[4], data[4];
static u8 stacks[4][1024] __attribute__((aligned(16)));

/* A run at any ring with these flags. The interrupt lines are all masked. */
static u32 at(u32 cpl, u32 flags, u32 image, const u8 *what) {
    reset_run(cpl);
    in.eflags = flags | F_FIXED;
    in.ecx = image;
    if (cpl) {
        in.cs = code[cpl];
        in.ss = in.ds = in.es = in.fs = in.gs = data[cpl];
        in.esp = (u32)(stacks[cpl] + sizeof stacks[cpl]);
    }
    return run(cpl, what);
}

static void changes(u32 cpl, u32 iopl, const u8 *what) {
    u32 old = iopl << 12;
    for (u32 bits = 0; bits < 8; bits++) {
        u32 image = F_FIXED | (bits & 1 ? F_IF : 0) | (bits >> 1) << 12 | F_CF;
        for (u32 was = 0; was < 2; was++) {
            u32 before = old | (was ? F_IF : 0);
            u32 expected = F_FIXED | F_CF | (cpl == 0 ? image & F_IOPL : old);
            expected |= (cpl <= iopl ? image : before) & F_IF;
            EQ(at(cpl, before, image, what), V_DONE);
            EQ(trap.eax, expected);
        }
    }
}

void test(void) {
    for (u32 cpl = 1; cpl < 4; cpl++) {
        code[cpl] = gdt_set(FREE_GDT + cpl, descriptor(0, 0xfffff, (u8)(0x9a | cpl << 5), 12));
        data[cpl] = gdt_set(FREE_GDT + 4 + cpl, descriptor(0, 0xfffff, (u8)(0x92 | cpl << 5), 12));
    }
    tss.iomap = sizeof tss;
    memcpy((void *)0x7000, get_flags, 16);
    for (u32 cpl = 0; cpl < 4; cpl++)
        for (u32 iopl = 0; iopl < 4; iopl++) {
            changes(cpl, iopl, by_popf);
            changes(cpl, iopl, by_iret);
            changes(cpl, iopl, by_popf16);
            changes(cpl, iopl, by_iret16);
            bool allowed = cpl <= iopl;
            static const u8 *const set[2] = {do_cli, do_sti};
            for (u32 i = 0; i < 2; i++) {
                u32 before = iopl << 12 | (i ? 0 : F_IF);
                EQ(at(cpl, before, 0, set[i]), allowed ? V_DONE : V_GP);
                EQ(trap.error, 0);
                if (allowed)
                    EQ(trap.eax & F_IF, i ? F_IF : 0);
                else
                    EQ(trap.eip, set[i]);
            }
            EQ(at(cpl, iopl << 12, 0, do_in), allowed ? V_DONE : V_GP);
            if (!allowed)
                EQ(trap.eip, do_in);
        }
    for (u32 i = 1; i < 8; i++)
        gdt_set(FREE_GDT + i, 0);
}
