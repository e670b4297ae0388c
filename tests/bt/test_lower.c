/*
 * test_lower.c: the host code of some 250 guest instructions against golden files, so that a
 * change of code quality shows in a diff. A line is the host bytes and, behind a semicolon, their
 * disassembly by Capstone, which is for the reader and not compared. `--update` rewrites the files.
 *
 * Each instruction stands at CODE in a unit of its own, followed by HLT; shown is its own part of
 * the unit, and where a group asks for it the whole unit with entry and stubs.
 */
#include "bt_fixture.h"

#include <capstone/capstone.h>

struct sample {
    const char *hex;
    u8 cpl;
    bool adapted; /* as a site that keeps faulting */
    bool dead;    /* the flags are dead behind it: XOR follows */
};
struct group {
    const char *name;
    const struct sample *samples;
    size_t count;
    bool whole; /* whole units */
    void (*configure)(struct bt_config *config);
};

/* ---- the samples ---- */

#define S(bytes)                                                                                   \
    { bytes, 0, false, false }
#define USER(bytes)                                                                                \
    { bytes, 3, false, false }
#define ADAPTED(bytes)                                                                             \
    { bytes, 0, true, false }
#define DEAD(bytes)                                                                                \
    { bytes, 3, false, true }

static const struct sample moves[] = {
    S("89 c8"),                   /* mov eax,ecx */
    S("8b 03"),                   /* mov eax,[ebx] */
    S("89 03"),                   /* mov [ebx],eax */
    S("8b 44 8b 08"),             /* mov eax,[ebx+ecx*4+8] */
    S("8b 04 8d 78 56 34 12"),    /* mov eax,[ecx*4+disp] */
    S("8b 05 78 56 34 12"),       /* mov eax,[disp]: not RIP-relative */
    S("8b 45 00"),                /* mov eax,[ebp] */
    S("8b 04 24"),                /* mov eax,[esp] */
    S("8b 64 24 04"),             /* mov esp,[esp+4] */
    S("89 64 24 fc"),             /* mov [esp-4],esp */
    S("89 e5"),                   /* mov ebp,esp */
    S("8b 04 0c"),                /* mov eax,[esp+ecx] */
    S("36 8b 03"),                /* ss: dropped */
    S("3e 8b 44 24 04"),          /* ds: dropped */
    S("66 8b 03"),                /* mov ax,[ebx] */
    S("66 89 e0"),                /* mov ax,sp */
    S("8a 03"),                   /* mov al,[ebx] */
    S("8a 23"),                   /* mov ah,[ebx] */
    S("8a 64 24 04"),             /* mov ah,[esp+4]: no REX with AH */
    S("88 7c 24 04"),             /* mov [esp+4],bh */
    S("88 e0"),                   /* mov al,ah */
    S("c7 03 78 56 34 12"),       /* mov dword [ebx],imm32 */
    S("66 c7 43 02 34 12"),       /* mov word [ebx+2],imm16 */
    S("c6 44 24 08 5a"),          /* mov byte [esp+8],imm8 */
    S("b8 78 56 34 12"),          /* mov eax,imm32 */
    S("bc 78 56 34 12"),          /* mov esp,imm32 */
    S("b4 5a"),                   /* mov ah,imm8 */
    S("66 bb 34 12"),             /* mov bx,imm16 */
    S("a1 78 56 34 12"),          /* mov eax,moffs */
    S("a0 78 56 34 12"),          /* mov al,moffs */
    S("a3 78 56 34 12"),          /* mov moffs,eax */
    S("66 a3 78 56 34 12"),       /* mov moffs,ax */
    S("64 a1 14 00 00 00"),       /* mov eax,fs:[14h] */
    S("64 8b 03"),                /* mov eax,fs:[ebx] */
    S("65 8b 44 8b 08"),          /* mov eax,gs:[ebx+ecx*4+8] */
    S("64 8b 04 8d 00 10 00 00"), /* mov eax,fs:[ecx*4+1000h] */
    S("65 89 64 24 04"),          /* mov gs:[esp+4],esp */
    S("64 88 23"),                /* mov fs:[ebx],ah */
    S("0f b6 03"),                /* movzx eax,byte [ebx] */
    S("0f b7 c4"),                /* movzx eax,sp */
    S("0f be c4"),                /* movsx eax,ah */
    S("0f b6 e4"),                /* movzx esp,ah: emulated */
    S("0f bf 64 24 02"),          /* movsx esp,word [esp+2] */
    S("87 03"),                   /* xchg [ebx],eax */
    S("86 24 24"),                /* xchg [esp],ah */
    S("94"),                      /* xchg esp,eax */
    S("93"),                      /* xchg ebx,eax */
    S("0f cc"),                   /* bswap esp */
    S("98"),                      /* cwde */
    S("66 99"),                   /* cwd */
    S("8d 44 8b 08"),             /* lea eax,[ebx+ecx*4+8] */
    S("8d 64 24 f0"),             /* lea esp,[esp-16] */
    S("8d 05 78 56 34 12"),       /* lea eax,[disp] */
    S("66 8d 43 08"),             /* lea ax,[ebx+8] */
    S("0f c3 03"),                /* movnti [ebx],eax */
    S("2e 8b 03"),                /* cs: emulated */
    S("67 8b 07"),                /* [bx]: emulated */
};

static const struct sample arithmetic[] = {
    S("01 c8"),             /* add eax,ecx */
    S("03 44 24 04"),       /* add eax,[esp+4] */
    S("01 04 24"),          /* add [esp],eax */
    S("00 24 24"),          /* add [esp],ah */
    S("80 44 24 04 05"),    /* add byte [esp+4],5 */
    S("82 c0 05"),          /* 82h alias of 80h */
    S("83 ec 10"),          /* sub esp,16 */
    S("81 c4 00 10 00 00"), /* add esp,1000h */
    S("05 78 56 34 12"),    /* add eax,imm32 */
    S("66 83 c0 05"),       /* add ax,5 */
    S("13 03"),             /* adc eax,[ebx] */
    S("39 e0"),             /* cmp eax,esp */
    S("38 64 24 01"),       /* cmp [esp+1],ah */
    S("85 c0"),             /* test eax,eax */
    S("f6 44 24 01 80"),    /* test byte [esp+1],80h */
    S("f7 e4"),             /* mul esp */
    S("0f af c4"),          /* imul eax,esp */
    S("69 e3 e8 03 00 00"), /* imul esp,ebx,1000 */
    S("f7 f1"),             /* div ecx */
    S("f7 3b"),             /* idiv dword [ebx] */
    S("40"),                /* inc eax: 40 is a REX */
    S("4c"),                /* dec esp */
    S("66 43"),             /* inc bx */
    S("ff 03"),             /* inc dword [ebx] */
    S("fe c4"),             /* inc ah */
    S("f7 d4"),             /* not esp */
    S("f7 1b"),             /* neg dword [ebx] */
    S("c1 e0 05"),          /* shl eax,5 */
    S("d3 24 24"),          /* shl dword [esp],cl */
    S("d1 dc"),             /* rcr esp,1 */
    S("0f a4 e0 04"),       /* shld eax,esp,4 */
    S("0f ad 03"),          /* shrd [ebx],eax,cl */
    S("0f a3 03"),          /* bt [ebx],eax */
    S("0f ba 2c 24 07"),    /* bts dword [esp],7 */
    S("f0 0f ab 03"),       /* lock bts [ebx],eax */
    S("0f bc c4"),          /* bsf eax,esp */
    S("f3 0f bc c4"),       /* rep bsf: not TZCNT */
    S("f3 0f b8 c4"),       /* popcnt eax,esp */
    S("f0 0f c1 04 24"),    /* lock xadd [esp],eax */
    S("f0 0f b1 0b"),       /* lock cmpxchg [ebx],ecx */
    S("0f b0 24 24"),       /* cmpxchg [esp],ah */
    S("f0 0f c7 0b"),       /* lock cmpxchg8b [ebx] */
    S("0f 44 e0"),          /* cmovz esp,eax */
    S("0f 95 44 24 03"),    /* setnz [esp+3] */
    S("0f 94 c4"),          /* setz ah */
    S("9e"),                /* sahf */
    S("9f"),                /* lahf */
    S("f8"),                /* clc */
    S("fc"),                /* cld */
    S("fd"),                /* std: emulated */
    S("27"),                /* daa: emulated */
    S("0f 1f 44 00 00"),    /* nop */
    S("f3 90"),             /* pause */
    S("d7"),                /* xlat: emulated */
    S("0f a2"),             /* cpuid: emulated */
};

static const struct sample stack[] = {
    S("50"),                   /* push eax */
    S("54"),                   /* push esp */
    S("6a 85"),                /* push imm8, sign-extended */
    S("68 78 56 34 12"),       /* push imm32 */
    S("66 50"),                /* push ax */
    S("66 6a 85"),             /* push imm8 as a word */
    S("ff 33"),                /* push [ebx] */
    S("ff 74 24 04"),          /* push [esp+4] */
    S("64 ff 35 14 00 00 00"), /* push fs:[14h] */
    S("58"),                   /* pop eax */
    S("5c"),                   /* pop esp */
    S("66 58"),                /* pop ax */
    S("66 5c"),                /* pop sp: emulated */
    S("8f 03"),                /* pop [ebx] */
    S("8f 04 24"),             /* pop [esp]: address after the increment */
    S("8f 44 24 04"),          /* pop [esp+4] */
    S("60"),                   /* pusha */
    S("61"),                   /* popa */
    S("c9"),                   /* leave */
    S("c8 10 00 00"),          /* enter: emulated */
    S("1e"),                   /* push ds */
    S("0f a0"),                /* push fs */
    S("66 0f a8"),             /* push gs as a word */
    S("1f"),                   /* pop ds */
    S("0f a1"),                /* pop fs */
    S("66 0f a9"),             /* pop gs, a word */
    S("17"),                   /* pop ss: emulated */
};

static const struct sample strings[] = {
    S("a4"),       /* movsb */
    S("a5"),       /* movsd */
    S("66 a5"),    /* movsw */
    S("f3 a4"),    /* rep movsb */
    S("f3 a5"),    /* rep movsd */
    S("f3 66 ab"), /* rep stosw */
    S("f3 aa"),    /* rep stosb */
    S("ab"),       /* stosd */
    S("ac"),       /* lodsb */
    S("f3 ad"),    /* rep lodsd */
    S("ae"),       /* scasb */
    S("f2 ae"),    /* repne scasb */
    S("f3 a6"),    /* repe cmpsb */
    S("36 a4"),    /* ss: is flat too */
    S("64 a4"),    /* fs: emulated */
    S("67 a4"),    /* 16-bit pointers: emulated */
    S("6d"),       /* insd: emulated */
};

static const struct sample branches[] = {
    S("eb 10"),                /* jmp forward in the page */
    S("eb f0"),                /* jmp backward: a poll */
    S("e9 00 10 00 00"),       /* jmp to the next page, CPL 0: a slot */
    USER("e9 00 10 00 00"),    /* CPL 3: through the view's table */
    S("74 10"),                /* jz */
    USER("0f 85 00 10 00 00"), /* jnz to another page */
    S("e2 fe"),                /* loop */
    S("e0 10"),                /* loopne */
    S("e3 10"),                /* jecxz */
    S("67 e3 10"),             /* jcxz: emulated */
    S("ff e0"),                /* jmp eax */
    S("ff e4"),                /* jmp esp */
    S("ff 24 85 00 10 00 00"), /* jmp [eax*4+table] */
    S("64 ff 23"),             /* jmp fs:[ebx] */
    S("66 e9 00 00"),          /* 16-bit: emulated */
    S("e8 10 00 00 00"),       /* call */
    USER("e8 00 10 00 00"),    /* call to another page at CPL 3 */
    S("e8 00 ff ff ff"),       /* call backward */
    S("ff d0"),                /* call eax */
    S("ff d4"),                /* call esp */
    S("ff 54 24 08"),          /* call [esp+8] */
    S("c3"),                   /* ret */
    S("c2 08 00"),             /* ret 8 */
    S("ea 00 00 00 00 08 00"), /* far jmp: emulated */
    S("9a 00 00 00 00 08 00"), /* far call: emulated */
    S("cb"),                   /* far ret: emulated */
};

static const struct sample system_code[] = {
    S("9c"),          /* pushf */
    S("9d"),          /* popf */
    S("66 9c"),       /* pushf 16: emulated */
    S("fa"),          /* cli */
    S("fb"),          /* sti and its poll */
    USER("fa"),       /* at CPL 3: emulated */
    S("8c d8"),       /* mov eax,ds */
    S("66 8c e0"),    /* mov ax,fs */
    S("8c 1b"),       /* mov [ebx],ds */
    S("8c 6c 24 04"), /* mov [esp+4],gs */
    S("8e d8"),       /* mov ds,eax */
    S("8e 64 24 04"), /* mov fs,[esp+4] */
    S("8e ec"),       /* mov gs,esp */
    S("8e d0"),       /* mov ss,eax: emulated */
    S("0f 20 c0"),    /* mov eax,cr0 */
    S("0f 20 d4"),    /* mov esp,cr2 */
    USER("0f 20 c0"), /* emulated */
    S("0f 22 d8"),    /* mov cr3,eax: emulated */
    S("0f 21 f8"),    /* mov eax,dr7: emulated */
    USER("cd 80"),    /* int 80h */
    S("cc"),          /* int3: emulated */
    S("cf"),          /* iret */
    USER("0f 34"),    /* sysenter */
    S("0f 35"),       /* sysexit */
    S("0f 31"),       /* rdtsc, flags live behind it */
    DEAD("0f 31"),    /* and dead */
    S("f4"),          /* hlt: emulated */
    S("0f 01 13"),    /* lgdt: emulated */
    S("0f 01 cb"),    /* stac */
    S("0f 01 ca"),    /* clac */
    USER("0f 01 ca"), /* emulated */
    S("0f 01 e0"),    /* smsw eax: emulated */
    S("ec"),          /* in al,dx: emulated */
};

static const struct sample floating[] = {
    S("d9 03"),             /* fld dword [ebx] */
    S("dd 5c 24 08"),       /* fstp qword [esp+8] */
    S("d8 c1"),             /* fadd st1 */
    S("df e0"),             /* fnstsw ax */
    S("db f1"),             /* fcomi st1 */
    S("d9 3c 24"),          /* fnstcw [esp] */
    S("dd 30"),             /* fnsave: emulated */
    S("9b"),                /* fwait */
    S("0f 28 03"),          /* movaps xmm0,[ebx] */
    S("0f 29 44 24 10"),    /* movaps [esp+16],xmm0 */
    S("f3 0f 10 04 24"),    /* movss xmm0,[esp] */
    S("f2 0f 58 c1"),       /* addsd */
    S("66 0f ef c0"),       /* pxor */
    S("66 0f 6e c4"),       /* movd xmm0,esp */
    S("66 0f 7e c4"),       /* movd esp,xmm0 */
    S("0f 50 e0"),          /* movmskps esp,xmm0 */
    S("f2 0f 2a 04 24"),    /* cvtsi2sd xmm0,[esp] */
    S("0f c4 c4 01"),       /* pinsrw mm0,esp,1 */
    S("66 0f 3a 0f c1 04"), /* palignr */
    S("66 0f 38 00 03"),    /* pshufb xmm0,[ebx] */
    S("0f ae 13"),          /* ldmxcsr [ebx] */
    S("0f ae 03"),          /* fxsave: emulated */
    S("0f 77"),             /* emms */
};

static const struct sample adapted[] = {
    ADAPTED("8b 03"),          /* mov eax,[ebx] */
    ADAPTED("89 44 24 04"),    /* mov [esp+4],eax */
    ADAPTED("c6 03 5a"),       /* mov byte [ebx],imm8 */
    ADAPTED("0f b6 44 8b 01"), /* movzx eax,byte [ebx+ecx*4+1] */
    ADAPTED("66 0f be 23"),    /* movsx sp,byte [ebx] */
    ADAPTED("8a 23"),          /* mov ah,[ebx] */
    ADAPTED("a1 00 10 00 00"), /* mov eax,moffs */
    ADAPTED("f3 a5"),          /* rep movsd */
    ADAPTED("aa"),             /* stosb */
    ADAPTED("64 8b 03"),       /* fs: emulated */
    ADAPTED("01 03"),          /* add: emulated */
    ADAPTED("ac"),             /* lodsb: emulated */
    ADAPTED("ff 33"),          /* push [ebx]: emulated */
};

static const struct sample whole[] = {
    S("8b 03"),
    S("75 10"), /* a slot and its stub */
    USER("e8 00 10 00 00"),
    S("c3"),
};

static void with_icount(struct bt_config *config) {
    config->icount = true;
}
static void with_lockstep(struct bt_config *config) {
    config->lockstep = true;
}
static void without_return_stack(struct bt_config *config) {
    config->retstack = false;
}

#define GROUP(name, list, whole_units, configure)                                                  \
    { name, list, ARRAY_LEN(list), whole_units, configure }
static const struct group groups[] = {
    GROUP("moves", moves, false, NULL),
    GROUP("arithmetic", arithmetic, false, NULL),
    GROUP("stack", stack, false, NULL),
    GROUP("strings", strings, false, NULL),
    GROUP("branches", branches, false, NULL),
    GROUP("branches-noretstack", branches, false, without_return_stack),
    GROUP("system", system_code, false, NULL),
    GROUP("floating", floating, false, NULL),
    GROUP("adapted", adapted, false, NULL),
    GROUP("units", whole, true, NULL),
    GROUP("units-icount", whole, true, with_icount),
    GROUP("units-lockstep", whole, true, with_lockstep),
};

/* ---- the listing ---- */

struct text {
    char *p;
    size_t used, room;
};
static void append(struct text *t, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static void append(struct text *t, const char *fmt, ...) {
    va_list args;
    va_start(args, fmt);
    int n = vsnprintf(t->p + t->used, t->room - t->used, fmt, args);
    va_end(args);
    t->used += (size_t)n;
    assert_true(t->used < t->room);
}

static void list_code(struct text *t, csh capstone, const u8 *code, u32 from, u32 to) {
    cs_insn *in = cs_malloc(capstone);
    const u8 *p = code + from;
    size_t left = to - from;
    u64 address = from;
    while (left) {
        const u8 *start = p;
        char hex[64] = "";
        if (!cs_disasm_iter(capstone, &p, &left, &address, in))
            fail_msg("Capstone cannot decode host offset %u", (unsigned)(start - code));
        for (unsigned i = 0; i < in->size; i++)
            snprintf(hex + 3 * i, sizeof hex - 3 * i, "%02x ", start[i]);
        append(t, "    %-40s ; %s %s\n", hex, in->mnemonic, in->op_str);
    }
    cs_free(in, 1);
}

static void list_sample(struct world *w, struct text *t, csh capstone, const struct group *g,
                        const struct sample *s) {
    struct insn in;
    char text[96];
    cache_flush(w->bt, BT_CAUSE_request);
    memset(w->bt->site, 0, sizeof w->bt->site);
    set_cpl(w, s->cpl);
    u32 behind = put(w, CODE, s->hex);
    put(w, behind, s->dead ? "31 c0 31 c0 f4" : "f4");
    assert_int_equal(insn_decode(&in, w->ram + CODE, 15, true, true), INSN_OK);
    assert_int_equal(in.length, behind - CODE);
    if (s->adapted)
        site_note_fault(w->bt, CODE, BT_NONE, 1);
    w->bt->mxcsr_exact = true; /* whatever the host */
    u32 index = bt_translate(w->bt, CODE, CODE);
    assert_int_not_equal(index, BT_NONE);
    const struct bt_unit *u = &w->bt->unit[index];
    u32 offset;
    const char *wrong = bt_verify(w->bt, u, &offset);
    insn_format(&in, CODE, text, sizeof text);
    if (wrong)
        fail_msg("%s: %s", text, wrong);
    append(t, "%s: %s%s%s%s\n", s->hex, text, s->cpl ? ", cpl 3" : "",
           s->adapted ? ", adapted" : "", s->dead ? ", flags dead" : "");
    const struct bt_pc *pc = &w->bt->pc[u->pc_first];
    u32 from = g->whole ? 0 : pc[1].host, to = u->host_bytes;
    for (u32 i = 2; !g->whole && i < u->pc_count; i++)
        if (pc[i].guest == in.length && pc[i].recovery == RECOVER_PLAIN) {
            to = pc[i].host;
            break;
        }
    list_code(t, capstone, w->bt->cache_rx + u->host, from, to);
}

static void list_group(const struct group *g, struct text *t) {
    struct bt_config config;
    struct world w;
    csh capstone;
    default_test_config(&config);
    if (g->configure)
        g->configure(&config);
    world_create(&w, &config);
    bt_set_tsc_base(w.bt, 0);
    assert_int_equal(cs_open(CS_ARCH_X86, CS_MODE_64, &capstone), CS_ERR_OK);
    for (size_t i = 0; i < g->count; i++)
        list_sample(&w, t, capstone, g, &g->samples[i]);
    cs_close(&capstone);
    world_destroy(&w);
}

/* ---- against the files ---- */

static bool updating;

/* golden/ stands beside this source file. */
static void golden_path(const char *name, char *out, size_t bytes) {
    const char *slash = strrchr(__FILE__, '/');
    int directory = slash ? (int)(slash - __FILE__) : 0;
    snprintf(out, bytes, "%.*s/golden/%s.txt", directory, directory ? __FILE__ : ".", name);
}

static char *read_golden(const char *path) {
    FILE *f = fopen(path, "r");
    char *text = calloc(1, 1 << 20);
    if (!f || !text)
        fail_msg("no %s: run with --update", path);
    size_t n = fread(text, 1, (1 << 20) - 1, f);
    text[n] = 0;
    fclose(f);
    return text;
}

/* Length of the block at p: a line with the guest instruction and the indented host code below. */
static size_t block_length(const char *p) {
    const char *end = strchr(p, '\n');
    while (end && end[1] == ' ')
        end = strchr(end + 1, '\n');
    return end ? (size_t)(end + 1 - p) : strlen(p);
}

/* Copies a block without the disassembly. */
static void strip_block(char *out, const char *p, size_t bytes) {
    bool comment = false;
    for (size_t i = 0; i < bytes; i++) {
        comment = p[i] == '\n' ? false : comment || p[i] == ';';
        if (!comment)
            *out++ = p[i];
    }
    *out = 0;
}

static bool same_block(const char *a, size_t a_bytes, const char *b, size_t b_bytes) {
    static char x[1 << 16], y[1 << 16];
    assert_true(a_bytes < sizeof x && b_bytes < sizeof y);
    strip_block(x, a, a_bytes);
    strip_block(y, b, b_bytes);
    return strcmp(x, y) == 0;
}

static void print_block(char sign, const char *p, size_t bytes) {
    const char *end = p + bytes;
    while (p < end) {
        const char *newline = memchr(p, '\n', (size_t)(end - p));
        const char *stop = newline ? newline : end;
        fprintf(stderr, "%c%.*s\n", sign, (int)(stop - p), p);
        p = stop + 1;
    }
}

/* Prints both versions of every guest instruction whose host code differs. Returns their number. */
static unsigned compare_texts(const char *name, const char *golden, const char *now) {
    unsigned differences = 0;
    while (*golden || *now) {
        size_t g = block_length(golden), n = block_length(now);
        if (!same_block(golden, g, now, n)) {
            if (differences++ == 0)
                fprintf(stderr, "golden/%s.txt:\n", name);
            print_block('-', golden, g);
            print_block('+', now, n);
        }
        golden += g;
        now += n;
    }
    return differences;
}

static unsigned check_group(const struct group *g) {
    unsigned differences = 0;
    char path[512];
    struct text now = {.p = malloc(1 << 20), .room = 1 << 20};
    assert_non_null(now.p);
    now.p[0] = 0;
    list_group(g, &now);
    golden_path(g->name, path, sizeof path);
    if (updating) {
        FILE *f = fopen(path, "w");
        if (!f || fwrite(now.p, 1, now.used, f) != now.used || fclose(f) != 0)
            fail_msg("cannot write %s", path);
    } else {
        char *golden = read_golden(path);
        differences = compare_texts(g->name, golden, now.p);
        free(golden);
    }
    free(now.p);
    return differences;
}

static void the_host_code_is_that_of_the_golden_files(void **state) {
    (void)state;
    unsigned differences = 0;
    for (size_t i = 0; i < ARRAY_LEN(groups); i++)
        differences += check_group(&groups[i]);
    if (differences)
        fail_msg("the host code of %u instructions differs; --update accepts it", differences);
}

static void emitted_code_does_not_depend_on_where_it_stands(void **state) {
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(groups); i++) {
        struct text a = {.p = malloc(1 << 20), .room = 1 << 20};
        struct text b = {.p = malloc(1 << 20), .room = 1 << 20};
        list_group(&groups[i], &a);
        list_group(&groups[i], &b); /* another cache, another struct cpu */
        assert_string_equal(a.p, b.p);
        free(a.p);
        free(b.p);
    }
}

static void a_listing_shows_guest_and_host_code(void **state) {
    (void)state;
    struct world w;
    world_create(&w, NULL);
    put(&w, CODE, "8b 44 24 04 f4");
    run_to_hlt(&w, CODE);
    struct bt_unit_info info;
    w.cpu->eip = CODE;
    assert_true(bt_unit_current(w.bt, &info));
    assert_int_equal(info.guest_bytes, 5);
    assert_int_equal(info.insns, 1);
    world_destroy(&w);
}

int main(int argc, char **argv) {
    updating = argc > 1 && strcmp(argv[1], "--update") == 0;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_host_code_is_that_of_the_golden_files),
        cmocka_unit_test(emitted_code_does_not_depend_on_where_it_stands),
        cmocka_unit_test(a_listing_shows_guest_and_host_code),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
