/*
 * bench_run.c: running: in and out of translated code, and loops of one kind of instruction inside
 * it.
 */
#include "world.h"

static const u8 code_hlt[] = {0xf4};

/* bt_run from the monitor's side: in, one exit (HLT, for the emulator), out. */
static void world_switch(struct gb_state *state, void *user) {
    (void)user;
    struct world w;
    world_open(&w);
    world_put(&w, code_hlt, sizeof code_hlt);
    while (gb_keep_running(state))
        if (bt_run(w.bt) != BT_EXIT_EMULATE)
            gb_skip_with_error(state, "an unexpected exit");
    const struct bt_counters *c = bt_counters(w.bt);
    gb_set_counter(state, "exits", (double)c->exits, GB_PER_ITERATION);
    world_close(&w);
}

/* dec ecx; jnz around a body; then HLT. */
struct loop {
    const char *name;
    u8 body[16];
    u8 bytes;
};
static const struct loop loops[] = {
    {"run/loop", {0}, 0},
    {"run/load_store", {0x8b, 0x03, 0x89, 0x43, 0x04}, 5}, /* mov eax,[ebx]; mov [ebx+4],eax */
    {"run/call_ret",
     {0xe8, 0x02, 0x00, 0x00, 0x00, 0xeb, 0x01, 0xc3},
     8}, /* call 1f; jmp 2f; 1: ret; 2: */
    {"run/cli_sti", {0xfa, 0xfb}, 2},
    {"run/pushf_popf", {0x9c, 0x9d}, 2},
    {"run/load_segment", {0x8e, 0xda}, 2},         /* mov ds,dx */
    {"run/callout_invlpg", {0x0f, 0x01, 0x3b}, 3}, /* invlpg [ebx] */
};

enum { LOOP_TURNS = 1000 };

static void run_loop(struct gb_state *state, void *user) {
    const struct loop *loop = user;
    struct world w;
    u8 code[40];
    memcpy(code, loop->body, loop->bytes);
    code[loop->bytes] = 0x49; /* dec ecx */
    code[loop->bytes + 1] = 0x75;
    code[loop->bytes + 2] = (u8) - (loop->bytes + 3);
    code[loop->bytes + 3] = 0xf4;
    world_open(&w);
    store64(w.ram + 0x8000 + 8, 0x00cf9b000000ffffull); /* GDT: code, then data */
    store64(w.ram + 0x8000 + 16, 0x00cf93000000ffffull);
    w.cpu->gdtr = (struct table_register){0x8000, 0x17};
    world_put(&w, code, sizeof code);
    while (gb_keep_running_batch(state, LOOP_TURNS)) {
        w.cpu->eip = WORLD_CODE;
        w.cpu->gpr[R_ECX] = LOOP_TURNS;
        w.cpu->gpr[R_EDX] = 16;
        w.cpu->gpr[R_EBX] = WORLD_DATA;
        w.cpu->gpr[R_ESP] = WORLD_STACK_TOP;
        if (bt_run(w.bt) != BT_EXIT_EMULATE || w.cpu->gpr[R_ECX] != 0) {
            gb_skip_with_error(state, "the loop did not end");
            break;
        }
    }
    const struct bt_counters *c = bt_counters(w.bt);
    gb_set_counter(state, "callouts", (double)c->callouts, GB_PER_ITERATION);
    world_close(&w);
}

void bench_run_register(void) {
    gb_register("run/world_switch", world_switch, NULL);
    for (unsigned i = 0; i < ARRAY_LEN(loops); i++)
        gb_register(loops[i].name, run_loop, (void *)&loops[i]);
}
