/*
 * symbols.c: names for addresses in the image. The table is text that follows the image in memory
 * (the build makes it with nm): a line "ADDRESS NAME" per function, addresses ascending, in
 * hexadecimal; a NUL at the end.
 */
#include "metal/metal.h"

#include <stdio.h>
#include <stdlib.h>

extern const char metal_symbols[]; /* image.ld */
extern const u8 metal_text_start[], metal_text_end[];

void metal_symbol(u64 pc, char *text, size_t bytes) {
    const char *name = NULL;
    u64 start = 0;
    if (bytes)
        *text = 0;
    if (pc < (u64)metal_text_start || pc >= (u64)metal_text_end)
        return;
    for (const char *line = metal_symbols; *line;) {
        char *after;
        u64 address = strtoull(line, &after, 16);
        if (address > pc || *after != ' ')
            break;
        start = address;
        name = after + 1;
        line = name + strcspn(name, "\n");
        line += *line == '\n';
    }
    if (name)
        snprintf(text, bytes, "%.*s+0x%llx", (int)strcspn(name, "\n"), name,
                 (unsigned long long)(pc - start));
}
