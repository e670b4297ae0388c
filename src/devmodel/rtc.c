/*
 * rtc.c: MC146818 clock and CMOS memory at ports 70h/71h. The time of day is never stored while
 * the clock runs: it is virtual time plus an offset, and setting the clock changes the offset.
 * Flags are brought up to date when someone looks; a timer runs only for an enabled interrupt.
 * Source: Motorola MC146818A data sheet, "Register A" to "Register D"; IBM AT CMOS layout.
 *
 * DEVIATION: the day of the week follows from the date; changing the data mode converts the time.
 */
#include "devmodel/machine.h"

#include <stdlib.h>

enum {
    SEC = 0,
    SEC_ALARM,
    MINUTE,
    MINUTE_ALARM,
    HOUR,
    HOUR_ALARM,
    WDAY,
    MDAY,
    MONTH,
    YEAR,
    REG_A,
    REG_B,
    REG_C,
    REG_D,
    A_UIP = 0x80,
    B_SET = 0x80,
    B_PIE = 0x40,
    B_AIE = 0x20,
    B_UIE = 0x10,
    B_BINARY = 0x04,
    B_24H = 0x02,
    C_IRQF = 0x80,
    C_PF = 0x40,
    C_AF = 0x20,
    C_UF = 0x10,
    UIP_NS = 244000,
    DAY_S = 86400,
};
#define MAX_EPOCH_S 253402300799ll /* end of year 9999 */

struct rtc {
    struct machine_devices *m;
    struct dev_irq irq;
    struct dev_timer timer;
    u8 index;
    u8 cmos[128];
    i64 base_s;    /* seconds since 1970 at shifted time 0 */
    u32 phase_ns;  /* shifted time = virtual time + phase: moves the second boundary */
    u64 synced_ns; /* shifted time up to which the flags are right */
};

struct civil {
    i64 year;
    u32 month, day, hour, minute, second, weekday; /* month and day from 1, weekday 1 = Sunday */
};

static u64 shifted_ns(struct rtc *r) {
    return dev_now_ns(r->m) + r->phase_ns;
}

static bool divider_held(const struct rtc *r) {
    return (r->cmos[REG_A] & 0x60) == 0x60;
}

static bool frozen(const struct rtc *r) {
    return (r->cmos[REG_B] & B_SET) || divider_held(r);
}

/* Days since 1970-01-01 of a date in the proleptic Gregorian calendar, counting years from March
 * so that the leap day comes last. */
static i64 days_from_date(i64 year, u32 month, u32 day) {
    i64 y = month <= 2 ? year - 1 : year;
    i64 m = month <= 2 ? month + 9 : month - 3;
    return y * 365 + y / 4 - y / 100 + y / 400 + (m * 153 + 2) / 5 + day - 1 - 719468;
}

static struct civil civil_from_seconds(i64 s) {
    i64 days = s / DAY_S, in_day = s % DAY_S;
    i64 year = 1970 + days / 366; /* never too late; moves forward at most a few years */
    while (days_from_date(year + 1, 1, 1) <= days)
        year++;
    u32 month = 1;
    while (month < 12 && days_from_date(year, month + 1, 1) <= days)
        month++;
    return (struct civil){.year = year,
                          .month = month,
                          .day = (u32)(days - days_from_date(year, month, 1) + 1),
                          .hour = (u32)(in_day / 3600),
                          .minute = (u32)(in_day / 60 % 60),
                          .second = (u32)(in_day % 60),
                          .weekday = (u32)((days + 4) % 7 + 1)};
}

static u8 encode(const struct rtc *r, u32 v) {
    return (u8)(r->cmos[REG_B] & B_BINARY ? v : (v / 10 % 10) << 4 | v % 10);
}

static u32 decode(const struct rtc *r, u8 v) {
    return r->cmos[REG_B] & B_BINARY ? v : (v >> 4) * 10u + (v & 15);
}

static u8 encode_hour(const struct rtc *r, u32 hour) {
    if (r->cmos[REG_B] & B_24H)
        return encode(r, hour);
    return encode(r, hour % 12 ? hour % 12 : 12) | (hour >= 12 ? 0x80 : 0);
}

static u32 decode_hour(const struct rtc *r, u8 v) {
    if (r->cmos[REG_B] & B_24H)
        return decode(r, v);
    return decode(r, v & 0x7f) % 12 + (v & 0x80 ? 12 : 0);
}

static i64 seconds_at(const struct rtc *r, u64 ns) {
    return r->base_s + (i64)(ns / DEV_NS_PER_S);
}

/* Writes the running time into the CMOS bytes. */
static void snapshot(struct rtc *r) {
    struct civil c = civil_from_seconds(seconds_at(r, shifted_ns(r)));
    r->cmos[SEC] = encode(r, c.second);
    r->cmos[MINUTE] = encode(r, c.minute);
    r->cmos[HOUR] = encode_hour(r, c.hour);
    r->cmos[WDAY] = encode(r, c.weekday);
    r->cmos[MDAY] = encode(r, c.day);
    r->cmos[MONTH] = encode(r, c.month);
    r->cmos[YEAR] = encode(r, (u32)(c.year % 100));
    r->cmos[DEV_RTC_CENTURY] = encode(r, (u32)(c.year / 100));
}

/* Makes the CMOS bytes the running time. Nonsense values give some time, never a fault. */
static void set_time_from_bytes(struct rtc *r) {
    u32 month = decode(r, r->cmos[MONTH]), day = decode(r, r->cmos[MDAY]);
    i64 year = decode(r, r->cmos[DEV_RTC_CENTURY]) * 100ll + decode(r, r->cmos[YEAR]);
    i64 s = days_from_date(MAX(year, 1970), MIN(MAX(month, 1u), 12u), MIN(MAX(day, 1u), 31u));
    s = s * DAY_S + decode_hour(r, r->cmos[HOUR]) * 3600ll + decode(r, r->cmos[MINUTE]) * 60ll +
        decode(r, r->cmos[SEC]);
    r->synced_ns = shifted_ns(r);
    r->base_s = MIN(s, MAX_EPOCH_S) - (i64)(r->synced_ns / DEV_NS_PER_S);
}

/* First second after s whose time of day matches the alarm bytes (C0h-FFh match anything); -1 if
 * none does. Skips whole hours and minutes, so it takes at most 24 + 60 + 60 steps and a few. */
static i64 next_alarm(const struct rtc *r, i64 s) {
    const u8 *c = r->cmos;
    bool any_h = c[HOUR_ALARM] >= 0xc0, any_m = c[MINUTE_ALARM] >= 0xc0,
         any_s = c[SEC_ALARM] >= 0xc0;
    i64 h = decode_hour(r, c[HOUR_ALARM]), m = decode(r, c[MINUTE_ALARM]);
    i64 sec = decode(r, c[SEC_ALARM]);
    for (i64 t = s + 1; t <= s + 2 * DAY_S;) {
        if (!any_h && t / 3600 % 24 != h)
            t += 3600 - t % 3600;
        else if (!any_m && t / 60 % 60 != m)
            t += 60 - t % 60;
        else if (!any_s && t % 60 != sec)
            t++;
        else
            return t;
        if ((!any_s && sec > 59) || (!any_m && m > 59) || (!any_h && h > 23))
            break;
    }
    return -1;
}

/* log2 of the periodic interrupt's period in ticks of 32768 Hz; 0 when it is off. */
static unsigned period_shift(const struct rtc *r) {
    unsigned rate = r->cmos[REG_A] & 0x0f;
    return rate == 0 || divider_held(r) ? 0 : rate <= 2 ? rate + 6 : rate - 1;
}

/* Sets the flags of everything that happened since the last call. */
static void sync_flags(struct rtc *r) {
    u64 from = r->synced_ns, to = shifted_ns(r);
    unsigned shift = period_shift(r);
    r->synced_ns = to;
    if (shift && dev_ns_to_ticks(from, 32768) >> shift != dev_ns_to_ticks(to, 32768) >> shift)
        r->cmos[REG_C] |= C_PF;
    if (frozen(r) || from / DEV_NS_PER_S == to / DEV_NS_PER_S)
        return;
    r->cmos[REG_C] |= C_UF;
    i64 alarm = next_alarm(r, seconds_at(r, from));
    if (alarm >= 0 && alarm <= seconds_at(r, to))
        r->cmos[REG_C] |= C_AF;
}

/* Drives the line and arms the timer for the next enabled event. */
static void update(struct rtc *r) {
    u64 next = DEV_NEVER, now = r->synced_ns;
    u8 enabled = r->cmos[REG_B] & (B_PIE | B_AIE | B_UIE);
    bool line = r->cmos[REG_C] & enabled;
    r->cmos[REG_C] = (u8)((r->cmos[REG_C] & ~C_IRQF) | (line ? C_IRQF : 0));
    dev_irq_set(&r->irq, line);
    if (!line && (enabled & B_PIE) && period_shift(r)) {
        u64 ticks = dev_ns_to_ticks(now, 32768) >> period_shift(r);
        next = dev_ticks_to_ns((ticks + 1) << period_shift(r), 32768);
    }
    if (!line && !frozen(r) && (enabled & B_UIE))
        next = MIN(next, (now / DEV_NS_PER_S + 1) * DEV_NS_PER_S);
    if (!line && !frozen(r) && (enabled & B_AIE)) {
        i64 alarm = next_alarm(r, seconds_at(r, now));
        if (alarm >= 0)
            next = MIN(next, (u64)(alarm - r->base_s) * DEV_NS_PER_S);
    }
    dev_timer_arm(&r->timer, next == DEV_NEVER ? DEV_NEVER : next - r->phase_ns);
}

static void rtc_event(void *opaque) {
    sync_flags(opaque);
    update(opaque);
}

/* Changes register A or B, either of which can stop or start the clock. Releasing the divider puts
 * the next update 500 ms away (data sheet, "Divider Control"). */
static void write_control(struct rtc *r, u8 reg, u8 value) {
    bool was_frozen = frozen(r), was_held = divider_held(r);
    sync_flags(r);
    if (!was_frozen)
        snapshot(r);
    if (reg == REG_A)
        r->cmos[REG_A] = value & 0x7f;
    else
        r->cmos[REG_B] = value & B_SET ? value & (u8)~B_UIE : value;
    if (was_held && !divider_held(r)) {
        u32 sub_ns = (u32)(dev_now_ns(r->m) % DEV_NS_PER_S);
        r->phase_ns = sub_ns <= 500000000u ? 500000000u - sub_ns : 1500000000u - sub_ns;
        r->synced_ns = shifted_ns(r);
    }
    if (was_frozen && !frozen(r))
        set_time_from_bytes(r);
}

static bool is_time(u8 index) {
    return index == SEC || index == MINUTE || index == HOUR || (index >= WDAY && index <= YEAR) ||
           index == DEV_RTC_CENTURY;
}

static void write_data(struct rtc *r, u8 value) {
    if (r->index == REG_A || r->index == REG_B) {
        write_control(r, r->index, value);
    } else if (is_time(r->index)) {
        sync_flags(r);
        if (!frozen(r))
            snapshot(r);
        r->cmos[r->index] = value;
        if (!frozen(r))
            set_time_from_bytes(r);
    } else if (r->index != REG_C && r->index != REG_D) {
        sync_flags(r);
        r->cmos[r->index] = value;
    }
    update(r);
}

static u8 read_data(struct rtc *r) {
    u8 value;
    if (is_time(r->index) && !frozen(r))
        snapshot(r);
    switch (r->index) {
    case REG_A: {
        bool soon = shifted_ns(r) % DEV_NS_PER_S >= DEV_NS_PER_S - UIP_NS;
        return r->cmos[REG_A] | (soon && !frozen(r) ? A_UIP : 0);
    }
    case REG_C:
        sync_flags(r);
        update(r);
        value = r->cmos[REG_C];
        r->cmos[REG_C] = 0;
        update(r);
        return value;
    case REG_D:
        return 0x80; /* RAM and time are valid */
    default:
        return r->cmos[r->index];
    }
}

static u32 rtc_read(void *opaque, u32 offset, unsigned bytes) {
    (void)bytes;
    return offset == 0 ? 0xff : read_data(opaque);
}

static void rtc_write(void *opaque, u32 offset, u32 value, unsigned bytes) {
    (void)bytes;
    if (offset == 0)
        ((struct rtc *)opaque)->index = value & 0x7f; /* bit 7 masks NMI, of which there is none */
    else
        write_data(opaque, (u8)value);
}

static const struct dev_region_ops rtc_ops = {rtc_read, rtc_write, 1, dev_light_always};

/* What a BIOS would have stored: memory sizes, no floppy, equipment, checksum of 10h-2Dh. */
static void fill_cmos(struct rtc *r) {
    u64 ram = r->m->config.ram_bytes, mib = 1 << 20;
    u64 above_1m_kib = ram > mib ? MIN((ram - mib) >> 10, 0xffffull) : 0;
    u64 above_16m = ram > 16 * mib ? MIN((ram - 16 * mib) >> 16, 0xffffull) : 0;
    r->cmos[0x14] = 0x02; /* coprocessor; no floppy, no video */
    store16(r->cmos + 0x15, (u16)MIN(ram >> 10, 640ull));
    store16(r->cmos + 0x17, (u16)above_1m_kib);
    store16(r->cmos + 0x30, (u16)above_1m_kib);
    store16(r->cmos + 0x34, (u16)above_16m);
    u16 sum = 0;
    for (unsigned i = 0x10; i <= 0x2d; i++)
        sum = (u16)(sum + r->cmos[i]);
    r->cmos[0x2e] = (u8)(sum >> 8);
    r->cmos[0x2f] = (u8)sum;
}

static bool rtc_init(struct machine_devices *m, void **state) {
    struct rtc *r = calloc(1, sizeof *r);
    if (!r)
        return false;
    *state = r;
    r->m = m;
    r->irq = dev_machine_irq(m, 8);
    r->base_s = MIN(MAX(m->config.clock.epoch_s, 0), MAX_EPOCH_S);
    r->cmos[REG_A] = 0x26; /* 32768 Hz crystal, 1024 Hz periodic rate */
    r->cmos[REG_B] = B_24H;
    fill_cmos(r);
    dev_timer_init(&m->timers, &r->timer, rtc_event, r);
    return dev_bus_add_ports(m->bus, 0x70, 2, &rtc_ops, r);
}

/* The battery keeps time and memory; RESET only disables the interrupts. */
static void rtc_reset(void *state) {
    struct rtc *r = state;
    r->index = 0;
    r->synced_ns = shifted_ns(r);
    r->cmos[REG_B] &= (u8) ~(B_PIE | B_AIE | B_UIE | 0x08);
    r->cmos[REG_C] = 0;
    update(r);
}

const struct dev_descriptor dev_rtc = {"MC146818", rtc_init, rtc_reset, free};
