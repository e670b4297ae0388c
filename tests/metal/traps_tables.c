/*
 * traps_tables.c: the parts of src/metal that only look at bytes: the clock's formats and the
 * search for \_S5_. Part of the image of test_traps.c.
 */
#include "metal/metal_internal.h"
#include "traps_guest.h"

bool cmos_formats(void) {
    enum { BCD_12 = 0, BCD_24 = 2, BINARY_12 = 4, BINARY_24 = 6 };
    static const struct {
        u8 t[7], b;
        bool century;
        i64 epoch;
    } cases[] = {
        {{0x20, 0x13, 0x22, 0x14, 0x11, 0x23, 0x20}, BCD_24, true, 1700000000},
        {{0x20, 0x13, 0x22, 0x14, 0x11, 0x23, 0x00}, BCD_24, false, 1700000000},
        {{20, 13, 22, 14, 11, 23, 20}, BINARY_24, true, 1700000000},
        {{0x20, 0x13, 0x90, 0x14, 0x11, 0x23, 0x20}, BCD_12, true, 1700000000}, /* 10 pm */
        {{20, 13, 0x80 | 10, 14, 11, 23, 20}, BINARY_12, true, 1700000000},
        {{0, 0, 0x12, 1, 1, 0x70, 0x19}, BCD_12, true, 0},           /* midnight */
        {{0, 0, 0x92, 1, 1, 0x70, 0x19}, BCD_12, true, 43200},       /* noon */
        {{59, 59, 23, 31, 12, 99, 0}, BINARY_24, false, 946684799},  /* 1999 */
        {{0, 0, 0, 29, 2, 0, 20}, BINARY_24, true, 951782400},       /* leap day 2000 */
        {{0, 0, 0, 1, 3, 0, 21}, BINARY_24, true, 4107542400},       /* none in 2100 */
        {{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, 0xff, true, 0}, /* no clock */
    };
    for (unsigned i = 0; i < ARRAY_LEN(cases); i++) {
        i64 got = metal_clock_to_epoch(cases[i].t, cases[i].b, cases[i].century);
        if (got != cases[i].epoch) {
            test_say("  case %u: %lld\r\n", i, (long long)got);
            return false;
        }
    }
    return true;
}

bool sleep_package_is_found_and_bounded(void) {
    static const struct {
        const char *aml;
        u8 bytes;
        bool found;
        u8 a, b;
    } cases[] = {
#define CASE(text, ...) {text, sizeof text - 1, __VA_ARGS__}
        CASE("\x08_S5_\x12\x06\x04\x00\x00\x00\x00", true, 0, 0),
        CASE("xx\x08\\_S5_\x12\x08\x04\x0a\x05\x0a\x06\x00\x00", true, 5, 6),
        CASE("\x08_S5_\x12\x48\x00\x04\x0a\x05\x01\x00\x00", true, 5, 1), /* 2-byte length */
        CASE("\x08_S5_\x12\x06\x01\x0a\x07", true, 7, 7),                 /* one element */
        CASE("\x08_S5_\x12\x0a\x02\x0b\x05\x00\x0c\x03\x00\x00\x00", true, 5, 3),
        CASE("x_S5_\x12\x06\x04\x00\x00\x00\x00", false, 0, 0), /* a reference */
        CASE("x_S5_x\x08_S5_\x12\x06\x04\x01\x01\x00\x00", true, 1, 1),
        CASE("\x08_S5_\x12\x06\x04\x0a", false, 0, 0), /* cut off */
        CASE("\x08_S5_\x12\xc6\x04", false, 0, 0),
        CASE("\x08_S5_\x12", false, 0, 0),
        CASE("\x08_S5_", false, 0, 0),
        CASE("\x08_S5", false, 0, 0),
        CASE("\x08_S5_\x12\x06\x04\x0a\x44\x00", false, 0, 0), /* no sleep type is that great */
        CASE("", false, 0, 0),
#undef CASE
    };
    for (unsigned i = 0; i < ARRAY_LEN(cases); i++) {
        u8 a = 0, b = 0;
        bool found = metal_acpi_find_s5((const u8 *)cases[i].aml, cases[i].bytes, &a, &b);
        if (found != cases[i].found || (found && (a != cases[i].a || b != cases[i].b))) {
            test_say("  case %u: %d %u %u\r\n", i, found, a, b);
            return false;
        }
    }
    return true;
}
