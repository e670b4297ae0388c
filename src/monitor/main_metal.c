/*
 * main_metal.c: from the boot loader's command line to the power switch.
 */
#include "base/memory.h"
#include "metal/metal.h"
#include "monitor/vm.h"

#include <stdlib.h>

#define MAX_WORDS 256
#define FAILURE_STATUS 1
/* What a machine takes beside RAM and translation cache, generously: below it, memory is short. */
#define OVERHEAD_BYTES (32u << 20)

static void print_line(void *opaque, const char *line) {
    (void)opaque;
    log_printf("%s\n", line);
}

/* -carrier-exit PORT comes first and leaves the list: whatever may be wrong with the other options,
 * the machine around us is to learn of it. False after saying what is wrong with it. */
static bool take_exit_port(int *argc, char **argv) {
    for (int i = 1; i < *argc; i++) {
        if (strcmp(argv[i], "-carrier-exit") && strcmp(argv[i], "--carrier-exit"))
            continue;
        char *end = NULL;
        unsigned long port = i + 1 < *argc ? strtoul(argv[i + 1], &end, 0) : 0;
        if (!end || *end || !port || port > 0xffff) {
            log_error("-carrier-exit: requires a port, for example 0xf4");
            return false;
        }
        metal_set_exit_port((u16)port);
        memmove(argv + i, argv + i + 2, (size_t)(*argc - i - 1) * sizeof argv[0]);
        *argc -= 2;
        i--;
    }
    return true;
}

/* -sensitive-report runs instead of a guest, which no other option then has to name. */
static bool asks_for_sensitive_report(int argc, char **argv) {
    for (int i = 1; i < argc; i++)
        if (!strcmp(argv[i], "-sensitive-report") || !strcmp(argv[i], "--sensitive-report"))
            return true;
    return false;
}

/* The words of the command line, as a C program's main would get them. False after saying what is
 * wrong. */
static bool split(const char *command_line, int *argc, char **argv) {
    char *line = strdup(command_line);
    bool whole = line && mon_split_line(line, argv + 1, MAX_WORDS - 2, argc);
    argv[0] = "ringfold";
    argv[++*argc] = NULL;
    if (!take_exit_port(argc, argv))
        return false;
    if (!whole)
        log_error("the command line has an open quote or more than %u words", MAX_WORDS - 2);
    return whole;
}

/* The whole error, and what -m could have been where memory was what lacked. */
static int report_failure(const struct mon_options *o, const struct mon_error *err) {
    u64 there_is = memory_host_bytes(), needed = o->ram_bytes + o->bt.cache_bytes + OVERHEAD_BYTES;
    if (o->ram_bytes <= there_is && there_is < needed)
        log_error("%s (-m %llu; %llu MiB of the machine's memory are free)", err->text,
                  (unsigned long long)(o->ram_bytes >> 20), (unsigned long long)(there_is >> 20));
    else
        log_error("%s", err->text);
    return FAILURE_STATUS;
}

static int run(const struct mon_options *options) {
    struct mon_error err;
    struct vm *vm = mon_vm_create(options, &err);
    if (!vm)
        return report_failure(options, &err);
    int status = mon_vm_run(vm);
    if (options->stats)
        mon_stats_print(vm, options->stats_json, print_line, NULL);
    if (options->ring_report)
        mon_rings_print(vm, print_line, NULL);
    mon_vm_destroy(vm);
    return status;
}

int metal_main(void) {
    static char *argv[MAX_WORDS];
    static struct mon_options options;
    int argc = 0;
    if (!split(metal_boot()->command_line, &argc, argv))
        return FAILURE_STATUS;
    mon_crash_install();
    if (asks_for_sensitive_report(argc, argv))
        return mon_sensitive_report();
    switch (mon_parse_options(argc, argv, &options)) {
    case MON_PARSE_DONE:
        return 0;
    case MON_PARSE_ERROR:
        return FAILURE_STATUS;
    case MON_PARSE_RUN:
        break;
    }
    return run(&options);
}
