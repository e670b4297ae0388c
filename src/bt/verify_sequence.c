/*
 * verify_sequence.c: the shapes of several instructions that the verifier knows, byte for byte.
 * None of them may be entered in the middle.
 */
#include "bt/verify_internal.h"

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
    if (callout == CO_STALE) /* only at the end of a self-check */
        return 0;
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

u32 verify_eip_check(const struct verifier *v, u32 offset, u32 hot_stub) {
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

/* One piece of a self-check: a load of the source into r8d or r9d, and LEA by an immediate. */
static bool take_piece(const struct verifier *v, struct cursor *c, bool first) {
    struct cursor at = *c;
    u32 bytes = 4;
    TAKE(&at, 0x65, 0x67, 0x44);
    u8 opcode = read_u8(&at);
    if (opcode == 0x0f) {
        opcode = read_u8(&at);
        bytes = opcode == 0xb7 ? 2 : opcode == 0xb6 ? 1 : 0;
    } else if (opcode != 0x8b) {
        bytes = 0;
    }
    TAKE(&at, first ? 0x04 : 0x0c, 0x25);
    u32 lin = read_u32(&at);
    TAKE(&at, 0x45, 0x8d, first ? 0x80 : 0x89);
    read_u32(&at);
    if (!first)
        TAKE(&at, 0x4f, 0x8d, 0x04, 0x08);
    const struct bt_unit *u = v->unit;
    if (!at.ok || !bytes || (u && (u64)(lin - u->eip) + bytes > u->guest_bytes))
        return false;
    *c = at;
    return true;
}

/* The comparison of a unit's source with what it was made from (selfcheck.c), its callout
 * included. */
static u32 match_self_check(const struct verifier *v, u32 offset) {
    struct cursor c = cursor_at(v, offset);
    const struct bt_unit *u = v->unit;
    if ((u && !u->checked) || !take_piece(v, &c, true))
        return 0;
    while (take_piece(v, &c, false))
        ;
    TAKE(&c, 0x44, 0x8b, 0xc9, 0x49, 0x8b, 0xc8, 0xe3, 22); /* mov r9d,ecx; mov rcx,r8; jrcxz */
    TAKE(&c, 0x41, 0x8b, 0xc9, 0x41, 0xb8);                 /* mov ecx,r9d; mov r8d,unit */
    u32 unit = read_u32(&c);
    TAKE(&c, 0x41, 0xb9);
    take_u32(&c, CO_STALE);
    TAKE(&c, 0x41, 0xff, 0xa7);
    take_u32(&c, HOT_STUB_CALLOUT);
    TAKE(&c, 0x41, 0x8b, 0xc9);
    return !u || unit == v->unit_index ? matched(v, offset, &c) : 0;
}

/* [r8+disp] with the displacement of the unit's own counter, in the shortest form. */
static void take_counter(const struct verifier *v, struct cursor *c) {
    u32 disp = v->unit_index * 8;
    if (disp == 0)
        TAKE(c, 0x08);
    else if (disp < 0x80)
        TAKE(c, 0x48, (u8)disp);
    else {
        TAKE(c, 0x88);
        take_u32(c, disp);
    }
}

/* config.count: the unit counts how often it is entered, in its own counter alone. */
static u32 match_count(const struct verifier *v, u32 offset) {
    struct cursor c = cursor_at(v, offset);
    if (!v->count || !v->unit)
        return 0;
    TAKE(&c, 0x4d, 0x8b, 0x87); /* mov r8,[r15+HOT_UNIT_COUNTS] */
    take_u32(&c, HOT_UNIT_COUNTS);
    TAKE(&c, 0x4d, 0x8b);
    take_counter(v, &c);
    TAKE(&c, 0x4d, 0x8d, 0x49, 0x01); /* lea r9,[r9+1] */
    TAKE(&c, 0x4d, 0x89);
    take_counter(v, &c);
    return matched(v, offset, &c);
}

u32 verify_sequence(struct verifier *v, u32 offset) {
    u32 n;
    if ((n = match_string(v, offset)) || (n = match_segment_base(v, offset)) ||
        (n = match_sti_poll(v, offset)) || (n = match_icount(v, offset)) ||
        (n = match_pushf(v, offset)) || (n = match_popf(v, offset)) ||
        (n = match_rdtsc(v, offset)) || (n = match_indirect(v, offset)) ||
        (n = match_self_check(v, offset)) || (n = match_count(v, offset)) ||
        (n = match_callout(v, offset)) || (n = match_privileged(v, offset)))
        return n;
    return 0;
}

/* ---- Our own parser ---- */
