/*
 * What is no instruction: LOCK before every opcode of both maps and every /digit, with a memory and
 * a register operand; the undefined opcodes and encodings; and those that processors execute though
 * the manual leaves them out (SALC, 82h, F6 /1, D0 /6, x87 aliases). SDM volume 2A, "LOCK-Assert
 * LOCK# Signal Prefix"; volume 2D, appendix A "Opcode Map"; AMD64 volume 3, appendix A. Where
 * manual and silicon differ the test follows silicon, and says so in the table.
 * Expected: #UD before any other fault (privilege, #NM, memory), EIP at the first prefix; LOCK
 * works for ADD ADC AND BTC BTR BTS CMPXCHG CMPXCHG8B DEC INC NEG NOT OR SBB SUB XOR XADD XCHG to
 * memory.
 *
 * QEMU: TCG takes LOCK before most opcodes, and executes some that are undefined
 * UNPAGED: an emulating carrier does so, too, in untranslated code
 * ROUNDS: 2
 * SECONDS: 60
 */
#include "guest.h"

static u8 *const code = scratch;
enum { DATA = 0x8000 };

/* F0, opcode, ModRM (memory: DS:[disp32], or EAX), then NOPs and the end. */
static u32 locked(u32 ring, u32 escape, u32 opcode, u32 digit, bool memory) {
    u8 *p = code;
    *p++ = 0xf0;
    if (escape)
        *p++ = 0x0f;
    *p++ = (u8)opcode;
    *p++ = (u8)((memory ? 5 : 0xc0) | digit << 3);
    if (memory) {
        *(u32 *)p = SCRATCH + DATA;
        p += 4;
    }
    memset(p, 0x90, 10);
    p[10] = 0xcd;
    p[11] = V_DONE;
    memset(scratch + DATA, 0, 16);
    return run(ring, code);
}

static bool lockable(u32 escape, u32 opcode, u32 digit) {
    if (escape)
        switch (opcode) {
        case 0xab: /* BTS BTR BTC, CMPXCHG, XADD */
        case 0xb0:
        case 0xb1:
        case 0xb3:
        case 0xbb:
        case 0xc0:
        case 0xc1:
            return true;
        case 0xba:
            return digit >= 5;
        case 0xc7:
            return digit == 1;
        default:
            return false;
        }
    if (opcode < 0x38)
        return (opcode & 7) <= 1;
    switch (opcode) {
    case 0x80:
    case 0x81:
    case 0x82:
    case 0x83:
        return digit < 7;
    case 0x86:
    case 0x87:
        return true;
    case 0xf6:
    case 0xf7:
        return digit == 2 || digit == 3;
    case 0xfe:
    case 0xff:
        return digit < 2;
    default:
        return false;
    }
}
static bool is_prefix(u32 opcode) {
    switch (opcode) {
    case 0x0f:
    case 0x26:
    case 0x2e:
    case 0x36:
    case 0x3e:
    case 0x64:
    case 0x65:
    case 0x66:
    case 0x67:
    case 0xf0:
    case 0xf2:
    case 0xf3:
        return true;
    default:
        return false;
    }
}

static void lock_prefix(u32 ring) {
    for (u32 escape = 0; escape < 2; escape++)
        for (u32 opcode = 0; opcode < 256; opcode++)
            for (u32 digit = 0; digit < 8; digit++)
                for (u32 memory = 0; memory < 2; memory++) {
                    if (!escape && is_prefix(opcode))
                        continue;
                    bool ok = memory && lockable(escape, opcode, digit);
                    if (ok && digit == 4 && opcode == (escape ? 0xc1 : 0x87))
                        continue; /* these load ESP */
                    u32 vector = locked(ring, escape, opcode, digit, memory);
                    if (vector == (ok ? V_DONE : V_UD) && (ok || trap.eip == (u32)code))
                        continue;
                    print("lock ");
                    print_hex(escape << 16 | opcode << 8 | digit << 4 | memory);
                    EQ(vector, ok ? V_DONE : V_UD);
                    EQ(trap.eip, code);
                }
}

/* First byte: how many follow. */
static const u8 undefined[][8] = {
    {2, 0x0f, 0x0b},
    {3, 0x0f, 0xb9, 0xc0},
    {3, 0x0f, 0xff, 0xc0},
    {2, 0x0f, 0x04},
    {2, 0x0f, 0x0a},
    {2, 0x0f, 0x0c},
    {3, 0x0f, 0x24, 0xc0},
    {3, 0x0f, 0x25, 0xc0},
    {3, 0x0f, 0x26, 0xc0},
    {3, 0x0f, 0x27, 0xc0},
    {2, 0x0f, 0x36},
    {2, 0x0f, 0x37},
    {2, 0x0f, 0x39},
    {2, 0x0f, 0x3b},
    {2, 0x0f, 0x3c},
    {2, 0x0f, 0x3d},
    {2, 0x0f, 0x3e},
    {2, 0x0f, 0x3f},
    {3, 0x0f, 0x7a, 0xc0},
    {3, 0x0f, 0x7b, 0xc0},
    {3, 0x0f, 0xa6, 0xc0},
    {3, 0x0f, 0xa7, 0xc0},
    {2, 0x0f, 0xaa},
    {3, 0x0f, 0x01, 0xc1},
    {3, 0x0f, 0x01, 0xc2},
    {3, 0x0f, 0x01, 0xd8},
    {3, 0x0f, 0x01, 0xe8},
    {3, 0x0f, 0x01, 0xf8},
    {3, 0x0f, 0x00, 0xf0},
    {3, 0x0f, 0x00, 0xf8},
    {3, 0x0f, 0x01, 0xd1}, /* XSETBV without OSXSAVE */
    {3, 0x0f, 0xc7, 0xc0},
    {3, 0x0f, 0xc7, 0xc8},
    {3, 0x0f, 0xc7, 0xd0},
    {3, 0x0f, 0xba, 0xc0},
    {3, 0x0f, 0xba, 0xd8},
    {4, 0x0f, 0x71, 0xc0, 1},
    {4, 0x0f, 0x72, 0xc8, 1},
    {4, 0x0f, 0x73, 0xd8, 1},
    {4, 0x0f, 0x71, 0x10, 1},
    {3, 0x0f, 0xae, 0xc0},
    {3, 0x0f, 0xae, 0xe0},
    {3, 0x8f, 0xc8, 0},
    {6, 0x8f, 0x0d, 0, 0, 0, 0},
    {3, 0xc6, 0xc8, 0},
    {3, 0xc6, 0xf8, 0},
    {3, 0xc7, 0xc8, 0},
    {3, 0xc7, 0xe0, 0},
    {2, 0xfe, 0xd0},
    {2, 0xfe, 0xe0},
    {2, 0xfe, 0xf8},
    {2, 0xff, 0xf8},
    {2, 0xff, 0xd8},
    {2, 0xff, 0xe8},
    {6, 0xff, 0x3d, 0, 0, 0, 0},
    {2, 0x8e, 0xc8},
    {2, 0x8e, 0xf0},
    {2, 0x8e, 0xf8},
    {2, 0x8c, 0xf0},
    {2, 0x8c, 0xf8},
    {2, 0x8d, 0xc0},
    {3, 0x0f, 0xb2, 0xc0},
    {3, 0x0f, 0xb4, 0xc0},
    {3, 0x0f, 0xb5, 0xc0},
    {3, 0xc4, 0xc0, 0},
    {3, 0xc5, 0xc0, 0},
    {2, 0x62, 0xc0},
    {3, 0x0f, 0x20, 0xc8},
    {3, 0x0f, 0x22, 0xe8},
    {3, 0x0f, 0x20, 0xf8},
    /* x87 */
    {2, 0xd9, 0xd1},
    {2, 0xd9, 0xd7},
    {2, 0xd9, 0xe2},
    {2, 0xd9, 0xe6},
    {2, 0xd9, 0xef},
    {2, 0xda, 0xe0},
    {2, 0xda, 0xe8},
    {2, 0xda, 0xea},
    {2, 0xda, 0xff},
    {2, 0xdb, 0xe6},
    {2, 0xdb, 0xf8},
    {2, 0xdd, 0xf0},
    {2, 0xdd, 0xff},
    {2, 0xde, 0xd8},
    {2, 0xde, 0xda},
    {2, 0xdf, 0xe1},
    {2, 0xdf, 0xf8},
    {6, 0xd9, 0x0d, 0, 0, 0, 0},
    {6, 0xdb, 0x25, 0, 0, 0, 0},
    {6, 0xdb, 0x35, 0, 0, 0, 0},
    {6, 0xdd, 0x2d, 0, 0, 0, 0},
};
/* The manual does not define these; every processor since the 8086 (or the 8087) does them. */
static const u8 executed[][8] = {
    {1, 0xd6},             /* SALC */
    {3, 0x82, 0xc0, 0x01}, /* ADD AL,1 */
    {3, 0xf6, 0xc8, 0x01}, /* TEST AL,1 */
    {6, 0xf7, 0xc8, 1, 0, 0, 0},
    {2, 0xd0, 0xf0}, /* SHL AL,1 */
    {3, 0xc0, 0xf0, 0x03},
    {2, 0xd3, 0xf0},
    {2, 0xd9, 0xd8}, /* FSTP ST(0), alias */
    {2, 0xdc, 0xd0},
    {2, 0xdc, 0xd8},
    {2, 0xdd, 0xc8},
    {2, 0xde, 0xd0},
    {2, 0xdf, 0xc0},
    {2, 0xdf, 0xc8},
    {2, 0xdf, 0xd0},
    {2, 0xdf, 0xd8},
    {2, 0xdb, 0xe0},
    {2, 0xdb, 0xe1},
    {2, 0xdb, 0xe4},
    {3, 0x0f, 0x19, 0xc0},
    {3, 0x0f, 0x1c, 0x00},
    {3, 0x0f, 0x0d, 0x08},
};

static void tables(u32 ring) {
    for (u32 i = 0; i < sizeof undefined / sizeof *undefined; i++) {
        memcpy(code, undefined[i] + 1, undefined[i][0]);
        memset(code + undefined[i][0], 0x90, 8);
        u32 vector = run(ring, code);
        /* Control registers that do not exist: at ring 3 privilege may come first. */
        bool control = code[0] == 0x0f && (code[1] & 0xfd) == 0x20;
        if (vector != V_UD && !(control && ring && vector == V_GP)) {
            print("undefined ");
            print_hex(i);
            EQ(vector, V_UD);
        }
        EQ(trap.error, 0);
        EQ(trap.eip, code);
    }
    for (u32 i = 0; i < sizeof executed / sizeof *executed; i++) {
        u32 bytes = executed[i][0];
        static const u8 begin[] = {0xdb, 0xe3, 0xd9, 0xe8, 0xd9, 0xe8}; /* FNINIT; FLD1; FLD1 */
        memcpy(code, begin, sizeof begin);
        memcpy(code + sizeof begin, executed[i] + 1, bytes);
        memset(code + sizeof begin + bytes, 0x90, 8);
        code[sizeof begin + bytes] = 0xcd;
        code[sizeof begin + bytes + 1] = V_DONE;
        reset_run(ring);
        in.eax = SCRATCH + DATA + 1;
        in.eflags |= F_CF;
        u32 vector = run(ring, code);
        if (vector != V_DONE) {
            print("executed ");
            print_hex(i);
            EQ(vector, V_DONE);
        }
        __asm__ volatile("fninit");
    }
    /* Results of those that have one. */
    reset_run(ring);
    memcpy(code, (const u8[]){0xc0, 0xf0, 3, 0xf6, 0xcc, 0x10, 0x0f, 0x95, 0xc3, 0xcd, V_DONE}, 11);
    in.eax = 0x1011;
    RUNS(ring, code); /* SHL AL,3 by C0 /6; TEST AH,10h by F6 /1; SETNZ BL */
    EQ(trap.eax, 0x1088);
    EQ(trap.ebx, 1);
}

/* #UD wins over everything that executing would find. */
static void order(u32 ring) {
    u32 cr0 = read_cr0();
    static const u8 first[][8] = {
        {3, 0xf0, 0xf4, 0},
        {4, 0xf0, 0x0f, 0x20, 0xc0},
        {4, 0xf0, 0x0f, 0x22, 0xc0},
        {3, 0xf0, 0xd9, 0xe8},
        {3, 0xf0, 0xcd, 0x80},
        {2, 0xf0, 0xcc},
        {2, 0xf0, 0x9b},
        {3, 0xf0, 0x0f, 0xa2},
        {7, 0xf0, 0xa1, 0, 0, 0, 0xff, 0},
        {3, 0xf0, 0xe4, 0x61},
        {2, 0xf0, 0xfa},
        {2, 0xf0, 0xcf},
        {2, 0xf0, 0xcb},
    };
    write_cr0((cr0 & ~CR0_EM) | CR0_TS | CR0_MP);
    for (u32 i = 0; i < sizeof first / sizeof *first; i++) {
        memcpy(code, first[i] + 1, first[i][0]);
        EQ(run(ring, code), V_UD);
        EQ(trap.eip, code);
    }
    write_cr0(cr0);
}

void test(void) {
    write_cr0((read_cr0() & ~(CR0_EM | CR0_TS)) | CR0_MP | CR0_NE);
    write_cr4(read_cr4() | CR4_OSFXSR);
    for (u32 ring = 0; ring <= 3; ring += 3) {
        lock_prefix(ring);
        tables(ring);
        order(ring);
    }
}
