/*
 * host.c: which CPU the host has, and what follows from it.
 */
#include "fuzz.h"

#include <cpuid.h>

/* Family and model: SDM volume 2, "CPUID-CPU Identification", figure 3-6. */
struct fuzz_host fuzz_host_cpu(void) {
    struct fuzz_host h = {.vendor = ""};
    u32 eax = 0, ebx = 0, ecx = 0, edx = 0;
    __get_cpuid(0, &eax, &ebx, &ecx, &edx);
    memcpy(h.vendor, &ebx, 4);
    memcpy(h.vendor + 4, &edx, 4);
    memcpy(h.vendor + 8, &ecx, 4);
    __get_cpuid(1, &eax, &ebx, &ecx, &edx);
    h.family = eax >> 8 & 0xf;
    h.model = eax >> 4 & 0xf;
    if (h.family == 0xf || h.family == 6)
        h.model |= eax >> 12 & 0xf0;
    if (h.family == 0xf)
        h.family += eax >> 20 & 0xff;
    h.under_hypervisor = ecx >> 31;
    return h;
}

bool fuzz_host_is_amd(unsigned family) {
    static int known = -1; /* asked once per comparison */
    static unsigned is_family;
    if (known < 0) {
        struct fuzz_host h = fuzz_host_cpu();
        known = !strcmp(h.vendor, "AuthenticAMD");
        is_family = h.family;
    }
    return known && is_family == family;
}

/* CPUs of which a record says that undefined flags come out as the interpreter leaves them: there
 * they are compared like all others. */
static const struct {
    const char *vendor;
    unsigned family, model;
} recorded[] = {
    {"AuthenticAMD", 0x1a, 0x02},
};

bool fuzz_host_is_recorded(void) {
    static int known = -1;
    if (known >= 0)
        return known;
    struct fuzz_host h = fuzz_host_cpu();
    known = 0;
    for (unsigned i = 0; i < ARRAY_LEN(recorded); i++)
        known |= !strcmp(h.vendor, recorded[i].vendor) && h.family == recorded[i].family &&
                 h.model == recorded[i].model;
    return known;
}

void fuzz_host_record_name(char *out, size_t bytes) {
    struct fuzz_host h = fuzz_host_cpu();
    const char *vendor = !strcmp(h.vendor, "AuthenticAMD")   ? "amd"
                         : !strcmp(h.vendor, "GenuineIntel") ? "intel"
                                                             : h.vendor;
    snprintf(out, bytes, "%s-%02x-%02x.txt", vendor, h.family, h.model);
}

bool fuzz_host_has_umip(void) {
    u32 eax, ebx, ecx = 0, edx;
    return __get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) && (ecx & BIT(2));
}

bool fuzz_kernel_emulates(u16 mnemonic) {
    switch (mnemonic) {
    case ZYDIS_MNEMONIC_SGDT:
    case ZYDIS_MNEMONIC_SIDT:
    case ZYDIS_MNEMONIC_SLDT:
    case ZYDIS_MNEMONIC_STR:
    case ZYDIS_MNEMONIC_SMSW:
        return true;
    default:
        return false;
    }
}
