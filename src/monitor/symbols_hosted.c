/*
 * symbols_hosted.c: see symbols.h. libelf reads ELF files of either class.
 */
#include "monitor/symbols.h"

#include <errno.h>
#include <fcntl.h>
#include <gelf.h>
#include <inttypes.h>
#include <link.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

/* Further behind a symbol than this is not its code any more. */
#define LONGEST_FUNCTION_BYTES (1u << 20)
#define MAX_SYMBOLS (1u << 22)
#define MAX_NAME 127

struct symbol {
    u64 address;
    char *name;
};

struct mon_symbols {
    struct symbol *symbol; /* by address */
    u32 count, capacity;
};

static bool add(struct mon_symbols *s, u64 address, const char *name) {
    if (!address || !name || !*name)
        return true;
    if (s->count == MAX_SYMBOLS)
        return false;
    if (s->count == s->capacity) {
        u32 capacity = MAX(s->capacity * 2, 4096u);
        struct symbol *more = realloc(s->symbol, capacity * sizeof *more);
        if (!more)
            return false;
        s->symbol = more;
        s->capacity = capacity;
    }
    char *copy = strndup(name, MAX_NAME);
    if (!copy)
        return false;
    for (char *p = copy; *p; p++)
        if (*p == ';' || *p <= ' ' || *p > '~') /* what folded stacks use themselves */
            *p = '_';
    s->symbol[s->count++] = (struct symbol){address, copy};
    return true;
}

static int by_address(const void *a, const void *b) {
    const struct symbol *x = a, *y = b;
    return x->address < y->address ? -1 : x->address > y->address;
}

/* ---- "address type name", as nm, System.map and /proc/kallsyms have it ---- */

static bool load_text(struct mon_symbols *s, FILE *f) {
    char line[512], name[400], type;
    u64 address;
    bool good = true;
    while (good && fgets(line, sizeof line, f))
        if (sscanf(line, "%" SCNx64 " %c %399s", &address, &type, name) == 3 &&
            strchr("tTwW", type))
            good = add(s, address, name);
    return good;
}

/* ---- ELF ---- */

static bool load_section(struct mon_symbols *s, Elf *elf, Elf_Scn *section, const GElf_Shdr *header,
                         u64 bias) {
    Elf_Data *data = elf_getdata(section, NULL);
    if (!data || !header->sh_entsize)
        return true;
    GElf_Sym sym;
    for (int i = 0; gelf_getsym(data, i, &sym); i++) {
        unsigned type = GELF_ST_TYPE(sym.st_info);
        if (sym.st_shndx == SHN_UNDEF || (type != STT_FUNC && type != STT_NOTYPE))
            continue;
        if (!add(s, sym.st_value + bias, elf_strptr(elf, header->sh_link, sym.st_name)))
            return false;
    }
    return true;
}

static bool load_elf(struct mon_symbols *s, int fd, u64 bias) {
    elf_version(EV_CURRENT);
    Elf *elf = elf_begin(fd, ELF_C_READ, NULL);
    if (!elf)
        return false;
    bool good = elf_kind(elf) == ELF_K_ELF;
    GElf_Shdr header;
    for (Elf_Scn *section = NULL; good && (section = elf_nextscn(elf, section));)
        if (gelf_getshdr(section, &header) && header.sh_type == SHT_SYMTAB)
            good = load_section(s, elf, section, &header, bias);
    elf_end(elf);
    return good;
}

/* ---- both ---- */

static bool is_elf(FILE *f) {
    char magic[4];
    bool elf = fread(magic, 1, sizeof magic, f) == sizeof magic && !memcmp(magic, "\177ELF", 4);
    rewind(f);
    return elf;
}

static struct mon_symbols *load(const char *path, u64 bias, struct mon_error *err) {
    struct mon_symbols *s = calloc(1, sizeof *s);
    FILE *f = fopen(path, "re");
    if (!s || !f) {
        mon_fail(err, "could not read '%s': %s", path, strerror(errno));
        if (f)
            fclose(f);
        free(s);
        return NULL;
    }
    bool good = is_elf(f) ? load_elf(s, fileno(f), bias) : load_text(s, f);
    fclose(f);
    if (!good || !s->count) {
        mon_fail(err,
                 "'%s' holds no symbols: it must be a System.map, kallsyms or an ELF file that "
                 "has them",
                 path);
        mon_symbols_free(s);
        return NULL;
    }
    qsort(s->symbol, s->count, sizeof *s->symbol, by_address);
    return s;
}

struct mon_symbols *mon_symbols_load(const char *path, struct mon_error *err) {
    return load(path, 0, err);
}

static int first_object(struct dl_phdr_info *info, size_t bytes, void *opaque) {
    (void)bytes;
    *(u64 *)opaque = info->dlpi_addr;
    return 1;
}

struct mon_symbols *mon_symbols_own(struct mon_error *err) {
    u64 bias = 0;
    dl_iterate_phdr(first_object, &bias); /* the program itself comes first */
    return load("/proc/self/exe", bias, err);
}

const char *mon_symbols_find(const struct mon_symbols *s, u64 address) {
    u32 low = 0, high = s ? s->count : 0;
    while (low < high) { /* the first one beyond */
        u32 mid = (low + high) / 2;
        if (s->symbol[mid].address <= address)
            low = mid + 1;
        else
            high = mid;
    }
    if (!low || address - s->symbol[low - 1].address > LONGEST_FUNCTION_BYTES)
        return NULL;
    return s->symbol[low - 1].name;
}

void mon_symbols_free(struct mon_symbols *s) {
    if (!s)
        return;
    for (u32 i = 0; i < s->count; i++)
        free(s->symbol[i].name);
    free(s->symbol);
    free(s);
}
