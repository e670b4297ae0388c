/*
 * hostfp_state.c: x87 and SSE state as images in guest memory. The host cannot store them for a
 * 32-bit guest (its pointers are 64 bits wide and its own), so they are built from the FX image.
 */
#include "interp/hostfp_internal.h"

#include "interp/interp_internal.h"

void hostfp_update_es(struct cpu *cpu) {
    u16 fsw = fx_get16(cpu, FX_FSW) & (u16) ~(FSW_ES | FSW_B);
    if (fsw & FSW_EXCEPTIONS & ~fx_get16(cpu, FX_FCW))
        fsw |= FSW_ES | FSW_B;
    fx_set16(cpu, FX_FSW, fsw);
}

bool hostfp_error_ignored(struct cpu *cpu) {
    cpu->ferr = true;
    return cpu->bus && cpu->bus->ferr && cpu->bus->ferr(cpu->bus->opaque, true);
}

void hostfp_watch_error(struct cpu *cpu) {
    if (fx_get16(cpu, FX_FSW) & FSW_ES)
        return;
    cpu->ferr = false;
    if (cpu->bus && cpu->bus->ferr)
        cpu->bus->ferr(cpu->bus->opaque, false);
}

void hostfp_set_fsw(struct cpu *cpu, u16 fsw) {
    unsigned turn = ((fsw & FSW_TOP) - (fx_get16(cpu, FX_FSW) & FSW_TOP)) >> 11 & 7;
    u8 turned[128];
    for (unsigned i = 0; i < 8; i++)
        memcpy(turned + 16 * i, cpu->fx + FX_ST + 16 * ((i + turn) & 7), 16);
    memcpy(cpu->fx + FX_ST, turned, sizeof turned);
    fx_set16(cpu, FX_FSW, fsw);
}

void hostfp_fninit(struct cpu *cpu) {
    fx_set16(cpu, FX_FCW, FCW_INIT);
    hostfp_set_fsw(cpu, 0);
    cpu->fx[FX_FTW] = 0;
    memset(cpu->fx + FX_POINTERS, 0, FX_POINTERS_BYTES);
}

/* ---- Tag word: SDM volume 1, section 8.1.7 "x87 FPU Tag Word" ---- */

enum { TAG_VALID, TAG_ZERO, TAG_SPECIAL, TAG_EMPTY };

static unsigned tag_of_value(const u8 *st) {
    u64 mantissa = load64(st);
    unsigned exponent = load16(st + 8) & 0x7fff;
    if (exponent == 0)
        return mantissa ? TAG_SPECIAL : TAG_ZERO;
    return exponent == 0x7fff || !(mantissa >> 63) ? TAG_SPECIAL : TAG_VALID;
}

static u16 full_tag_word(const struct cpu *cpu) {
    unsigned top = (fx_get16(cpu, FX_FSW) & FSW_TOP) >> 11;
    u16 tags = 0;
    for (unsigned physical = 0; physical < 8; physical++) {
        unsigned tag = TAG_EMPTY;
        if (cpu->fx[FX_FTW] >> physical & 1)
            tag = tag_of_value(cpu->fx + FX_ST + 16 * ((physical - top) & 7));
        tags |= (u16)(tag << (2 * physical));
    }
    return tags;
}

static u8 abridged_tag_word(u16 tags) {
    u8 abridged = 0;
    for (unsigned i = 0; i < 8; i++)
        if ((tags >> (2 * i) & 3) != TAG_EMPTY)
            abridged |= (u8)BIT(i);
    return abridged;
}

/* ---- The x87 environment: SDM volume 1, section 8.1.10 "Saving the x87 FPU's State ..." ---- */

static bool real_format(const struct cpu *cpu) {
    return !cpu_protected(cpu) || cpu_v86(cpu);
}

static unsigned environment_bytes(const struct insn *in) {
    return in->op_bytes == 4 ? 28 : 14;
}

static void put_pointers16(const struct cpu *cpu, u8 *env) {
    const u8 *fx = cpu->fx;
    u32 fip = load32(fx + FX_FIP), fdp = load32(fx + FX_FDP);
    if (!real_format(cpu)) {
        store16(env + 6, (u16)fip);
        store16(env + 8, load16(fx + FX_FCS));
        store16(env + 10, (u16)fdp);
        store16(env + 12, load16(fx + FX_FDS));
        return;
    }
    fip += (u32)load16(fx + FX_FCS) << 4;
    fdp += (u32)load16(fx + FX_FDS) << 4;
    store16(env + 6, (u16)fip);
    store16(env + 8, (u16)((fip >> 4 & 0xf000) | (load16(fx + FX_FOP) & 0x7ff)));
    store16(env + 10, (u16)fdp);
    store16(env + 12, (u16)(fdp >> 4 & 0xf000));
}

static void put_pointers32(const struct cpu *cpu, u8 *env) {
    const u8 *fx = cpu->fx;
    u32 fip = load32(fx + FX_FIP), fdp = load32(fx + FX_FDP);
    u32 fop = load16(fx + FX_FOP) & 0x7ff;
    if (!real_format(cpu)) {
        store32(env + 12, fip);
        store32(env + 16, load16(fx + FX_FCS) | fop << 16);
        store32(env + 20, fdp);
        store32(env + 24, load16(fx + FX_FDS) | 0xffff0000u);
        return;
    }
    fip += (u32)load16(fx + FX_FCS) << 4;
    fdp += (u32)load16(fx + FX_FDS) << 4;
    store32(env + 12, (fip & 0xffff) | 0xffff0000u);
    store32(env + 16, (fip >> 4 & 0x0ffff000) | fop);
    store32(env + 20, (fdp & 0xffff) | 0xffff0000u);
    store32(env + 24, fdp >> 4 & 0x0ffff000);
}

static void put_environment(const struct cpu *cpu, const struct insn *in, u8 *env) {
    u16 fcw = fx_get16(cpu, FX_FCW), fsw = fx_get16(cpu, FX_FSW), tags = full_tag_word(cpu);
    if (in->op_bytes == 2) {
        store16(env, fcw);
        store16(env + 2, fsw);
        store16(env + 4, tags);
        put_pointers16(cpu, env);
        return;
    }
    store32(env, fcw | 0xffff0000u);
    store32(env + 4, fsw | 0xffff0000u);
    store32(env + 8, tags | 0xffff0000u);
    put_pointers32(cpu, env);
}

static void get_pointers16(struct cpu *cpu, const u8 *env) {
    u8 *fx = cpu->fx;
    u16 second = load16(env + 8), fourth = load16(env + 12);
    u32 fip = load16(env + 6), fdp = load16(env + 10);
    if (real_format(cpu)) {
        fip |= (u32)(second & 0xf000) << 4;
        fdp |= (u32)(fourth & 0xf000) << 4;
        store16(fx + FX_FOP, second & 0x7ff);
        second = fourth = 0;
    }
    store32(fx + FX_FIP, fip);
    store16(fx + FX_FCS, second);
    store32(fx + FX_FDP, fdp);
    store16(fx + FX_FDS, fourth);
}

static void get_pointers32(struct cpu *cpu, const u8 *env) {
    u8 *fx = cpu->fx;
    u32 fip = load32(env + 12), second = load32(env + 16);
    u32 fdp = load32(env + 20), fourth = load32(env + 24);
    if (real_format(cpu)) {
        fip = (fip & 0xffff) | (second & 0x0ffff000) << 4;
        fdp = (fdp & 0xffff) | (fourth & 0x0ffff000) << 4;
        store16(fx + FX_FOP, second & 0x7ff);
        second = fourth = 0;
    } else {
        store16(fx + FX_FOP, second >> 16 & 0x7ff);
    }
    store32(fx + FX_FIP, fip);
    store16(fx + FX_FCS, (u16)second);
    store32(fx + FX_FDP, fdp);
    store16(fx + FX_FDS, (u16)fourth);
}

static void get_environment(struct cpu *cpu, const struct insn *in, const u8 *env) {
    unsigned step = in->op_bytes; /* control, status and tag word lie in a word or dword each */
    fx_set16(cpu, FX_FCW, (load16(env) & FCW_WRITABLE) | FCW_RESERVED_ONE);
    hostfp_set_fsw(cpu, load16(env + step));
    cpu->fx[FX_FTW] = abridged_tag_word(load16(env + 2 * step));
    memset(cpu->fx + FX_POINTERS, 0, FX_POINTERS_BYTES);
    if (in->op_bytes == 2)
        get_pointers16(cpu, env);
    else
        get_pointers32(cpu, env);
    hostfp_update_es(cpu);
}

/* Environments and images of state are aligned like their fields, two or four bytes: SDM volume 3,
 * table 6-7 "Alignment Requirements by Data Type". */
static u8 image_alignment(const struct insn *in) {
    return in->op_bytes == 4 ? 4 : 2;
}

static bool fetch(struct interp *it, struct cpu *cpu, const struct insn *in, void *buf,
                  unsigned bytes, u8 align) {
    struct access how = {.align = align, .watch = true};
    u32 lin;
    return seg_linear_aligned(it, cpu, in->mem_seg, ea_offset(cpu, in), bytes, how, &lin) &&
           mmu_read(cpu, lin, buf, bytes, MMU_READ);
}

bool hostfp_store(struct interp *it, struct cpu *cpu, const struct insn *in, const void *value,
                  unsigned bytes, u8 align) {
    struct access how = {.align = align, .write = true, .watch = true};
    u32 lin;
    return seg_linear_aligned(it, cpu, in->mem_seg, ea_offset(cpu, in), bytes, how, &lin) &&
           mmu_write(cpu, lin, value, bytes, MMU_WRITE);
}

bool hostfp_fnstenv(struct interp *it, struct cpu *cpu, const struct insn *in) {
    u8 env[28];
    put_environment(cpu, in, env);
    if (!hostfp_store(it, cpu, in, env, environment_bytes(in), image_alignment(in)))
        return false;
    fx_set16(cpu, FX_FCW, fx_get16(cpu, FX_FCW) | FCW_MASKS);
    hostfp_update_es(cpu);
    return true;
}

bool hostfp_fldenv(struct interp *it, struct cpu *cpu, const struct insn *in) {
    u8 env[28];
    if (!fetch(it, cpu, in, env, environment_bytes(in), image_alignment(in)))
        return false;
    get_environment(cpu, in, env);
    return true;
}

bool hostfp_fnsave(struct interp *it, struct cpu *cpu, const struct insn *in) {
    u8 image[28 + 80];
    unsigned at = environment_bytes(in);
    put_environment(cpu, in, image);
    for (unsigned i = 0; i < 8; i++, at += 10)
        memcpy(image + at, cpu->fx + FX_ST + 16 * i, 10);
    if (!hostfp_store(it, cpu, in, image, at, image_alignment(in)))
        return false;
    hostfp_fninit(cpu);
    return true;
}

bool hostfp_frstor(struct interp *it, struct cpu *cpu, const struct insn *in) {
    u8 image[28 + 80];
    unsigned at = environment_bytes(in);
    if (!fetch(it, cpu, in, image, at + 80, image_alignment(in)))
        return false;
    get_environment(cpu, in, image);
    for (unsigned i = 0; i < 8; i++, at += 10) {
        memset(cpu->fx + FX_ST + 16 * i, 0, 16);
        memcpy(cpu->fx + FX_ST + 16 * i, image + at, 10);
    }
    return true;
}

/* ---- FXSAVE, FXRSTOR, LDMXCSR ---- */

/* Not aligned to 16 bytes: #GP, or #AC where alignment is checked. Which of them is left to the
 * processor (SDM volume 2, "FXSAVE"); here as on AMD family 1Ah, #AC where not aligned to 4. */
static bool fxsave_linear(struct interp *it, struct cpu *cpu, const struct insn *in, bool write,
                          u32 *lin) {
    struct access how = {.align = 4, .write = write};
    if (!seg_linear_aligned(it, cpu, in->mem_seg, ea_offset(cpu, in), FX_BYTES, how, lin))
        return false;
    if (*lin % 16 != 0)
        return cpu_fault_error(cpu, VEC_GP, 0);
    seg_watch(it, cpu, *lin, FX_GUEST_BYTES, write);
    return true;
}

bool hostfp_fxsave(struct interp *it, struct cpu *cpu, const struct insn *in) {
    u8 image[FX_GUEST_BYTES];
    u32 lin;
    if (!fxsave_linear(it, cpu, in, true, &lin))
        return false;
    memcpy(image, cpu->fx, sizeof image);
    image[FX_FTW + 1] = 0;
    store16(image + FX_FCS + 2, 0);
    store16(image + FX_FDS + 2, 0);
    store32(image + FX_MXCSR_MASK, cpu_mxcsr_mask(cpu));
    return mmu_check_write(cpu, lin, FX_BYTES, MMU_WRITE) &&
           mmu_write(cpu, lin, image, sizeof image, MMU_WRITE);
}

bool hostfp_fxrstor(struct interp *it, struct cpu *cpu, const struct insn *in) {
    u8 image[FX_BYTES];
    u32 lin;
    if (!fxsave_linear(it, cpu, in, false, &lin) || !mmu_read(cpu, lin, image, FX_BYTES, MMU_READ))
        return false;
    /* Without CR4.OSFXSR the SSE part stays as it is: SDM volume 2, "FXRSTOR". */
    bool with_sse = cpu->cr4 & CR4_OSFXSR;
    if (with_sse && (load32(image + FX_MXCSR) & ~cpu_mxcsr_mask(cpu)))
        return cpu_fault_error(cpu, VEC_GP, 0);
    memcpy(cpu->fx, image, FX_MXCSR);
    fx_set16(cpu, FX_FCW, (fx_get16(cpu, FX_FCW) & FCW_WRITABLE) | FCW_RESERVED_ONE);
    fx_set16(cpu, FX_FOP, fx_get16(cpu, FX_FOP) & 0x7ff);
    cpu->fx[FX_FTW + 1] = 0;
    store16(cpu->fx + FX_FCS + 2, 0);
    store16(cpu->fx + FX_FDS + 2, 0);
    for (unsigned i = 0; i < 8; i++) {
        memset(cpu->fx + FX_ST + 16 * i, 0, 16);
        memcpy(cpu->fx + FX_ST + 16 * i, image + FX_ST + 16 * i, 10);
    }
    hostfp_update_es(cpu);
    if (with_sse) {
        store32(cpu->fx + FX_MXCSR, load32(image + FX_MXCSR));
        memcpy(cpu->fx + FX_XMM, image + FX_XMM, FX_GUEST_BYTES - FX_XMM);
    }
    return true;
}

bool hostfp_ldmxcsr(struct interp *it, struct cpu *cpu, const struct insn *in) {
    u32 value;
    if (!fetch(it, cpu, in, &value, sizeof value, 4))
        return false;
    if (value & ~cpu_mxcsr_mask(cpu))
        return cpu_fault_error(cpu, VEC_GP, 0);
    store32(cpu->fx + FX_MXCSR, value);
    return true;
}
