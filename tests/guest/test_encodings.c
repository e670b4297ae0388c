/*
 * Encodings that 64-bit mode gave another meaning or took away: INC/DEC 40-4F, PUSHA/POPA, BOUND,
 * INTO, decimal arithmetic, LES/LDS/LSS/LFS/LGS, SALC, ARPL, opcode 82h, PUSH/POP CS..DS, moffs,
 * 16-bit addressing; and XLAT, ENTER/LEAVE, CMPXCHG8B, BSWAP, LAHF/SAHF, CMOV, MOVBE-free. SDM
 * volume 2, the instruction's own page. Expected: as computed by hand below.
 */
#include "guest.h"

u32 far_pointer[2];
u64 eight = 0x1122334455667788ull;
CODE(inc_dec,
     "mov $7,%eax; mov %eax,%ecx; mov %eax,%edx; mov %eax,%ebx; mov %eax,%ebp; mov %eax,%esi;"
     "mov %eax,%edi; stc; inc %eax; inc %ecx; dec %edx; dec %ebx; inc %ebp; dec %esi; incw %di;"
     "inc %esp; dec %esp; setc %al" DONE);
CODE(pusha,
     "mov $1,%eax; mov $2,%ecx; mov $3,%edx; mov $4,%ebx; mov $6,%ebp; mov $7,%esi; mov $8,%edi;"
     "mov %esp,far_pointer; pushal; pop %edi; pop %esi; pop %ebp; pop %eax; sub far_pointer,%eax;"
     "pop %ebx; pop %edx; pop %ecx; add (%esp),%ecx; add $4,%esp" DONE);
CODE(popa,
     "push $1; push $2; push $3; push $4; push $0xdead; push $6; push $7; push $8; popal" DONE);
CODE(
    pusha16,
    "mov %esp,%ebx; pushaw; sub %esp,%ebx; mov %ebx,far_pointer; popaw; mov far_pointer,%ebx" DONE);
CODE(decimal_daa, "mov $0x79,%al; add $0x35,%al; daa; setc %ah; mov %eax,%ebx; mov $0x9a,%al; clc; "
                  "daa; setc %ah" DONE);
CODE(decimal_das, "mov $0x35,%al; sub $0x47,%al; das; setc %ah" DONE);
CODE(ascii_aaa,
     "mov $0x0008,%eax; add $9,%al; aaa; mov %eax,%ebx; mov $0x0203,%eax; sub $9,%al; aas" DONE);
CODE(aam_aad, "mov $0xffff004f,%eax; aam; mov %eax,%ebx; mov $0x0709,%eax; aad; mov %eax,%ecx;"
              "mov $0x0105,%eax; .byte 0xd5,16; mov %eax,%edx; mov $0xff,%eax; .byte 0xd4,16" DONE);
CODE(salc, "stc; mov $0x1200,%eax; .byte 0xd6; mov %eax,%ebx; clc; .byte 0xd6" DONE);
CODE(arpl, "mov $0x10,%eax; mov $3,%ecx; arpl %cx,%ax; setz %bl; arpl %cx,%ax; setz %bh" DONE);
CODE(op82, "mov $5,%al; .byte 0x82,0xc0,3; .byte 0x82,0xf8,8; sete %ah" DONE);
CODE(les_lds,
     "les far_pointer,%eax; mov %es,%ecx; lfs far_pointer,%edx; mov %fs,%ebx; lgs far_pointer,%esi;"
     "lds far_pointer,%edi" DONE);
CODE(les_16, "mov $-1,%eax; .byte 0x66; les far_pointer+2,%eax" DONE);
CODE(moffs, "mov far_pointer,%al; mov %al,far_pointer+1; .byte 0x66,0xa1; .long far_pointer;"
            ".byte 0xa3; .long far_pointer+4" DONE);
CODE(address16, "mov $0x12340010,%ebx; mov $0x56780020,%esi; .byte 0x67; lea 5(%bx,%si),%eax;"
                ".byte 0x67; lea (%bx,%si),%cx" DONE);
CODE(xlat_it, "mov $scratch,%ebx; mov $0xffffff42,%eax; xlatb" DONE);
CODE(enter0, "mov %esp,%ebx; mov $0x5555,%ebp; enter $16,$0; mov %ebp,%ecx; mov (%ebp),%edx; lea "
             "16(%esp),%esi;"
             "leave; mov %esp,%edi" DONE);
CODE(enter3, "mov $scratch+1024,%ebp; movl $0x11,-4(%ebp); movl $0x22,-8(%ebp); mov %esp,%ebx;"
             "enter $8,$3; mov -4(%ebp),%ecx; mov -8(%ebp),%edx; mov -12(%ebp),%esi; mov "
             "%ebp,%edi; sub %ebp,%esi;"
             "sub %ebx,%edi; sub %esp,%ebp; mov %ebx,%esp" DONE);
CODE(cx8_equal,
     "mov $0x55667788,%eax; mov $0x11223344,%edx; mov $1,%ebx; mov $2,%ecx; lock cmpxchg8b eight;"
     "sete %bl" DONE);
CODE(cx8_other,
     "xor %eax,%eax; xor %edx,%edx; mov $1,%ebx; mov $2,%ecx; cmpxchg8b eight; sete %bl" DONE);
CODE(bswap_it, "mov $0x12345678,%eax; bswap %eax; mov $0x01020304,%esp; bswap %esp; mov %esp,%ecx;"
               "mov $user_stack+8192,%esp" DONE);
CODE(lahf_sahf, "mov $0xd7,%ah; sahf; setc %bl; lahf; mov %eax,%ecx; mov $0,%ah; sahf; lahf" DONE);
CODE(esp_forms, "mov %esp,%ebx; push %esp; pop %eax; sub %ebx,%eax; push $scratch; pop %ecx; mov "
                "%esp,%edx; push (%esp);"
                "mov %esp,%esi; sub %edx,%esi; pop %edx; mov %ebx,%esp; push $7; push %esp; pop "
                "%esp; pop %edi" DONE);
CODE(pop_mem_esp, "push $0x88; push $0x99; push $0x77; pop 4(%esp); pop %eax; pop %ebx" DONE);
CODE(imm_sizes, "push $-1; pop %eax; pushw $-2; pushw $3; pop %ecx; .byte 0x6b,0xd9,0xff; imul "
                "$0x1000,%ecx,%edx" DONE);
CODE(movx, "mov $0x8081,%ecx; movsbl %cl,%eax; movzbl %ch,%ebx; movswl %cx,%edx; movsbw %ch,%si; "
           "cwtl" DONE);
CODE(cwd_cdq, "mov $0x8000,%eax; cwtd; mov %edx,%ebx; cltd; mov %edx,%ecx; cbtw; cwtl" DONE);
CODE(nops, "nop; nopw (%eax,%eax); nopl 0x12345678(%ecx); pause; prefetcht0 (%eax); prefetcht0 0; "
           "xchg %eax,%eax;"
           ".byte 0xf2,0x90; .byte 0x0f,0x18,0x38; mov $1,%eax" DONE);
CODE(setcc_mem,
     "mov $-1,%eax; push %eax; cmp %eax,%eax; sete (%esp); setne 1(%esp); pop %ecx" DONE);

void test(void) {
    for (u32 ring = 0; ring <= 3; ring += 3) {
        RUNS(ring, inc_dec);
        EQ(trap.eax, 1);
        EQ(trap.ecx, 8);
        EQ(trap.edx, 6);
        EQ(trap.esi, 6);
        EQ(trap.edi, 8);
        RUNS(ring, pusha);
        EQ(trap.edi, 8);
        EQ(trap.esi, 7);
        EQ(trap.ebp, 6);
        EQ(trap.eax, 0);
        EQ(trap.ebx, 4);
        EQ(trap.edx, 3);
        EQ(trap.ecx, 3);
        RUNS(ring, popa);
        EQ(trap.eax, 1);
        EQ(trap.ecx, 2);
        EQ(trap.edx, 3);
        EQ(trap.ebx, 4);
        EQ(trap.ebp, 6);
        EQ(trap.edi, 8);
        RUNS(ring, pusha16);
        EQ(trap.ebx, 16);
        RUNS(ring, decimal_daa);
        EQ(trap.ebx & 0xffff, 0x0114);
        EQ(trap.eax & 0xffff, 0x0100);
        RUNS(ring, decimal_das);
        EQ(trap.eax & 0xffff, 0x0188);
        RUNS(ring, ascii_aaa);
        EQ(trap.ebx, 0x107);
        EQ(trap.eax, 0x104);
        RUNS(ring, aam_aad);
        EQ(trap.ebx, 0xffff0709);
        EQ(trap.ecx, 79);
        EQ(trap.edx, 0x15);
        EQ(trap.eax, 0x0f0f);
        RUNS(ring, salc);
        EQ(trap.ebx, 0x12ff);
        EQ(trap.eax, 0x1200);
        RUNS(ring, arpl);
        EQ(trap.eax, 0x13);
        EQ(trap.ebx & 0x101, 1);
        RUNS(ring, op82);
        EQ(trap.eax & 0xffff, 0x108);
        far_pointer[0] = 0x89abcdef;
        far_pointer[1] = USER_DATA;
        RUNS(ring, les_lds);
        EQ(trap.eax, 0x89abcdef);
        EQ(trap.ecx, USER_DATA);
        EQ(trap.edx, 0x89abcdef);
        EQ(trap.ebx, USER_DATA);
        EQ(trap.edi, 0x89abcdef);
        EQ(trap.gs, USER_DATA);
        RUNS(ring, les_16);
        EQ(trap.eax, 0xffff89ab);
        far_pointer[1] = KERNEL_CODE | 3;
        EQ(run(ring, les_lds), V_GP);
        EQ(trap.error, KERNEL_CODE);
        EQ(trap.eip, les_lds);
        far_pointer[0] = 0x11223344;
        RUNS(ring, moffs);
        EQ(far_pointer[0], 0x11224444);
        EQ(far_pointer[1] & 0xffff, 0x4444);
        RUNS(ring, address16);
        EQ(trap.eax, 0x35);
        EQ(trap.ecx & 0xffff, 0x30);
        scratch[0x42] = 0x99;
        RUNS(ring, xlat_it);
        EQ(trap.eax, 0xffffff99);
        RUNS(ring, enter0);
        EQ(trap.ecx, trap.ebx - 4);
        EQ(trap.edx, 0x5555);
        EQ(trap.esi, trap.ecx);
        EQ(trap.ebp, 0x5555);
        EQ(trap.edi, trap.ebx);
        RUNS(ring, enter3);
        EQ(trap.ecx, 0x11);
        EQ(trap.edx, 0x22);
        EQ(trap.esi, 0);
        EQ(trap.edi, (u32)-4);
        EQ(trap.ebp, 20);
        eight = 0x1122334455667788ull;
        RUNS(ring, cx8_other);
        EQ(trap.eax, 0x55667788);
        EQ(trap.edx, 0x11223344);
        EQ(trap.ebx & 0xff, 0);
        RUNS(ring, cx8_equal);
        EQ((u32)eight, 1);
        EQ((u32)(eight >> 32), 2);
        EQ(trap.ebx & 0xff, 1);
        if (ring) {
            RUNS(ring, bswap_it);
            EQ(trap.eax, 0x78563412);
            EQ(trap.ecx, 0x04030201);
        }
        RUNS(ring, lahf_sahf);
        EQ(trap.ecx >> 8 & 0xff, 0xd7);
        EQ(trap.eax >> 8 & 0xff, 2);
        RUNS(ring, esp_forms);
        EQ(trap.eax, 0);
        EQ(trap.ecx, SCRATCH);
        EQ(trap.esi, (u32)-4);
        EQ(trap.edi, 7);
        RUNS(ring, pop_mem_esp);
        EQ(trap.eax, 0x99); /* the address uses ESP after the increment */
        EQ(trap.ebx, 0x77);
        RUNS(ring, imm_sizes);
        EQ(trap.eax, 0xffffffff);
        EQ(trap.ecx, 0xfffe0003);
        EQ(trap.ebx, (u32)-0xfffe0003);
        EQ(trap.edx, 0xe0003000);
        RUNS(ring, movx);
        EQ(trap.ebx, 0x80);
        EQ(trap.edx, 0xffff8081);
        EQ(trap.esi & 0xffff, 0xff80);
        EQ(trap.eax, 0xffffff81);
        RUNS(ring, cwd_cdq);
        EQ(trap.ebx & 0xffff, 0xffff);
        EQ(trap.ecx, 0);
        EQ(trap.eax, 0);
        RUNS(ring, nops);
        EQ(trap.eax, 1);
        RUNS(ring, setcc_mem);
        EQ(trap.ecx, 0xffff0001);
    }
}
