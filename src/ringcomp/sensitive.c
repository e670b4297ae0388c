/*
 * sensitive.c: the table of sensitive instructions that do not trap, a row each.
 */
#include "ringcomp/sensitive.h"

#define R RC_SENSITIVE_REGISTER
#define P RC_SENSITIVE_PROTECTION

/* clang-format off */
const struct rc_sensitive rc_sensitive[RC_SENSITIVE_COUNT] = {
    {"SGDT", R, "sgdt [eax]", 3, {0x0f, 0x01, 0x00},
     "stores the monitor's GDT register (with CR4.UMIP it traps)"},
    {"SIDT", R, "sidt [eax]", 3, {0x0f, 0x01, 0x08},
     "stores the monitor's IDT register (with CR4.UMIP it traps)"},
    {"SLDT", R, "sldt eax", 3, {0x0f, 0x00, 0xc0},
     "stores the monitor's LDT selector (with CR4.UMIP it traps)"},
    {"SMSW", R, "smsw eax", 3, {0x0f, 0x01, 0xe0},
     "stores the real CR0: TS, AM, WP and others are not the guest's (with CR4.UMIP it traps)"},
    {"PUSHF", R, "pushfd", 1, {0x9c},
     "stores the real flags: IF is always set and IOPL always 0, whatever the guest set"},
    {"POPF", R, "popfd", 1, {0x9d},
     "leaves IF and IOPL as they are: the kernel's disabling of interrupts is lost without a trap"},
    {"LAR", P, "lar eax, ecx", 3, {0x0f, 0x02, 0xc1},
     "reads the monitor's table, and denies descriptors of DPL 0 because CPL is 1"},
    {"LSL", P, "lsl eax, ecx", 3, {0x0f, 0x03, 0xc1},
     "reads the monitor's table, and denies descriptors of DPL 0 because CPL is 1"},
    {"VERR", P, "verr cx", 3, {0x0f, 0x00, 0xe1},
     "judges by the monitor's table and CPL 1: segments of DPL 0 are not readable"},
    {"VERW", P, "verw cx", 3, {0x0f, 0x00, 0xe9},
     "judges by the monitor's table and CPL 1: segments of DPL 0 are not writable"},
    {"POP", P, "pop ds", 1, {0x1f},
     "loads a descriptor of the monitor's, or faults because the kernel's has DPL 0"},
    {"PUSH", P, "push cs", 1, {0x0e},
     "stores a selector with RPL 1: the kernel sees its real ring"},
    {"CALL", P, "call far [eax]", 2, {0xff, 0x18},
     "goes by the monitor's descriptors and gates; code of DPL 0 faults, conforming code does not"},
    {"JMP", P, "jmp far [eax]", 2, {0xff, 0x28},
     "goes by the monitor's descriptors and gates; code of DPL 0 faults, conforming code does not"},
    {"INT n", P, "int 80h", 2, {0xcd, 0x80},
     "enters by a gate of the monitor's IDT, which the guest never wrote"},
    {"RET", P, "retf", 1, {0xcb},
     "faults on a return to ring 0 as an inner ring, or goes to a segment of the monitor's"},
    {"IRET", P, "iretd", 1, {0xcf},
     "as RET; and the flags it loads leave IF and IOPL as they are"},
    {"STR", P, "str eax", 3, {0x0f, 0x00, 0xc8},
     "stores the monitor's TSS selector (with CR4.UMIP it traps)"},
    {"MOV", P, "mov eax, cs", 2, {0x8c, 0xc8},
     "stores a selector with RPL 1; the other way it does what POP does"},
};
/* clang-format on */
