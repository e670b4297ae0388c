/*
 * verify.c: the second opinion on emitted code. Every unit is taken apart again, once by Capstone
 * and once by a small parser of our own that must agree with it, and each instruction must be one
 * of the few shapes that cannot leave the guest's window, the vCPU's hot area and the known entry
 * points. Shapes of several instructions (strings, callouts, EIP checks, ...) are matched byte for
 * byte and may not be entered in the middle. What is not known to be safe is refused.
 */
#include "bt/bt_internal.h"
#include "bt/verify_internal.h"

#include <capstone/capstone.h>

#define VERIFY_MAX_BYTES BT_MAX_UNIT_HOST_BYTES

struct verifier {
    const u8 *code;
    u32 bytes, at;
    bool icount;
    u32 trap_classes; /* BT_TRAP_* that may be left in place */
    bool (*known)(void *opaque, u32 offset);
    void *opaque;
    const struct bt_unit *unit; /* NULL: the arguments of CO_LINK are not looked at */
    csh handle;
    cs_insn *insn;
    bool after_call; /* the next item must be a return continuation */
    bool falls_through;
    u8 boundary[VERIFY_MAX_BYTES / 8]; /* offsets where an item starts */
    u8 target[VERIFY_MAX_BYTES / 8];   /* offsets that branches name */
};

static void set_bit(u8 *map, u32 i) {
    map[i / 8] |= (u8)BIT(i % 8);
}
static bool test_bit(const u8 *map, u32 i) {
    return map[i / 8] >> (i % 8) & 1;
}

/* ---- Matching byte sequences ---- */

/* A cursor over the code; once something does not match, nothing more does. */
struct cursor {
    const u8 *p, *end;
    bool ok;
};
static struct cursor cursor_at(const struct verifier *v, u32 offset) {
    return (struct cursor){v->code + offset, v->code + v->bytes, true};
}
static bool take(struct cursor *c, const void *bytes, size_t count) {
    if (!c->ok || (size_t)(c->end - c->p) < count || memcmp(c->p, bytes, count) != 0)
        c->ok = false;
    else
        c->p += count;
    return c->ok;
}
#define TAKE(c, ...) take(c, (const u8[]){__VA_ARGS__}, sizeof((const u8[]){__VA_ARGS__}))
static bool take_u32(struct cursor *c, u32 value) {
    u8 bytes[4];
    store32(bytes, value);
    return take(c, bytes, 4);
}
static u32 read_u32(struct cursor *c) {
    if (!c->ok || c->end - c->p < 4) {
        c->ok = false;
        return 0;
    }
    c->p += 4;
    return load32(c->p - 4);
}
static u8 read_u8(struct cursor *c) {
    if (!c->ok || c->p >= c->end) {
        c->ok = false;
        return 0;
    }
    return *c->p++;
}
static u32 matched(const struct verifier *v, u32 offset, const struct cursor *c) {
    return c->ok ? (u32)(c->p - (v->code + offset)) : 0;
}

/* ---- Sequences. Each returns its length, or 0 when it is not there. ---- */

static u32 match_string(const struct verifier *v, u32 offset) {
    struct cursor c = cursor_at(v, offset), probe = c;
    bool edi =
        TAKE(&probe, 0x8b, 0xff, 0x49, 0x8d, 0x3c, 0x3e); /* mov edi,edi; lea rdi,[r14+rdi] */
    if (edi)
        c = probe;
    probe = c;
    bool esi = TAKE(&probe, 0x8b, 0xf6, 0x49, 0x8d, 0x34, 0x36);
    if (esi)
        c = probe;
    probe = c;
    bool counted = TAKE(&probe, 0x8b, 0xc9); /* mov ecx,ecx */
    if (counted)
        c = probe;
    if (!edi && !esi)
        return 0;
    u8 byte = read_u8(&c);
    bool repeat = byte == 0xf2 || byte == 0xf3;
    if (repeat)
        byte = read_u8(&c);
    bool word = byte == 0x66;
    if (word)
        byte = read_u8(&c);
    u8 group = byte & 0xfe;
    bool uses_edi = group == 0xa4 || group == 0xa6 || group == 0xaa || group == 0xae;
    bool uses_esi = group == 0xa4 || group == 0xa6 || group == 0xac;
    if ((!uses_edi && !uses_esi) || uses_edi != edi || uses_esi != esi || repeat != counted)
        return 0;
    if (uses_edi)
        TAKE(&c, 0x8b, 0xff);
    if (uses_esi)
        TAKE(&c, 0x8b, 0xf6);
    return matched(v, offset, &c);
}

static u32 match_segment_base(const struct verifier *v, u32 offset) {
    struct cursor c = cursor_at(v, offset);
    TAKE(&c, 0x4d, 0x8b, 0x87); /* mov r8,[r15+disp32] */
    u32 disp = read_u32(&c);
    TAKE(&c, 0x45, 0x8b, 0x00); /* mov r8d,[r8] */
    bool known = disp == HOT_FS_BASE_PTR || disp == HOT_GS_BASE_PTR;
    return known ? matched(v, offset, &c) : 0;
}

static u32 match_sti_poll(const struct verifier *v, u32 offset) {
    struct cursor c = cursor_at(v, offset);
    TAKE(&c, 0x4d, 0x8b, 0x8f); /* mov r9,[r15+disp32]; mov r9d,[r9] */
    take_u32(&c, HOT_STI_POLL);
    TAKE(&c, 0x45, 0x8b, 0x09);
    return matched(v, offset, &c);
}

static u32 match_pushf(const struct verifier *v, u32 offset) {
    struct cursor c = cursor_at(v, offset);
    TAKE(&c, 0x9c, 0x41, 0x58); /* pushfq; pop r8 */
    return matched(v, offset, &c);
}

/* POPF taken inline (lower_system.c), its callout included. */
static u32 match_popf(const struct verifier *v, u32 offset) {
    struct cursor c = cursor_at(v, offset);
    TAKE(&c, 0x45, 0x8b, 0xc1, 0x45, 0x33, 0x87); /* mov r8d,r9d; xor r8d,[..] */
    take_u32(&c, HOT_FLAG_REST);
    TAKE(&c, 0x41, 0xf7, 0xc0); /* test r8d,imm; jnz slow */
    take_u32(&c, POPF_SLOW_FLAGS);
    TAKE(&c, 0x75, 56, 0x45, 0x8b, 0xc1, 0x41, 0x81, 0xe0); /* mov r8d,r9d; and r8d,imm */
    take_u32(&c, F_IF);
    TAKE(&c, 0x45, 0x89, 0x87); /* mov [..],r8d */
    take_u32(&c, HOT_FLAG_IF);
    TAKE(&c, 0x44, 0x8b, 0xd0); /* mov r10d,eax; then AH and AL from r9d, SAHF, eax back */
    TAKE(&c, 0x41, 0x0f, 0xb6, 0xc1, 0xc1, 0xe0, 0x08, 0x41, 0xc1, 0xe9, 0x0b, 0x41, 0x83, 0xe1,
         0x01, 0x41, 0x0b, 0xc1, 0x04, 0x7f, 0x9e, 0x41, 0x8b, 0xc2);
    TAKE(&c, 0x4d, 0x8b, 0x8f); /* mov r9,[..]; mov r9d,[r9]; jmp over the callout */
    take_u32(&c, HOT_STI_POLL);
    TAKE(&c, 0x45, 0x8b, 0x09, 0xeb, 37);
    TAKE(&c, 0x45, 0x89, 0x8f); /* slow: mov [..],r9d; mov dword [..],next */
    take_u32(&c, HOT_ARG0);
    TAKE(&c, 0x41, 0xc7, 0x87);
    take_u32(&c, HOT_ARG1);
    read_u32(&c);
    TAKE(&c, 0x41, 0xb8);
    read_u32(&c);
    TAKE(&c, 0x41, 0xb9);
    take_u32(&c, CO_POPF);
    TAKE(&c, 0x41, 0xff, 0x97);
    take_u32(&c, HOT_STUB_CALLOUT_RETURNING);
    return matched(v, offset, &c);
}

/* lahf; seto al; movzx r8d,ax; rdtsc; shl rdx,32; or rax,rdx; add rax,[r15+HOT_TSC_DELTA];
 * mov rdx,rax; shr rdx,32; mov r9d,eax; mov eax,r8d; add al,7fh; sahf; mov eax,r9d */
static u32 match_rdtsc(const struct verifier *v, u32 offset) {
    struct cursor c = cursor_at(v, offset);
    TAKE(&c, 0x9f, 0x0f, 0x90, 0xc0, 0x44, 0x0f, 0xb7, 0xc0);
    TAKE(&c, 0x0f, 0x31, 0x48, 0xc1, 0xe2, 0x20, 0x48, 0x09, 0xd0, 0x49, 0x03, 0x87);
    take_u32(&c, HOT_TSC_DELTA);
    TAKE(&c, 0x48, 0x89, 0xc2, 0x48, 0xc1, 0xea, 0x20);
    TAKE(&c, 0x44, 0x8b, 0xc8, 0x41, 0x8b, 0xc0, 0x04, 0x7f, 0x9e, 0x41, 0x8b, 0xc1);
    return matched(v, offset, &c);
}

/* lea r9d,[r8*4]; movzx r9d,r9w; jmp/call [r13+r9*2] */
static u32 match_indirect(struct verifier *v, u32 offset) {
    struct cursor c = cursor_at(v, offset);
    TAKE(&c, 0x46, 0x8d, 0x0c, 0x85, 0, 0, 0, 0, 0x45, 0x0f, 0xb7, 0xc9, 0x43, 0xff);
    u8 modrm = read_u8(&c);
    TAKE(&c, 0x4d, 0);
    u32 length = modrm == 0x64 || modrm == 0x54 ? matched(v, offset, &c) : 0;
    if (length) {
        v->after_call = modrm == 0x54;
        v->falls_through = false;
    }
    return length;
}

static bool callout_returns(u32 callout) {
    switch (callout) {
    case CO_LOAD_ES:
    case CO_LOAD_DS:
    case CO_LOAD_FS:
    case CO_LOAD_GS:
    case CO_POPF:
    case CO_ACCESS:
    case CO_STRING:
    case CO_INVLPG:
    case CO_AC:
    case CO_IO:
    case CO_CPUID:
    case CO_WRITE_CR:
        return true;
    default:
        return false;
    }
}

static u32 callout_stub(u32 callout) {
    if (callout >= CO_LOAD_ES && callout <= CO_LOAD_GS)
        return HOT_STUB_LOAD_SEGMENT;
    return callout_returns(callout) ? HOT_STUB_CALLOUT_RETURNING : HOT_STUB_CALLOUT;
}

/* mov r8d,arg; mov r9d,callout; jmp [r15+HOT_STUB_CALLOUT] or call [..._RETURNING] */
static u32 match_callout(struct verifier *v, u32 offset) {
    struct cursor c = cursor_at(v, offset);
    TAKE(&c, 0x41, 0xb8);
    u32 arg = read_u32(&c);
    TAKE(&c, 0x41, 0xb9);
    u32 callout = read_u32(&c);
    if (!c.ok || callout >= CO_COUNT)
        return 0;
    bool returns = callout_returns(callout);
    TAKE(&c, 0x41, 0xff, returns ? 0x97 : 0xa7);
    take_u32(&c, callout_stub(callout));
    const struct bt_unit *u = v->unit;
    if (callout == CO_LINK && u && arg - u->slot_first >= u->slot_count)
        return 0;
    if (c.ok)
        v->falls_through = returns;
    return matched(v, offset, &c);
}

/* pushfq; sub qword [budget],n; jns +28; add back; popfq; callout CO_BUDGET; popfq */
static u32 match_icount(const struct verifier *v, u32 offset) {
    struct cursor c = cursor_at(v, offset);
    TAKE(&c, 0x9c, 0x49, 0x83, 0xaf);
    take_u32(&c, HOT_BUDGET);
    u8 count = read_u8(&c);
    TAKE(&c, 0x79, 28, 0x49, 0x83, 0x87);
    take_u32(&c, HOT_BUDGET);
    TAKE(&c, count, 0x9d, 0x41, 0xb8);
    read_u32(&c);
    TAKE(&c, 0x41, 0xb9);
    take_u32(&c, CO_BUDGET);
    TAKE(&c, 0x41, 0xff, 0xa7);
    take_u32(&c, HOT_STUB_CALLOUT);
    TAKE(&c, 0x9d);
    return v->icount && count < 0x80 ? matched(v, offset, &c) : 0;
}

/* The comparison of r8d with the EIP that stands for this place; a miss jumps through hot_stub. */
static u32 match_eip_check(const struct verifier *v, u32 offset, u32 hot_stub) {
    struct cursor c = cursor_at(v, offset);
    TAKE(&c, 0x44, 0x8b, 0xc9, 0x41, 0x8d); /* mov r9d,ecx; lea ecx,[r8+disp] */
    u8 modrm = read_u8(&c);
    if (modrm == 0x48)
        read_u8(&c);
    else if (modrm == 0x88)
        read_u32(&c);
    else if (modrm != 0x08)
        return 0;
    TAKE(&c, 0x67, 0xe3, 10, 0x41, 0x8b, 0xc9, 0x41, 0xff, 0xa7);
    take_u32(&c, hot_stub);
    TAKE(&c, 0x41, 0x8b, 0xc9);
    return matched(v, offset, &c);
}

/* A privileged instruction left to trap, and the callout that stands behind it in case it does not
 * (verify_trap.c). */
static u32 match_privileged(struct verifier *v, u32 offset) {
    u32 class, length = bt_privileged_form(v->code + offset, v->bytes - offset, &class);
    if (!length || !(v->trap_classes & class))
        return 0;
    struct cursor c = cursor_at(v, offset + length);
    TAKE(&c, 0x41, 0xb8);
    read_u32(&c);
    TAKE(&c, 0x41, 0xb9);
    take_u32(&c, CO_EMULATE);
    TAKE(&c, 0x41, 0xff, 0xa7);
    take_u32(&c, HOT_STUB_CALLOUT);
    if (c.ok)
        v->falls_through = false;
    return matched(v, offset, &c);
}

static u32 match_sequence(struct verifier *v, u32 offset) {
    u32 n;
    if ((n = match_string(v, offset)) || (n = match_segment_base(v, offset)) ||
        (n = match_sti_poll(v, offset)) || (n = match_icount(v, offset)) ||
        (n = match_pushf(v, offset)) || (n = match_popf(v, offset)) ||
        (n = match_rdtsc(v, offset)) || (n = match_indirect(v, offset)) ||
        (n = match_callout(v, offset)) || (n = match_privileged(v, offset)))
        return n;
    return 0;
}

/* ---- Our own parser ---- */

/* Prefixes in the one order the emitter writes them. */
static void parse_prefixes(struct cursor *c, struct verify_insn *in) {
    if (c->p < c->end && *c->p == 0xf0)
        in->lock = true, c->p++;
    if (c->p < c->end && *c->p == 0x65)
        in->gs = true, c->p++;
    if (c->p < c->end && *c->p == 0x67)
        in->addr32 = true, c->p++;
    if (c->p < c->end && *c->p == 0x66)
        in->operand_size = true, c->p++;
    if (c->p < c->end && (*c->p == 0xf2 || *c->p == 0xf3))
        in->repeat = *c->p++;
    if (c->p < c->end && (*c->p & 0xf0) == 0x40)
        in->rex = *c->p++;
}

static void parse_memory(struct cursor *c, struct verify_insn *in) {
    u8 mod = in->modrm >> 6, rm = in->modrm & 7;
    in->memory = true;
    in->base = (u8)(rm | (in->rex & 1) << 3);
    in->index = VERIFY_NO_REG;
    bool no_base = mod == 0 && rm == 5;
    in->rip_relative = no_base;
    if (rm == 4) {
        u8 sib = read_u8(c);
        in->index = (u8)((sib >> 3 & 7) | (in->rex & 2) << 2);
        if (in->index == 4)
            in->index = VERIFY_NO_REG;
        in->base = (u8)((sib & 7) | (in->rex & 1) << 3);
        no_base = mod == 0 && (sib & 7) == 5;
    }
    if (no_base)
        in->base = VERIFY_NO_REG;
    if (mod == 1)
        in->disp = (i8)read_u8(c);
    else if (mod == 2 || no_base)
        in->disp = (i32)read_u32(c);
}

static bool has_modrm(const struct verify_form *f) {
    return !(f->flags & VF_OPCODE_REG) && (f->reg != VK_NONE || f->rm != VK_NONE);
}

static unsigned immediate_bytes(const struct verify_form *f, const struct verify_insn *in) {
    unsigned full = in->operand_size ? 2 : 4;
    switch (f->imm) {
    case VI_1:
        return 1;
    case VI_Z:
        return full;
    case VI_TEST:
        if ((in->modrm >> 3 & 7) > 1)
            return 0;
        return in->opcode & 1 ? full : 1;
    default:
        return 0;
    }
}

/* Takes the instruction apart. The form, or NULL when it is not in the table. */
static const struct verify_form *parse_insn(const struct verifier *v, u32 offset,
                                            struct verify_insn *in) {
    struct cursor c = cursor_at(v, offset);
    *in = (struct verify_insn){0};
    parse_prefixes(&c, in);
    in->opcode = read_u8(&c);
    if (in->opcode == 0x0f) {
        in->map = 1;
        in->opcode = read_u8(&c);
        if (in->opcode == 0x38 || in->opcode == 0x3a) {
            in->map = in->opcode == 0x38 ? 2 : 3;
            in->opcode = read_u8(&c);
        }
    }
    if (c.p < c.end)
        in->modrm = *c.p;
    const struct verify_form *f = c.ok ? verify_find_form(in) : NULL;
    if (!f)
        return NULL;
    if (has_modrm(f)) {
        read_u8(&c);
        if (in->modrm < 0xc0)
            parse_memory(&c, in);
    }
    for (unsigned i = immediate_bytes(f, in); i > 0; i--)
        read_u8(&c);
    in->length = (u8)matched(v, offset, &c);
    return in->length && in->length <= 15 ? f : NULL;
}

/* ---- Rules for single instructions ---- */

/* Registers that hold something of the monitor's: rsp, r13, r14, r15. */
static bool reserved_register(u8 number) {
    return number == 4 || (number >= 13 && number <= 15);
}

/* May a field of this kind name this register? */
static bool register_allowed(const struct verify_insn *in, u8 kind, u8 number) {
    switch (kind) {
    case VK_WORD:
        return !reserved_register(number);
    case VK_BYTE: /* with REX, 4-7 would be SPL..DIL; without, AH..BH */
        return in->rex ? number < 4 || (number >= 8 && number < 12) : number < 8;
    default:
        return number < 8;
    }
}

static const char *check_registers(const struct verify_insn *in, const struct verify_form *f) {
    u8 reg = (u8)((in->modrm >> 3 & 7) | (in->rex & 4) << 1);
    u8 rm = (u8)((in->modrm & 7) | (in->rex & 1) << 3);
    if (f->flags & VF_OPCODE_REG) {
        u8 low = (u8)((in->opcode & 7) | (in->rex & 1) << 3);
        return register_allowed(in, f->reg, low) ? NULL : "a reserved register is used";
    }
    if (f->reg != VK_NONE && f->reg != VK_EXT && !register_allowed(in, f->reg, reg))
        return "a reserved register is used";
    if (!in->memory && f->rm != VK_NONE && !register_allowed(in, f->rm, rm))
        return "a reserved register is used";
    return NULL;
}

static const char *check_hot_load(const struct verify_insn *in) {
    u32 disp = (u32)in->disp;
    bool mov = in->map == 0 && in->opcode == 0x8b;
    bool movzx = in->map == 1 && in->opcode == 0xb7 && !in->operand_size;
    if ((mov && in->operand_size) || movzx) {
        bool selector = disp >= HOT_SELECTORS && disp < HOT_SELECTORS + 12 && disp % 2 == 0;
        return selector ? NULL : "a field of the hot area that may not be read so";
    }
    if (!mov)
        return "another access to the vCPU than a plain load or store";
    u8 reg = (u8)((in->modrm >> 3 & 7) | (in->rex & 4) << 1);
    switch (disp) {
    case HOT_FLAG_IF:
    case HOT_FLAG_REST:
    case CPU_SAFEPOINT:
        return reg == 9 ? NULL : "virtual flags or the safepoint loaded elsewhere than r9";
    case HOT_CR0:
    case HOT_CR2:
    case HOT_CR3:
    case HOT_CR4:
        return NULL;
    default:
        return "a field of the hot area that may not be read";
    }
}

static const char *check_hot_store(const struct verifier *v, u32 offset,
                                   const struct verify_insn *in) {
    u32 disp = (u32)in->disp;
    bool argument = disp == HOT_ARG0 || disp == HOT_ARG1 || disp == HOT_ARG2;
    if (in->operand_size)
        return "a store of another size to the vCPU";
    if (in->opcode == 0x89)
        return argument ? NULL : "a field of the hot area that may not be written";
    u32 value = load32(v->code + offset + in->length - 4);
    if (argument)
        return NULL;
    if (disp != HOT_FLAG_IF)
        return "a field of the hot area that may not be written";
    return value == 0 || value == F_IF ? NULL : "another virtual IF than 0 or 1";
}

/* [r15+disp] without index or prefixes. */
static const char *check_hot(const struct verifier *v, u32 offset, const struct verify_insn *in) {
    if (in->index != VERIFY_NO_REG || in->lock || in->repeat)
        return "a vCPU address with an index or prefixes";
    if (in->map == 0 && (in->opcode == 0x89 || in->opcode == 0xc7))
        return check_hot_store(v, offset, in);
    return check_hot_load(in);
}

static bool address_register_allowed(u8 number) {
    return number == VERIFY_NO_REG || !reserved_register(number);
}

static const char *check_memory(const struct verifier *v, u32 offset, const struct verify_insn *in,
                                const struct verify_form *f) {
    if (in->rip_relative)
        return "a RIP-relative address";
    bool plain_registers =
        address_register_allowed(in->base) && address_register_allowed(in->index);
    if (f->flags & VF_NO_ACCESS)
        return plain_registers && !in->gs && !in->addr32 ? NULL : "LEA of a reserved register";
    if (in->gs && in->addr32)
        return plain_registers ? NULL : "an address from a reserved register";
    if (in->gs || in->addr32)
        return "half a window prefix";
    if (in->base == H_R15)
        return check_hot(v, offset, in);
    return "memory outside the window";
}

/* ---- Capstone's opinion ---- */

static bool reserved_in_capstone(x86_reg reg) {
    switch (reg) {
    case X86_REG_RSP:
    case X86_REG_ESP:
    case X86_REG_SP:
    case X86_REG_SPL:
    case X86_REG_R13:
    case X86_REG_R13D:
    case X86_REG_R13W:
    case X86_REG_R13B:
    case X86_REG_R14:
    case X86_REG_R14D:
    case X86_REG_R14W:
    case X86_REG_R14B:
    case X86_REG_R15:
    case X86_REG_R15D:
    case X86_REG_R15W:
    case X86_REG_R15B:
    case X86_REG_CS:
    case X86_REG_DS:
    case X86_REG_ES:
    case X86_REG_FS:
    case X86_REG_GS:
    case X86_REG_SS:
        return true;
    default:
        return (reg >= X86_REG_CR0 && reg <= X86_REG_CR15) ||
               (reg >= X86_REG_DR0 && reg <= X86_REG_DR15);
    }
}

static bool bad_group(const struct verifier *v) {
    static const unsigned groups[] = {CS_GRP_JUMP,  CS_GRP_CALL,      CS_GRP_RET, CS_GRP_INT,
                                      CS_GRP_IRET,  CS_GRP_PRIVILEGE, X86_GRP_VM, X86_GRP_AVX,
                                      X86_GRP_AVX2, X86_GRP_AVX512};
    for (size_t i = 0; i < ARRAY_LEN(groups); i++)
        if (cs_insn_group(v->handle, v->insn, groups[i]))
            return true;
    return false;
}

/* Decodes at offset; false when Capstone does not know it or sees another length. */
static bool capstone_decodes(struct verifier *v, u32 offset, unsigned length) {
    const u8 *at = v->code + offset;
    size_t left = v->bytes - offset;
    uint64_t address = offset;
    return cs_disasm_iter(v->handle, &at, &left, &address, v->insn) && v->insn->size == length;
}

/* Capstone 4.0.2 knows fences with rm 0 only. */
static bool beyond_capstone(const struct verify_insn *in) {
    return in->map == 1 && in->opcode == 0xae && in->modrm >= 0xc0;
}

static const char *ask_capstone(struct verifier *v, u32 offset, const struct verify_insn *in) {
    if (beyond_capstone(in))
        return NULL;
    if (!capstone_decodes(v, offset, in->length))
        return "Capstone decodes it differently";
    if (bad_group(v))
        return "Capstone sees a transfer or a privileged instruction";
    const cs_x86 *x86 = &v->insn->detail->x86;
    for (unsigned i = 0; i < x86->op_count; i++) {
        const cs_x86_op *op = &x86->operands[i];
        if (op->type == X86_OP_REG && reserved_in_capstone(op->reg))
            return "Capstone sees a reserved register";
        if (op->type != X86_OP_MEM || v->insn->id == X86_INS_LEA)
            continue;
        bool window = op->mem.segment == X86_REG_GS && op->mem.base != X86_REG_EIP &&
                      op->mem.base != X86_REG_RIP && x86->addr_size == 4;
        bool hot = op->mem.segment == X86_REG_INVALID && op->mem.base == X86_REG_R15 &&
                   op->mem.index == X86_REG_INVALID;
        if (!window && !hot)
            return "Capstone sees memory outside the window";
    }
    for (unsigned i = 0; i < v->insn->detail->regs_write_count; i++)
        if (reserved_in_capstone(v->insn->detail->regs_write[i]))
            return "Capstone sees a reserved register written";
    return NULL;
}

/* ---- Branches ---- */

static const char *note_target(struct verifier *v, u32 from, i32 displacement) {
    i64 to = (i64)from + displacement;
    if (to >= 0 && to < v->bytes) {
        set_bit(v->target, (u32)to);
        return NULL;
    }
    i64 absolute = to + v->at;
    if (absolute < 0 || absolute > UINT32_MAX || !v->known(v->opaque, (u32)absolute))
        return "a branch to an unknown place";
    return NULL;
}

/* Direct branches, RET, and jumps through the stub pointers and the view's table: the length, or 0
 * when it is no branch at all; *wrong is set for one that is refused. */
static u32 match_branch(struct verifier *v, u32 offset, const char **wrong) {
    struct cursor c = cursor_at(v, offset);
    const u8 *p = v->code + offset;
    u32 left = v->bytes - offset;
    bool count_branch = left >= 3 && p[0] == 0x67 && p[1] >= 0xe0 && p[1] <= 0xe3;
    if (p[0] == 0xc3) {
        v->falls_through = false;
        return 1;
    }
    if (count_branch || (left >= 2 && (p[0] == 0xeb || (p[0] & 0xf0) == 0x70))) {
        u32 length = count_branch ? 3 : 2;
        v->falls_through = p[0] != 0xeb;
        *wrong = note_target(v, offset + length, (i8)p[length - 1]);
        return length;
    }
    bool jcc = left >= 2 && p[0] == 0x0f && (p[1] & 0xf0) == 0x80;
    if (jcc || p[0] == 0xe8 || p[0] == 0xe9) {
        c.p += jcc ? 2 : 1;
        i32 displacement = (i32)read_u32(&c);
        u32 length = matched(v, offset, &c);
        if (length) {
            v->after_call = p[0] == 0xe8;
            v->falls_through = jcc;
            *wrong = note_target(v, offset + length, displacement);
        }
        return length;
    }
    return 0;
}

/* jmp/call [r13+disp]: an entry of the view's table. */
static u32 match_view(struct verifier *v, u32 offset) {
    struct cursor c = cursor_at(v, offset);
    TAKE(&c, 0x41, 0xff);
    u8 modrm = read_u8(&c);
    u32 disp;
    if (modrm == 0x65 || modrm == 0x55)
        disp = (u32)(i8)read_u8(&c);
    else if (modrm == 0xa5 || modrm == 0x95)
        disp = read_u32(&c);
    else
        return 0;
    if (!c.ok || disp % 8 != 0 || disp >= VIEW_ENTRIES * 8u)
        return 0;
    v->after_call = (modrm & 0x38) == 0x10;
    v->falls_through = false;
    return matched(v, offset, &c);
}

/* ---- The unit ---- */

/* One item: a sequence, a branch or a plain instruction. Its length in *length. */
static const char *check_item(struct verifier *v, u32 offset, u32 *length) {
    const char *wrong = NULL;
    if (offset == 0 || v->after_call) {
        *length =
            match_eip_check(v, offset, offset ? HOT_STUB_RETURN_MISS : HOT_STUB_INDIRECT_MISS);
        v->after_call = false;
        v->falls_through = true;
        return *length ? NULL : "an entry that does not check its EIP";
    }
    v->falls_through = true;
    if ((*length = match_sequence(v, offset)) || (*length = match_view(v, offset)))
        return NULL;
    if ((*length = match_branch(v, offset, &wrong))) {
        if (!wrong && !capstone_decodes(v, offset, *length))
            wrong = "Capstone decodes it differently";
        return wrong;
    }
    struct verify_insn in;
    const struct verify_form *f = parse_insn(v, offset, &in);
    if (!f)
        return "an instruction that translated code may not hold";
    *length = in.length;
    if (in.rex & 8)
        return "a 64-bit operation";
    if (in.lock && !in.memory)
        return "LOCK without memory";
    if (!in.memory && (in.gs || in.addr32))
        return "a window prefix without memory";
    wrong = check_registers(&in, f);
    if (!wrong && in.memory)
        wrong = check_memory(v, offset, &in, f);
    return wrong ? wrong : ask_capstone(v, offset, &in);
}

static const char *check_code(struct verifier *v, u32 *offset) {
    u32 length = 0;
    *offset = 0;
    if (v->bytes == 0 || v->bytes > VERIFY_MAX_BYTES)
        return "no code, or too much";
    for (u32 at = 0; at < v->bytes; at += length) {
        *offset = at;
        set_bit(v->boundary, at);
        const char *wrong = check_item(v, at, &length);
        if (wrong)
            return wrong;
    }
    if (v->falls_through || v->after_call)
        return "the end is not a jump";
    for (u32 at = 0; at < v->bytes; at++) {
        *offset = at;
        if (test_bit(v->target, at) && !test_bit(v->boundary, at))
            return "a branch into the middle of an instruction or a sequence";
    }
    return NULL;
}

static const char *run_verifier(struct verifier *v, u32 *offset) {
    if (cs_open(CS_ARCH_X86, CS_MODE_64, &v->handle) != CS_ERR_OK)
        return "Capstone cannot be opened";
    cs_option(v->handle, CS_OPT_DETAIL, CS_OPT_ON);
    v->insn = cs_malloc(v->handle);
    const char *wrong = v->insn ? check_code(v, offset) : "no memory for Capstone";
    if (v->insn)
        cs_free(v->insn, 1);
    cs_close(&v->handle);
    return wrong;
}

const char *bt_verify_code(const u8 *code, u32 bytes, u32 at, bool icount, u32 trap_classes,
                           bool (*known)(void *opaque, u32 offset), void *opaque, u32 *offset) {
    struct verifier v = {.code = code,
                         .bytes = bytes,
                         .at = at,
                         .icount = icount,
                         .trap_classes = trap_classes,
                         .known = known,
                         .opaque = opaque};
    return run_verifier(&v, offset);
}

/* The direct entry of a unit. */
static bool is_direct_entry(void *opaque, u32 offset) {
    const struct bt *bt = opaque;
    u32 unit = cache_unit_at(bt, (u64)bt->cache_rx + offset);
    return unit != BT_NONE && bt->unit[unit].host_direct == offset;
}

const char *bt_verify(const struct bt *bt, const struct bt_unit *unit, u32 *offset) {
    struct verifier v = {.code = bt->cache_rx + unit->host,
                         .bytes = unit->host_bytes,
                         .at = unit->host,
                         .icount = bt->config.icount,
                         .trap_classes = unit->cpl == 0 ? bt->config.trap_classes : 0,
                         .known = is_direct_entry,
                         .opaque = (void *)(uintptr_t)bt,
                         .unit = unit};
    const char *wrong = run_verifier(&v, offset);
    if (wrong)
        return wrong;
    u32 direct = unit->host_direct - unit->host;
    *offset = direct;
    if (direct == 0 || direct >= unit->host_bytes || !test_bit(v.boundary, direct))
        return "a direct entry inside an instruction";
    for (u32 i = 0; i < unit->cont_count; i++) {
        *offset = bt->cont[unit->cont_first + i] - unit->host;
        if (*offset >= unit->host_bytes || !test_bit(v.boundary, *offset))
            return "a continuation inside an instruction";
    }
    return NULL;
}
