/*
 * sensitive.h: the instructions that keep the IA-32 architecture from being virtualized by trapping
 * alone: they tell of or change privileged state, and no exception says so when they run outside
 * ring 0.
 *
 * After J. S. Robin and C. E. Irvine, "Analysis of the Intel Pentium's Ability to Support a Secure
 * Virtual Machine Monitor", Proceedings of the 9th USENIX Security Symposium, 2000, pages 129-144,
 * and in its two groups. Seventeen is the number always quoted from there; the mnemonics named are
 * eighteen (with the reading and writing forms of PUSH, POP and MOV as one each). Here every one
 * has a row, and IRET, a far RET that also loads the flags, has its own.
 */
#ifndef RINGFOLD_RINGCOMP_SENSITIVE_H
#define RINGFOLD_RINGCOMP_SENSITIVE_H

#include "base/base.h"

enum rc_sensitive_group {
    RC_SENSITIVE_REGISTER,  /* reads or writes a sensitive register */
    RC_SENSITIVE_PROTECTION /* goes by the protection system: selectors, descriptors, gates */
};

struct rc_sensitive {
    const char *name;
    enum rc_sensitive_group group;
    const char *example; /* one 32-bit encoding, in Intel's syntax */
    u8 length;
    u8 bytes[3];
    const char *left_in_place; /* what goes wrong in guest kernel code that runs at ring 1 */
};

#define RC_SENSITIVE_COUNT 19
extern const struct rc_sensitive rc_sensitive[RC_SENSITIVE_COUNT];

#endif
