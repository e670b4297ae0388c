/*
 * target_options.c: any command line, and the pieces of it that have a grammar of their own: sizes,
 * CPU models, fw_cfg files, kernel command lines on metal.
 *
 * Input: text.
 */
#include "target.h"

#include "monitor/monitor.h"

#include <fcntl.h>
#include <unistd.h>

/* What is said to people is not looked at. */
static void be_quiet(void) {
    static bool quiet;
    if (quiet)
        return;
    quiet = true;
    int null = open("/dev/null", O_WRONLY);
    if (!getenv("RINGFOLD_FUZZ_LOUD") && null >= 0)
        dup2(null, 1), dup2(null, 2);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes) {
    static const struct mon_host_cpu host = {.f1_edx = ~0u,
                                             .f1_ecx = ~0u,
                                             .f7_ebx = ~0u,
                                             .x1_ecx = ~0u,
                                             .tsc_hz = 2000000000,
                                             .tsc_invariant = true};
    char *text = malloc(bytes + 1), *line = malloc(bytes + 1), *argv[66] = {"ringfold"};
    struct mon_options options;
    struct mon_fw_cfg_option fw;
    struct cpu_model model;
    struct mon_error err = {""};
    u64 size;
    int argc = 0;
    be_quiet();
    CLAIM(text && line);
    memcpy(text, data, bytes);
    text[bytes] = 0;
    strcpy(line, text);
    bool split = mon_split_line(line, argv + 1, 64, &argc);
    CLAIM(argc >= 0 && argc <= 64);
    if (split) {
        argv[argc + 1] = NULL;
        if (mon_parse_options(argc + 1, argv, &options) == MON_PARSE_RUN)
            CLAIM(options.ram_bytes && options.ram_bytes % PAGE_BYTES == 0);
    }
    mon_parse_size(text, 1 << 20, &size);
    CLAIM(mon_fw_cfg_parse(text, &fw, &err) || err.text[0]);
    err.text[0] = 0;
    if (mon_cpu_model(text, &host, 2000000000, &model, &err))
        CLAIM(model.count <= ARRAY_LEN(model.leaf));
    else
        CLAIM(err.text[0]);
    free(text);
    free(line);
    return 0;
}
