/*
 * time.c: how fast the time-stamp counter counts, and what time of day it was at start.
 */
#include "metal/metal_internal.h"
#include "metal/ports.h"

static u64 tsc_hz;
static i64 epoch_s;

u64 metal_tsc_hz(void) {
    return tsc_hz;
}

i64 metal_epoch_s(void) {
    return epoch_s;
}

/* ---- The TSC's frequency ---- */

#define MIN_PLAUSIBLE_HZ 1000000ull /* simulators are slow */
#define MAX_PLAUSIBLE_HZ 20000000000ull

static u64 plausible(u64 hz) {
    return hz >= MIN_PLAUSIBLE_HZ && hz <= MAX_PLAUSIBLE_HZ ? hz : 0;
}

/* SDM volume 3, section 18.7.3 "Determining the Processor Base Frequency", and volume 2, "CPUID",
 * leaves 15h and 16h. Leaf 16h alone is the marketing frequency, but where leaf 15h leaves the
 * crystal out the crystal is derived from it, and the result is leaf 16h's. */
static u64 hz_by_cpuid(void) {
    u32 last = metal_cpuid(0, 0).eax;
    if (last < 0x15)
        return 0;
    struct metal_cpuid ratio = metal_cpuid(0x15, 0);
    if (!ratio.eax || !ratio.ebx)
        return 0;
    if (ratio.ecx)
        return plausible((u64)ratio.ecx * ratio.ebx / ratio.eax);
    return last >= 0x16 ? plausible((u64)(metal_cpuid(0x16, 0).eax & 0xffff) * 1000000) : 0;
}

/* Leaf 40000010h, EAX = kHz: VMware's, also offered by others under the leaves of a hypervisor. */
static u64 hz_by_hypervisor(void) {
    enum { HYPERVISOR_PRESENT = 1u << 31 };
    if (!(metal_cpuid(1, 0).ecx & HYPERVISOR_PRESENT))
        return 0;
    u32 last = metal_cpuid(0x40000000, 0).eax;
    if (last < 0x40000010 || last > 0x400000ff)
        return 0;
    return plausible((u64)metal_cpuid(0x40000010, 0).eax * 1000);
}

/* Ports of the 8254, and of its third counter's gate and output. */
enum {
    PIT_COUNTER0 = 0x40,
    PIT_CONTROL = 0x43,
    PORT61 = 0x61,
    GATE2 = 1,
    SPEAKER = 2,
    OUT2 = 0x20
};
enum { PIT_LOW_HIGH_MODE0 = 0x30, PIT_READ_BACK_STATUS = 0xe0, PIT_STATUS_OUT = 0x80 };
enum { PIT_HZ = 1193182, MAX_POLLS = 8000000, PRECISION = 5000, MAX_CALIBRATIONS = 40 };

static bool output_is_high(unsigned counter) {
    if (counter == 2)
        return in8(PORT61) & OUT2;
    out8(PIT_CONTROL, (u8)(PIT_READ_BACK_STATUS | BIT(counter + 1)));
    return in8((u16)(PIT_COUNTER0 + counter)) & PIT_STATUS_OUT;
}

/* The frequency lies between the two. */
struct bracket {
    u64 low_hz, high_hz;
};

/* Lets a counter of the PIT run for that many ticks, at the end of which its output rises. Both
 * ends are known to lie between two readings of the TSC, however long the carrier kept this CPU
 * away. False when the counter does not move. */
static bool measure(unsigned counter, unsigned ticks, struct bracket *hz) {
    u16 port = (u16)(PIT_COUNTER0 + counter);
    out8(PIT_CONTROL, (u8)(counter << 6 | PIT_LOW_HIGH_MODE0));
    out8(port, (u8)ticks);
    u64 start_min = metal_tsc();
    out8(port, (u8)(ticks >> 8));
    u64 start_max = metal_tsc(), end_min = start_max, before = start_max;
    u32 polls = 0;
    while (!output_is_high(counter) && ++polls < MAX_POLLS) {
        end_min = before; /* from before the look at the output, not after */
        before = metal_tsc();
    }
    hz->high_hz = (metal_tsc() - start_min) * PIT_HZ / ticks;
    hz->low_hz = (end_min - start_max) * PIT_HZ / ticks;
    return polls && polls < MAX_POLLS;
}

/* Each measurement narrows the bracket, until it is narrow enough; mostly the first one does. On a
 * busy carrier this CPU comes and goes in a rhythm that measurements of one length would fall into.
 */
static u64 hz_by_counter(unsigned counter) {
    enum { SHORTEST_TICKS = PIT_HZ / 50, MORE_TICKS = PIT_HZ / 30, STRIDE = 7919 };
    struct bracket all = {0, INT64_MAX};
    for (unsigned i = 0; i < MAX_CALIBRATIONS && all.high_hz > all.low_hz + all.low_hz / PRECISION;
         i++) {
        struct bracket one;
        if (!measure(counter, SHORTEST_TICKS + i * STRIDE % MORE_TICKS, &one))
            return 0;
        all.low_hz = MAX(all.low_hz, one.low_hz);
        all.high_hz = MIN(all.high_hz, one.high_hz);
    }
    return (all.low_hz + all.high_hz) / 2;
}

/* The third counter interrupts nobody; the first, masked in the 8259, serves where port 61h is
 * missing. */
static u64 hz_by_pit(void) {
    u8 port61 = in8(PORT61) & (u8) ~(SPEAKER | GATE2);
    out8(PORT61, port61 | GATE2);
    u64 hz = plausible(hz_by_counter(2));
    out8(PORT61, port61);
    return hz ? hz : plausible(hz_by_counter(0));
}

/* ---- The clock of the machine ---- */

/* MC146818A: registers by index. "Register A: update in progress", "Register B: 24/12, data mode".
 */
enum { CMOS_INDEX = 0x70, CMOS_DATA = 0x71, CMOS_A = 10, CMOS_B = 11 };
enum { A_UPDATING = 0x80, B_24_HOURS = 2, B_BINARY = 4, HOUR_PM = 0x80 };
enum { SECOND, MINUTE, HOUR, DAY, MONTH, YEAR, CENTURY, CLOCK_FIELDS };

static u8 cmos(u8 index) {
    out8(CMOS_INDEX, 0x80 | index); /* NMI masked for the moment, as the PC's designers meant it */
    u8 v = in8(CMOS_DATA);
    out8(CMOS_INDEX, 0x0d); /* NMI open; register D is harmless to leave selected */
    in8(CMOS_DATA);
    return v;
}

static void read_clock_once(u8 *t, u8 century_index) {
    static const u8 index[CENTURY] = {0, 2, 4, 7, 8, 9};
    for (u32 polls = 0; cmos(CMOS_A) & A_UPDATING && polls < MAX_POLLS / 100; polls++)
        ;
    for (unsigned i = 0; i < CENTURY; i++)
        t[i] = cmos(index[i]);
    t[CENTURY] = century_index ? cmos(century_index) : 0;
}

/* Two readings that agree saw no update between their bytes. */
static bool read_clock(u8 *t, u8 century_index) {
    u8 again[CLOCK_FIELDS];
    for (unsigned i = 0; i < 100; i++) {
        read_clock_once(t, century_index);
        read_clock_once(again, century_index);
        if (!memcmp(t, again, CLOCK_FIELDS))
            return true;
    }
    return false;
}

static unsigned from_bcd(u8 v) {
    return (v >> 4) * 10u + (v & 15);
}

/* Days since 1970-01-01 of a date of the Gregorian calendar: years counted from March, so that the
 * leap day is a year's last. */
static i64 days_of(i64 year, unsigned month, unsigned day) {
    if (month <= 2)
        year--;
    unsigned from_march = (month + 9) % 12;
    i64 day_of_year = (153 * from_march + 2) / 5 + day - 1;
    return year * 365 + year / 4 - year / 100 + year / 400 + day_of_year - 719468;
}

i64 metal_clock_to_epoch(const u8 *t, u8 register_b, bool has_century) {
    unsigned v[CLOCK_FIELDS];
    bool pm = !(register_b & B_24_HOURS) && t[HOUR] & HOUR_PM;
    for (unsigned i = 0; i < CLOCK_FIELDS; i++) {
        u8 raw = i == HOUR && !(register_b & B_24_HOURS) ? t[i] & (u8)~HOUR_PM : t[i];
        v[i] = register_b & B_BINARY ? raw : from_bcd(raw);
    }
    if (!(register_b & B_24_HOURS))
        v[HOUR] = v[HOUR] % 12 + (pm ? 12 : 0);
    if (v[SECOND] > 60 || v[MINUTE] > 59 || v[HOUR] > 23 || v[DAY] < 1 || v[DAY] > 31 ||
        v[MONTH] < 1 || v[MONTH] > 12 || v[YEAR] > 99)
        return 0;
    bool century_ok = has_century && v[CENTURY] >= 19 && v[CENTURY] <= 99;
    unsigned century = century_ok ? v[CENTURY] : v[YEAR] < 70 ? 20 : 19;
    return ((days_of(century * 100 + v[YEAR], v[MONTH], v[DAY]) * 24 + v[HOUR]) * 60 + v[MINUTE]) *
               60 +
           v[SECOND];
}

void metal_time_init(void) {
    tsc_hz = hz_by_cpuid();
    if (!tsc_hz)
        tsc_hz = hz_by_hypervisor();
    if (!tsc_hz)
        tsc_hz = hz_by_pit();
    if (!tsc_hz)
        metal_fatal("nothing tells the frequency of the time-stamp counter: no CPUID leaf, no PIT");
    u8 t[CLOCK_FIELDS], century = metal_acpi()->century;
    if (read_clock(t, century))
        epoch_s = metal_clock_to_epoch(t, cmos(CMOS_B), century != 0);
    metal_timer_init();
}
