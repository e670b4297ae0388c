/*
 * option_text.c: the grammar of option arguments: numbers, sizes, lists of properties, dates, and a
 * command line that comes as one string.
 */
#include "monitor/option_text.h"
#include "monitor/monitor.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

bool mon_parse_size(const char *text, u64 default_unit, u64 *bytes) {
    static const struct {
        char suffix;
        u8 shift;
    } units[] = {{'B', 0}, {'K', 10}, {'M', 20}, {'G', 30}, {'T', 40}};
    if (!isdigit((unsigned char)text[0]))
        return false;
    char *end;
    errno = 0;
    bool hex = text[0] == '0' && (text[1] == 'x' || text[1] == 'X');
    long double value = hex ? (long double)strtoull(text, &end, 16) : strtold(text, &end);
    if (errno || end == text)
        return false;
    u64 unit = default_unit;
    if (*end) {
        unit = 0;
        for (unsigned i = 0; i < ARRAY_LEN(units); i++)
            if (toupper((unsigned char)*end) == units[i].suffix)
                unit = 1ull << units[i].shift;
        end++;
        if (!unit || *end)
            return false;
    }
    long double total = value * (long double)unit;
    if (!(total >= 0 && total < 18446744073709551615.0L))
        return false;
    *bytes = (u64)total;
    return true;
}

bool option_unsigned(const char *text, u64 max, u64 *out) {
    if (!isdigit((unsigned char)text[0]))
        return false;
    char *end;
    errno = 0;
    *out = strtoull(text, &end, 0);
    return !errno && !*end && *out <= max;
}

bool option_switch(const char *text, bool *out) {
    *out = !strcmp(text, "on");
    return *out || !strcmp(text, "off");
}

bool option_property(const char *list, const char *key, char *out, size_t out_bytes) {
    for (const char *p = list; p && *p;) {
        size_t chars = strcspn(p, ",");
        size_t key_chars = MIN(strcspn(p, "="), chars);
        if (strlen(key) == key_chars && !strncmp(p, key, key_chars)) {
            const char *value = p + key_chars + (key_chars < chars);
            snprintf(out, out_bytes, "%.*s", (int)(p + chars - value), value);
            return true;
        }
        p += chars;
        p += *p == ',';
    }
    return false;
}

void option_first_item(const char *list, char *out, size_t out_bytes) {
    snprintf(out, out_bytes, "%.*s", (int)strcspn(list, ","), list);
}

/* ---- Classes of instructions ---- */

const char *option_trap_classes(const char *list, u32 *classes, size_t *bad_chars) {
    static const struct {
        const char *name;
        u32 classes;
    } rows[] = {
        {"none", 0},          {"all", BIT(BT_TRAP_CLASS_COUNT) - 1}, {"cr", BT_TRAP_CR},
        {"io", BT_TRAP_IO},   {"cli-sti", BT_TRAP_CLI_STI},          {"hlt", BT_TRAP_HLT},
        {"msr", BT_TRAP_MSR}, {"descriptor", BT_TRAP_DESCRIPTOR},    {"invlpg", BT_TRAP_INVLPG},
    };
    *classes = 0;
    for (const char *p = list;; p++) {
        size_t chars = strcspn(p, ",");
        unsigned i = 0;
        while (i < ARRAY_LEN(rows) &&
               (strlen(rows[i].name) != chars || strncmp(p, rows[i].name, chars)))
            i++;
        if (i == ARRAY_LEN(rows)) {
            *bad_chars = chars;
            return p;
        }
        *classes |= rows[i].classes;
        p += chars;
        if (!*p)
            return NULL;
    }
}

/* ---- Dates ---- */

/* Up to `digits` decimal digits. Moves *p behind them. */
static bool number(const char **p, unsigned digits, u32 min, u32 max, u32 *out) {
    const char *start = *p;
    for (*out = 0; *p < start + digits && isdigit((unsigned char)**p); ++*p)
        *out = *out * 10 + (u32)(**p - '0');
    return *p > start && *out >= min && *out <= max;
}

static bool letter(const char **p, char c) {
    if (**p != c)
        return false;
    ++*p;
    return true;
}

/* Days from 1970-01-01 in the Gregorian calendar. Years are counted from March, so that the leap
 * day is a year's last; days beyond a month's end run on into the next. */
static i64 days_from_date(u32 year, u32 month, u32 day) {
    i64 y = (i64)year - (month <= 2);
    i64 months = (month + 9) % 12; /* since March */
    i64 leap_days = y / 4 - y / 100 + y / 400;
    return y * 365 + leap_days + (153 * months + 2) / 5 + (i64)day - 1 - 719468;
}

bool option_date(const char *text, i64 *epoch_s) {
    const char *p = text;
    u32 year, month, day, hour = 0, minute = 0, second = 0;
    if (!number(&p, 4, 1, 9999, &year) || !letter(&p, '-') || !number(&p, 2, 1, 12, &month) ||
        !letter(&p, '-') || !number(&p, 2, 1, 31, &day))
        return false;
    if (letter(&p, 'T') &&
        (!number(&p, 2, 0, 23, &hour) || !letter(&p, ':') || !number(&p, 2, 0, 59, &minute) ||
         !letter(&p, ':') || !number(&p, 2, 0, 60, &second)))
        return false;
    *epoch_s = days_from_date(year, month, day) * 86400 + hour * 3600 + minute * 60 + second;
    return !*p;
}

/* ---- A command line in one string ---- */

/* One word, unquoted in place: *from behind it, *to behind its NUL. False when a quote is open. */
static bool unquote_word(char **from, char **to) {
    char *p = *from, *out = *to, quote = 0;
    for (; *p && (quote || !isspace((unsigned char)*p)); p++) {
        bool escapes = *p == '\\' && quote != '\'' && p[1];
        /* Between double quotes a backslash stands for itself but before these. */
        if (escapes && (!quote || p[1] == '"' || p[1] == '\\' || p[1] == '$' || p[1] == '`'))
            *out++ = *++p;
        else if (quote ? *p == quote : *p == '"' || *p == '\'')
            quote = quote ? 0 : *p;
        else
            *out++ = *p;
    }
    bool more = *p;
    *out++ = 0;
    *from = p + more;
    *to = out;
    return !quote;
}

bool mon_split_line(char *line, char **argv, int max, int *argc) {
    char *from = line, *to = line;
    for (*argc = 0; true; ++*argc) {
        while (isspace((unsigned char)*from))
            from++;
        if (!*from)
            return true;
        if (*argc == max)
            return false;
        argv[*argc] = to;
        if (!unquote_word(&from, &to))
            return false;
    }
}

/* ---- -fw_cfg ---- */

/* What stands before the next comma, doubled ones undone. NULL when it does not fit. */
static const char *take_value(const char *p, char *out, size_t out_bytes) {
    size_t n = 0;
    while (*p && (p[0] != ',' || p[1] == ',')) {
        if (n + 1 >= out_bytes)
            return NULL;
        p += *p == ',';
        out[n++] = *p++;
    }
    out[n] = 0;
    return p + (*p == ',');
}

bool mon_fw_cfg_parse(const char *arg, struct mon_fw_cfg_option *out, struct mon_error *err) {
    enum { NAME, FILE_NAME, STRING, KEYS };
    static const char *const keys[KEYS] = {"name", "file", "string"};
    char value[KEYS][sizeof out->value] = {""};
    for (const char *p = arg; *p;) {
        size_t chars = strcspn(p, "=,");
        unsigned key = p == arg && p[chars] != '=' ? NAME : KEYS;
        for (unsigned i = 0; i < KEYS && p[chars] == '='; i++)
            if (strlen(keys[i]) == chars && !strncmp(p, keys[i], chars))
                key = i;
        if (key == KEYS)
            return mon_fail(err, "invalid parameter '%.*s' (name, file, string)", (int)chars, p);
        p = take_value(p[chars] == '=' ? p + chars + 1 : p, value[key], sizeof value[key]);
        if (!p)
            return mon_fail(err, "the value of %s is too long", keys[key]);
    }
    if (!value[NAME][0] || !value[FILE_NAME][0] == !value[STRING][0])
        return mon_fail(err, "name, plus exactly one of file and string, are needed");
    if (strlen(value[NAME]) >= sizeof out->name)
        return mon_fail(err, "name too long (max. %zu char)", sizeof out->name - 1);
    out->is_file = value[FILE_NAME][0];
    strcpy(out->name, value[NAME]);
    strcpy(out->value, value[out->is_file ? FILE_NAME : STRING]);
    return true;
}
