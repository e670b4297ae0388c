/*
 * metal.h of a machine that a test plays: the real header, but for the two functions whose bodies
 * in it are the hardware's own.
 */
#ifndef RINGFOLD_TESTS_FAKE_METAL_H
#define RINGFOLD_TESTS_FAKE_METAL_H

#define metal_phys_pointer hardware_phys_pointer
#define metal_tlb_flush_page hardware_tlb_flush_page
#include_next "metal/metal.h"
#undef metal_phys_pointer
#undef metal_tlb_flush_page

void *metal_phys_pointer(u64 phys);
void metal_tlb_flush_page(u64 linear);

#endif
