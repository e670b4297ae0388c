/*
 * options.c: the command line of `ringfold study`.
 */
#include "study/study_internal.h"

static bool fail(char error[200], const char *what, const char *word, size_t chars) {
    snprintf(error, 200, "study: %s '%.*s' (ringfold study --help lists them)", what,
             (int)MIN(chars, (size_t)80), word);
    return false;
}

static int engine_index(const char *name, size_t chars) {
    for (int i = 0; i < ENGINE_COUNT; i++)
        if (strlen(study_engine_name[i]) == chars && !memcmp(study_engine_name[i], name, chars))
            return i;
    return -1;
}

/* Names with commas between them. */
static bool parse_list(const char *list, int (*index)(const char *, size_t), bool *wanted,
                       const char *what, char error[200]) {
    for (const char *p = list;; p++) {
        size_t chars = strcspn(p, ",");
        int i = index(p, chars);
        if (i < 0)
            return fail(error, what, p, chars);
        wanted[i] = true;
        p += chars;
        if (!*p)
            return true;
    }
}

static void set_all(bool *wanted, unsigned count) {
    for (unsigned i = 0; i < count; i++)
        wanted[i] = true;
}

static bool parse_word(char **argv, int *at, struct study_config *o, char error[200]) {
    const char *word = argv[*at], *value = argv[*at + 1];
    bool rows = !strcmp(word, "--rows"), engines = !strcmp(word, "--engines");
    if (!strcmp(word, "--quick"))
        o->quick = true;
    else if (!strcmp(word, "--ablation"))
        o->ablation = true;
    else if (!strcmp(word, "--help") || !strcmp(word, "-h"))
        o->help = true;
    else if (!rows && !engines && strcmp(word, "--out"))
        return fail(error, "no option", word, strlen(word));
    else if (!value)
        return fail(error, "an argument is missing after", word, strlen(word));
    else {
        ++*at;
        if (rows)
            return parse_list(value, study_row_index, o->wanted_row, "no row", error);
        if (engines)
            return parse_list(value, engine_index, o->wanted_engine, "no engine", error);
        o->directory = value;
    }
    return true;
}

bool study_parse_options(int argc, char **argv, struct study_config *out, char error[200]) {
    *out = (struct study_config){.directory = "study"};
    bool rows = false, engines = false;
    for (int i = 1; i < argc; i++) {
        rows |= !strcmp(argv[i], "--rows");
        engines |= !strcmp(argv[i], "--engines");
        if (!parse_word(argv, &i, out, error))
            return false;
    }
    if (!rows)
        set_all(out->wanted_row, study_row_count);
    if (!engines)
        set_all(out->wanted_engine, ENGINE_COUNT);
    if (out->ablation && !out->wanted_engine[ENGINE_BT] && !out->wanted_engine[ENGINE_METAL])
        return fail(error, "--ablation is of bt and metal, not of the engines given to",
                    "--engines", 9);
    return true;
}
