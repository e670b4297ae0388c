/*
 * main_hosted.c: from a command line to an exit status.
 */
#include "monitor/terminal.h"
#include "monitor/vm.h"
#include "study/study.h"
#include "trace/tool.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

static void print_stderr(void *opaque, const char *line) {
    (void)opaque;
    log_printf("%s\n", line);
}

static bool write_pidfile(const char *path) {
    FILE *f = fopen(path, "we");
    if (!f)
        return false;
    fprintf(f, "%d\n", (int)getpid());
    return fclose(f) == 0;
}

/* A descriptor opened later must never stand where output or input is expected. */
static void keep_standard_descriptors(void) {
    while (1) {
        int fd = open("/dev/null", O_RDWR);
        if (fd < 0)
            return;
        if (fd > 2) {
            close(fd);
            return;
        }
    }
}

/* Commands that run no machine: the first word, which is no option. */
static const struct {
    const char *name;
    int (*main)(int argc, char **argv);
} commands[] = {{"replay", tt_replay_main}, {"study", study_main}, {"trace", tt_trace_main}};

int main(int argc, char **argv) {
    struct mon_options options;
    keep_standard_descriptors();
    for (unsigned i = 0; i < ARRAY_LEN(commands); i++)
        if (argc > 1 && !strcmp(argv[1], commands[i].name))
            return commands[i].main(argc - 1, argv + 1);
    switch (mon_parse_options(argc, argv, &options)) {
    case MON_PARSE_DONE:
        return 0;
    case MON_PARSE_ERROR:
        return 1;
    case MON_PARSE_RUN:
        break;
    }
    if (options.trace_file && !trace_open(options.trace_file)) {
        log_error("-D: could not open '%s': %s", options.trace_file, strerror(errno));
        return 1;
    }
    mon_crash_install();
    struct mon_error err;
    struct vm *vm = mon_vm_create(&options, &err);
    if (!vm) {
        log_error("%s", err.text);
        return 1;
    }
    if (options.pidfile && !write_pidfile(options.pidfile)) {
        log_error("-pidfile: could not write '%s': %s", options.pidfile, strerror(errno));
        mon_vm_destroy(vm);
        return 1;
    }
    int status = mon_vm_run(vm);
    mon_terminal_restore_sigsafe();
    if (!mon_recording_end(vm) && !status)
        status = 1;
    if (options.stats)
        mon_stats_print(vm, options.stats_json, print_stderr, NULL);
    mon_vm_destroy(vm);
    if (options.pidfile)
        unlink(options.pidfile);
    return status;
}
