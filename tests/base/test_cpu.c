/*
 * test_cpu.c: the state after reset and its printed picture.
 */
#include "base/cpu.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>

#include <cmocka.h>

static void reset_starts_at_the_top_of_memory_in_real_mode(void **state) {
    (void)state;
    static struct cpu cpu;
    int owner;
    memset(&cpu, 0xa5, sizeof cpu);
    cpu.model = NULL;
    cpu.owner = &owner;
    cpu_reset(&cpu);
    assert_int_equal(cpu.seg[SEG_CS].base + cpu.eip, 0xfffffff0u);
    assert_int_equal(cpu.seg[SEG_CS].selector, 0xf000);
    assert_int_equal(cpu.cr0, 0x60000010);
    assert_int_equal(cpu.eflags, 2);
    assert_int_equal(cpu.cpl, 0);
    assert_int_equal(cpu.gpr[R_EAX], 0);
    assert_ptr_equal(cpu.owner, &owner);
}

static void collect(void *opaque, const char *line) {
    char *text = opaque;
    strcat(text, line);
    strcat(text, "\n");
}

static void the_dump_has_the_lines_of_info_registers(void **state) {
    (void)state;
    static struct cpu cpu;
    static char text[4096];
    cpu.model = NULL;
    cpu_reset(&cpu);
    cpu.seg[SEG_DS] =
        (struct segment){.selector = 0x7b,
                         .limit = 0xffffffff,
                         .attr = ATTR_P | ATTR_DPL | ATTR_S | ATTR_W | ATTR_A | ATTR_DB | ATTR_G};
    cpu.gpr[R_ESP] = 0xc0de;
    cpu_dump(&cpu, collect, text);
    const char *lines[] = {
        "EAX=00000000 EBX=00000000 ECX=00000000 EDX=00000600\n",
        "ESI=00000000 EDI=00000000 EBP=00000000 ESP=0000c0de\n",
        "EIP=0000fff0 EFL=00000002 [-------] CPL=0 II=0 A20=1 SMM=0 HLT=0\n",
        "CS =f000 ffff0000 0000ffff 00009300 DPL=0 DS16 [-WA]\n",
        "DS =007b 00000000 ffffffff 00cff300 DPL=3 DS   [-WA]\n",
        "LDT=0000 00000000 0000ffff 00008200 DPL=0 LDT\n",
        "TR =0000 00000000 0000ffff 00008b00 DPL=0 TSS32-busy\n",
        "GDT=     00000000 0000ffff\n",
        "CR0=60000010 CR2=00000000 CR3=00000000 CR4=00000000\n",
        "EFER=0000000000000000\n",
        "FPR6=0000000000000000 0000 FPR7=0000000000000000 0000\n",
        "XMM00=0000000000000000 0000000000000000 XMM01=0000000000000000 0000000000000000\n",
    };
    for (unsigned i = 0; i < ARRAY_LEN(lines); i++)
        if (!strstr(text, lines[i]))
            fail_msg("missing: %s", lines[i]);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reset_starts_at_the_top_of_memory_in_real_mode),
        cmocka_unit_test(the_dump_has_the_lines_of_info_registers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
