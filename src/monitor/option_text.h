/*
 * option_text.h: internal: the grammar of option arguments.
 */
#ifndef RINGFOLD_MONITOR_OPTION_TEXT_H
#define RINGFOLD_MONITOR_OPTION_TEXT_H

#include "base/base.h"

/* A whole text that is a number, decimal or 0x, at most max. For sizes see mon_parse_size. */
bool option_unsigned(const char *text, u64 max, u64 *out);
/* "on" or "off". */
bool option_switch(const char *text, bool *out);
/* The value of key in "a,key=value,b"; copied into out. An item without '=' counts as its own key
 * with the value "". The first item is looked at too. */
bool option_property(const char *list, const char *key, char *out, size_t out_bytes);
/* What stands before the first comma. */
void option_first_item(const char *list, char *out, size_t out_bytes);
/* YYYY-MM-DD or YYYY-MM-DDTHH:MM:SS, UTC: seconds since 1970. */
bool option_date(const char *text, i64 *epoch_s);
/* A list of enum bt_trap_class by name. NULL, or the first unknown item and its length. */
const char *option_trap_classes(const char *list, u32 *classes, size_t *bad_chars);

#endif
