/* The local APIC: registers, priorities, modes of addressing and of delivery, the timer, after SDM
 * volume 3, chapter 10 "Advanced Programmable Interrupt Controller (APIC)". */
#include "pc_fixture.h"

enum {
    ID = 0x20,
    VERSION = 0x30,
    TPR = 0x80,
    APR = 0x90,
    PPR = 0xa0,
    EOI = 0xb0,
    LDR = 0xd0,
    DFR = 0xe0,
    SVR = 0xf0,
    ISR = 0x100,
    TMR = 0x180,
    IRR = 0x200,
    ESR = 0x280,
    ICR = 0x300,
    ICR_HIGH = 0x310,
    LVT_TIMER = 0x320,
    LVT_THERMAL = 0x330,
    LVT_COUNTER = 0x340,
    LVT_LINT0 = 0x350,
    LVT_LINT1 = 0x360,
    LVT_ERROR = 0x370,
    INITIAL = 0x380,
    CURRENT = 0x390,
    DIVIDE = 0x3e0
};
enum { MASKED = 0x10000, PERIODIC = 0x20000, TSC_DEADLINE = 0x40000 };
enum { SELF = 0x40000, ALL = 0x80000, OTHERS = 0xc0000 };
enum { BASE_MSR = 0x1b, DEADLINE_MSR = 0x6e0 };
#define BASE_XAPIC 0xfee00900u
#define BASE_X2APIC 0xfee00d00u

static u8 intack(struct pc *pc) {
    return dev_intr_acknowledge(pc->m);
}
static bool pending(struct pc *pc) {
    return dev_intr_pending(pc->m);
}
static void self_ipi(struct pc *pc, u8 vector) {
    apic_write(pc, ICR, SELF | vector);
}
static void eoi(struct pc *pc) {
    apic_write(pc, EOI, 0);
}
static bool vector_in(struct pc *pc, u32 set, unsigned vector) {
    return apic(pc, set + vector / 32 * 16) >> (vector % 32) & 1;
}
static bool took_nmi(struct pc *pc) {
    bool nmi = dev_machine_requests(pc->m)->nmi;
    dev_machine_requests(pc->m)->nmi = false;
    return nmi;
}
static bool msr_write(struct pc *pc, u32 index, u64 value) {
    return dev_apic_msr(pc->m, index, true, &value);
}
static u64 msr(struct pc *pc, u32 index) {
    u64 value = 0x5a5a5a5a5a5a5a5a;
    assert_true(dev_apic_msr(pc->m, index, false, &value));
    return value;
}

/* ---- Registers ---- */

static void power_on_leaves_virtual_wire_mode(void **state) {
    struct pc *pc = *state;
    assert_int_equal(apic(pc, ID), 0);
    assert_int_equal(apic(pc, VERSION), 0x00050014);
    assert_int_equal(apic(pc, TPR), 0);
    assert_int_equal(apic(pc, LDR), 0);
    assert_int_equal(apic(pc, DFR), 0xffffffff);
    assert_int_equal(apic(pc, SVR), 0x1ff);
    assert_int_equal(apic(pc, LVT_TIMER), MASKED);
    assert_int_equal(apic(pc, LVT_THERMAL), MASKED);
    assert_int_equal(apic(pc, LVT_COUNTER), MASKED);
    assert_int_equal(apic(pc, LVT_LINT0), 0x8700);
    assert_int_equal(apic(pc, LVT_LINT1), 0x8400);
    assert_int_equal(apic(pc, LVT_ERROR), MASKED);
    assert_int_equal(msr(pc, BASE_MSR), BASE_XAPIC);
    pc_init_pics(pc, 1);
    pc_line_set(pc, 3, true);
    assert_true(pending(pc));
    assert_int_equal(intack(pc), 0x23);
}

static void registers_keep_their_writable_bits(void **state) {
    struct pc *pc = *state;
    static const u32 rows[][2] = {{ID, 0xff000000},       {TPR, 0xff},
                                  {LDR, 0xff000000},      {SVR, 0x3ff},
                                  {ICR_HIGH, 0xff000000}, {LVT_TIMER, 0x700ff},
                                  {LVT_THERMAL, 0x107ff}, {LVT_COUNTER, 0x107ff},
                                  {LVT_LINT0, 0x1a7ff},   {LVT_LINT1, 0x1a7ff},
                                  {LVT_ERROR, 0x100ff},   {DIVIDE, 0xb}};
    for (unsigned i = 0; i < ARRAY_LEN(rows); i++) {
        apic_write(pc, rows[i][0], 0xffffffff);
        assert_int_equal(apic(pc, rows[i][0]), rows[i][1]);
    }
    apic_write(pc, DFR, 0);
    assert_int_equal(apic(pc, DFR), 0x0fffffff);
    apic_write(pc, VERSION, 0);
    assert_int_equal(apic(pc, VERSION), 0x00050014);
}

static void only_aligned_32_bit_writes_count(void **state) {
    struct pc *pc = *state;
    struct dev_bus *bus = dev_machine_bus(pc->m);
    apic_write(pc, TPR, 0x55);
    dev_mmio_write(bus, GPA(0xfee00080), 0x11, 1);
    dev_mmio_write(bus, GPA(0xfee00084), 0x22, 4);
    assert_int_equal(apic(pc, TPR), 0x55);
    assert_int_equal(dev_mmio_read(bus, GPA(0xfee00031), 1), 0); /* byte 1 of the version */
    assert_int_equal(dev_mmio_read(bus, GPA(0xfee00032), 1), 5);
}

static void reset_restores_everything(void **state) {
    struct pc *pc = *state;
    apic_write(pc, TPR, 0x55), apic_write(pc, SVR, 0x12f), apic_write(pc, LVT_LINT0, MASKED);
    apic_write(pc, LVT_TIMER, 0x40), apic_write(pc, INITIAL, 1000);
    self_ipi(pc, 0x41);
    assert_true(msr_write(pc, BASE_MSR, 0xfef00900));
    dev_machine_reset(pc->m);
    power_on_leaves_virtual_wire_mode(state);
    assert_int_equal(dev_next_deadline_ns(pc->m), DEV_NEVER);
}

/* ---- Acceptance and priority ---- */

static void an_interrupt_is_requested_served_and_ended(void **state) {
    struct pc *pc = *state;
    dev_machine_requests(pc->m)->intr_changed = false;
    self_ipi(pc, 0x61);
    assert_true(dev_machine_requests(pc->m)->intr_changed);
    assert_true(pending(pc));
    assert_true(vector_in(pc, IRR, 0x61));
    assert_int_equal(intack(pc), 0x61);
    assert_false(pending(pc));
    assert_false(vector_in(pc, IRR, 0x61));
    assert_true(vector_in(pc, ISR, 0x61));
    assert_int_equal(apic(pc, PPR), 0x60);
    eoi(pc);
    assert_false(vector_in(pc, ISR, 0x61));
    assert_int_equal(apic(pc, PPR), 0);
    eoi(pc); /* nothing in service: no effect */
    assert_false(pending(pc));
}

static void priorities_are_classes_of_sixteen(void **state) {
    struct pc *pc = *state;
    self_ipi(pc, 0x45), self_ipi(pc, 0x61);
    assert_int_equal(intack(pc), 0x61);
    self_ipi(pc, 0x6f); /* higher vector, same class: waits */
    assert_false(pending(pc));
    self_ipi(pc, 0x70);
    assert_int_equal(intack(pc), 0x70); /* nests */
    assert_int_equal(apic(pc, PPR), 0x70);
    eoi(pc);
    assert_int_equal(apic(pc, PPR), 0x60);
    assert_false(pending(pc));
    eoi(pc);
    assert_int_equal(intack(pc), 0x6f);
    eoi(pc);
    assert_int_equal(intack(pc), 0x45);
    eoi(pc);
    assert_false(pending(pc));
}

static void a_second_request_waits_behind_the_first(void **state) {
    struct pc *pc = *state;
    self_ipi(pc, 0x50), self_ipi(pc, 0x50);
    assert_int_equal(intack(pc), 0x50);
    self_ipi(pc, 0x50);
    assert_false(pending(pc));
    eoi(pc);
    assert_int_equal(intack(pc), 0x50); /* of the first two, one was lost: there is one bit */
    eoi(pc);
    assert_false(pending(pc));
}

static void tpr_holds_back_its_class_and_lower(void **state) {
    struct pc *pc = *state;
    apic_write(pc, TPR, 0x65);
    assert_int_equal(apic(pc, PPR), 0x65);
    self_ipi(pc, 0x6f);
    assert_false(pending(pc));
    assert_int_equal(apic(pc, APR), 0x65);
    self_ipi(pc, 0x71);
    assert_true(pending(pc));
    assert_int_equal(apic(pc, APR), 0x70);
    assert_int_equal(intack(pc), 0x71);
    assert_int_equal(apic(pc, PPR), 0x70);
    eoi(pc);
    assert_int_equal(apic(pc, PPR), 0x65);
    apic_write(pc, TPR, 0x5f);
    assert_true(pending(pc));
    apic_write(pc, TPR, 0xff);
    assert_false(pending(pc));
    self_ipi(pc, 0xff);
    assert_false(pending(pc));
    apic_write(pc, TPR, 0);
    assert_int_equal(intack(pc), 0xff);
}

static void tpr_does_not_hold_back_the_8259(void **state) {
    struct pc *pc = *state;
    pc_init_pics(pc, 1);
    apic_write(pc, TPR, 0xff);
    pc_line_set(pc, 3, true);
    assert_true(pending(pc));
    assert_int_equal(intack(pc), 0x23);
    assert_false(vector_in(pc, ISR, 0x23)); /* it ends at the 8259 */
}

static void what_has_gone_is_spurious(void **state) {
    struct pc *pc = *state;
    apic_write(pc, SVR, 0x1ef);
    self_ipi(pc, 0x40);
    apic_write(pc, TPR, 0x40);
    assert_int_equal(intack(pc), 0xef);
    assert_false(vector_in(pc, ISR, 0xef));
    assert_true(vector_in(pc, IRR, 0x40));
}

static void illegal_vectors_are_errors(void **state) {
    struct pc *pc = *state;
    apic_write(pc, LVT_ERROR, 0xfe);
    self_ipi(pc, 0x0f);
    assert_int_equal(apic(pc, ESR), 0); /* not before it is written */
    apic_write(pc, ESR, 0);
    assert_int_equal(apic(pc, ESR), 0x20);
    assert_int_equal(intack(pc), 0xfe);
    eoi(pc);
    dev_msi_write(pc->m, GPA(0xfee00000), 0x05);
    assert_int_equal(intack(pc), 0xfe);
    eoi(pc);
    apic_write(pc, ESR, 0);
    assert_int_equal(apic(pc, ESR), 0x40);
    assert_int_equal(apic(pc, 0x40), 0); /* no register */
    assert_int_equal(intack(pc), 0xfe);
    apic_write(pc, ESR, 0);
    assert_int_equal(apic(pc, ESR), 0x80);
    apic_write(pc, ESR, 0);
    assert_int_equal(apic(pc, ESR), 0);
    apic_write(pc, LVT_ERROR, 0x03); /* an illegal vector for errors does not go round in circles */
    self_ipi(pc, 0);
    apic_write(pc, ESR, 0);
    assert_int_equal(apic(pc, ESR), 0x60);
}

static void software_disable_masks_and_drops(void **state) {
    struct pc *pc = *state;
    self_ipi(pc, 0x50);
    apic_write(pc, SVR, 0x0ff);
    assert_int_equal(apic(pc, LVT_LINT0), 0x8700 | MASKED);
    apic_write(pc, LVT_LINT1, 0x400); /* the mask stays */
    assert_int_equal(apic(pc, LVT_LINT1), 0x400 | MASKED);
    self_ipi(pc, 0x60);
    assert_int_equal(intack(pc), 0x50); /* accepted before: held */
    eoi(pc);
    assert_false(pending(pc));
    pc_init_pics(pc, 1);
    pc_line_set(pc, 3, true);
    assert_false(pending(pc));
    apic_write(pc, SVR, 0x1ff);
    assert_int_equal(apic(pc, LVT_LINT0), 0x8700 | MASKED);
    apic_write(pc, LVT_LINT0, 0x700);
    assert_int_equal(intack(pc), 0x23);
}

/* ---- LINT pins, NMI ---- */

static void masking_lint0_cuts_off_the_8259(void **state) {
    struct pc *pc = *state;
    pc_init_pics(pc, 1);
    pc_line_set(pc, 4, true);
    assert_true(pending(pc));
    apic_write(pc, LVT_LINT0, 0x700 | MASKED);
    assert_false(pending(pc));
    apic_write(pc, LVT_LINT0, 0x700);
    assert_true(pending(pc));
}

static void lint0_in_fixed_mode_takes_edges(void **state) {
    struct pc *pc = *state;
    pc_init_pics(pc, 1);
    apic_write(pc, LVT_LINT0, 0x31);
    pc_line_set(pc, 4, true);
    assert_int_equal(intack(pc), 0x31); /* Linux tries the 8259 as a virtual wire IRQ */
    eoi(pc);
    assert_false(pending(pc));
    out8(pc, 0x20, 0x0c), in8(pc, 0x20), out8(pc, 0x20, 0x20); /* INTA by polling, EOI */
    pc_line_set(pc, 5, true);
    assert_int_equal(intack(pc), 0x31);
}

static void lint0_as_a_level_asks_again_after_eoi(void **state) {
    struct pc *pc = *state;
    pc_init_pics(pc, 1);
    apic_write(pc, LVT_LINT0, 0x8031);
    pc_line_set(pc, 4, true);
    assert_int_equal(apic(pc, LVT_LINT0), 0xc031); /* remote IRR */
    assert_int_equal(intack(pc), 0x31);
    assert_false(pending(pc));
    eoi(pc);
    assert_int_equal(intack(pc), 0x31);
    pc_line_set(pc, 4, false);
    eoi(pc);
    assert_false(pending(pc));
    assert_int_equal(apic(pc, LVT_LINT0), 0x8031);
}

static void lint1_and_nmi_messages_reach_the_nmi_line(void **state) {
    struct pc *pc = *state;
    dev_nmi_pulse(pc->m);
    assert_true(took_nmi(pc));
    apic_write(pc, LVT_LINT1, 0x400 | MASKED);
    dev_nmi_pulse(pc->m);
    assert_false(took_nmi(pc));
    apic_write(pc, LVT_LINT1, 0x62); /* fixed: an interrupt like others */
    dev_nmi_pulse(pc->m);
    assert_false(took_nmi(pc));
    assert_int_equal(intack(pc), 0x62);
    apic_write(pc, ICR, ALL | 0x400);
    assert_true(took_nmi(pc));
    apic_write(pc, ICR, SELF | 0x400); /* not a combination of the ICR */
    assert_false(took_nmi(pc));
    dev_msi_write(pc->m, GPA(0xfee00000), 0x400);
    assert_true(took_nmi(pc));
    apic_write(pc, SVR, 0xff); /* NMIs are taken even so */
    dev_msi_write(pc->m, GPA(0xfee00000), 0x400);
    assert_true(took_nmi(pc));
}

/* ---- Interprocessor interrupts and messages ---- */

static void ipis_find_their_destination(void **state) {
    struct pc *pc = *state;
    apic_write(pc, ID, 5u << 24);
    static const struct {
        u32 high, low;
        bool taken;
    } rows[] = {
        {5, 0x51, true},        {4, 0x52, false},      {0xff, 0x53, true},
        {0, SELF | 0x54, true}, {0, ALL | 0x55, true}, {0, OTHERS | 0x56, false},
        {5, 0x157, true},       {2, 0x858, true},      {1, 0x859, false},
        {6, 0x95a, true},       {0xff, 0x85b, true},
    };
    apic_write(pc, LDR, 2u << 24);
    for (unsigned i = 0; i < ARRAY_LEN(rows); i++) {
        apic_write(pc, ICR_HIGH, rows[i].high << 24);
        apic_write(pc, ICR, rows[i].low);
        assert_int_equal(apic(pc, ICR), rows[i].low); /* and idle at once */
        assert_int_equal(pending(pc), rows[i].taken);
        if (rows[i].taken)
            assert_int_equal(intack(pc), rows[i].low & 0xff);
        eoi(pc);
    }
}

static void cluster_addresses_need_cluster_and_member(void **state) {
    struct pc *pc = *state;
    apic_write(pc, DFR, 0), apic_write(pc, LDR, 0x32000000);
    static const u8 destination[] = {0x32, 0x33, 0x31, 0x22, 0xf2, 0xf1, 0xff};
    static const bool taken[] = {true, true, false, false, true, false, true};
    for (unsigned i = 0; i < ARRAY_LEN(destination); i++) {
        apic_write(pc, ICR_HIGH, (u32)destination[i] << 24);
        apic_write(pc, ICR, 0x860);
        assert_int_equal(pending(pc), taken[i]);
        if (taken[i])
            intack(pc);
        eoi(pc);
    }
}

static void init_to_itself_resets_and_start_up_does_nothing(void **state) {
    struct pc *pc = *state;
    struct dev_requests *r = dev_machine_requests(pc->m);
    apic_write(pc, ICR_HIGH, 1u << 24), apic_write(pc, ICR, 0x4500); /* to others */
    assert_false(r->reset);
    apic_write(pc, ICR, ALL | 0x8500); /* INIT level de-assert */
    assert_false(r->reset);
    apic_write(pc, ICR_HIGH, 0), apic_write(pc, ICR, 0x4610); /* start-up */
    assert_false(r->reset || pending(pc));
    apic_write(pc, ICR, 0x4500);
    assert_true(r->reset);
}

static void messages_of_devices_are_interrupts(void **state) {
    struct pc *pc = *state;
    dev_msi_write(pc->m, GPA(0xfee00000), 0x4071);
    assert_int_equal(intack(pc), 0x71);
    assert_false(vector_in(pc, TMR, 0x71));
    eoi(pc);
    dev_msi_write(pc->m, GPA(0xfee01000), 0x72); /* to APIC 1 */
    assert_false(pending(pc));
    apic_write(pc, LDR, 4u << 24);
    dev_msi_write(pc->m, GPA(0xfee0400c), 0x173); /* logical, redirection hint, lowest priority */
    assert_int_equal(intack(pc), 0x73);
    eoi(pc);
    dev_msi_write(pc->m, GPA(0xfee00000), 0xc074); /* level, assert */
    assert_true(vector_in(pc, TMR, 0x74));
    assert_int_equal(intack(pc), 0x74);
    eoi(pc);
    dev_msi_write(pc->m, GPA(0xfee00000), 0x8075); /* level, de-assert */
    dev_msi_write(pc->m, GPA(0xfed00000), 0x76);   /* not a message's address */
    dev_msi_write(pc->m, GPA(0x1fee00000), 0x77);
    assert_false(pending(pc));
}

/* ---- Timer ---- */

static void one_shot_counts_down_once(void **state) {
    struct pc *pc = *state;
    apic_write(pc, DIVIDE, 0xb); /* by 1: a step is 10 ns */
    apic_write(pc, LVT_TIMER, 0x40);
    apic_write(pc, INITIAL, 1000);
    assert_int_equal(apic(pc, CURRENT), 1000);
    pc_advance(pc, 4 * US);
    assert_int_equal(apic(pc, CURRENT), 600);
    pc_advance(pc, 6 * US - 1);
    assert_false(pending(pc));
    pc_advance(pc, 1);
    assert_int_equal(intack(pc), 0x40);
    assert_int_equal(apic(pc, CURRENT), 0);
    assert_int_equal(dev_next_deadline_ns(pc->m), DEV_NEVER);
    eoi(pc);
    pc_advance(pc, 1 * SECOND);
    assert_false(pending(pc));
    apic_write(pc, INITIAL, 1000), apic_write(pc, INITIAL, 0); /* stops it */
    pc_advance(pc, 1 * SECOND);
    assert_false(pending(pc));
}

static void the_divider_divides(void **state) {
    struct pc *pc = *state;
    static const u8 code[] = {0xb, 0x0, 0x1, 0x2, 0x3, 0x8, 0x9, 0xa};
    for (unsigned i = 0; i < ARRAY_LEN(code); i++) {
        apic_write(pc, DIVIDE, code[i]);
        apic_write(pc, INITIAL, 1000000);
        pc_advance(pc, 1280 * US);
        assert_int_equal(apic(pc, CURRENT), 1000000 - (128000 >> i));
    }
    apic_write(pc, DIVIDE, 0xb), apic_write(pc, INITIAL, 1000); /* changed on the way */
    pc_advance(pc, 5 * US);
    apic_write(pc, DIVIDE, 0x0);
    assert_int_equal(apic(pc, CURRENT), 500);
    apic_write(pc, LVT_TIMER, 0x40);
    pc_advance(pc, 10 * US - 1);
    assert_false(pending(pc));
    pc_advance(pc, 1);
    assert_int_equal(intack(pc), 0x40);
}

static void periodic_does_not_drift(void **state) {
    struct pc *pc = *state;
    apic_write(pc, DIVIDE, 0xb), apic_write(pc, LVT_TIMER, PERIODIC | 0x41);
    apic_write(pc, INITIAL, 33333);
    unsigned count = 0;
    for (unsigned i = 0; i < 3001; i++) {
        pc_advance(pc, SECOND / 3000);
        if (pending(pc)) {
            assert_int_equal(intack(pc), 0x41);
            eoi(pc);
            count++;
        }
    }
    assert_int_equal(count, 3001); /* 1000.332 ms in steps of 333.33 us */
    u32 now = apic(pc, CURRENT);
    assert_in_range(now, 1, 33333);
    apic_write(pc, LVT_TIMER, MASKED | PERIODIC | 0x41);
    pc_advance(pc, 10 * MS);
    assert_false(pending(pc));
    apic_write(pc, LVT_TIMER, PERIODIC | 0x41);
    pc_advance(pc, 333340);
    assert_int_equal(intack(pc), 0x41);
}

static void a_late_periodic_timer_fires_once(void **state) {
    struct pc *pc = *state;
    apic_write(pc, DIVIDE, 0xb), apic_write(pc, LVT_TIMER, PERIODIC | 0x41);
    apic_write(pc, INITIAL, 100000); /* 1 ms */
    pc->now_ns += 10 * MS + 500 * US;
    dev_run_timers(pc->m, pc->now_ns);
    assert_int_equal(intack(pc), 0x41);
    eoi(pc);
    assert_int_equal(dev_next_deadline_ns(pc->m), 11 * MS);
    assert_int_equal(apic(pc, CURRENT), 50000);
}

static void short_periods_do_not_keep_the_host_busy(void **state) {
    struct pc *pc = *state;
    apic_write(pc, DIVIDE, 0xb), apic_write(pc, LVT_TIMER, PERIODIC | 0x41);
    apic_write(pc, INITIAL, 1);
    unsigned fired = 0;
    while (pc->now_ns < 1 * MS) {
        pc->now_ns = MAX(pc->now_ns, dev_next_deadline_ns(pc->m));
        dev_run_timers(pc->m, pc->now_ns);
        fired++;
    }
    assert_in_range(fired, 40, 60);
}

static void tsc_deadline_fires_at_its_tsc(void **state) {
    struct pc *pc = *state;
    pc_advance(pc, 1 * MS);
    assert_true(msr_write(pc, DEADLINE_MSR, 12345)); /* another mode: ignored */
    assert_int_equal(msr(pc, DEADLINE_MSR), 0);
    apic_write(pc, LVT_TIMER, TSC_DEADLINE | 0x42);
    apic_write(pc, INITIAL, 1000);
    assert_int_equal(apic(pc, CURRENT), 0);
    assert_int_equal(apic(pc, INITIAL), 0);
    u64 deadline = pc_tsc(pc) + 10001; /* 5000.5 us */
    assert_true(msr_write(pc, DEADLINE_MSR, deadline));
    assert_int_equal(msr(pc, DEADLINE_MSR), deadline);
    pc_advance(pc, 5000);
    assert_false(pending(pc));
    pc_advance(pc, 1);
    assert_int_equal(intack(pc), 0x42);
    eoi(pc);
    assert_int_equal(msr(pc, DEADLINE_MSR), 0);
    assert_true(msr_write(pc, DEADLINE_MSR, 1)); /* past: at once */
    assert_int_equal(intack(pc), 0x42);
    eoi(pc);
    assert_true(msr_write(pc, DEADLINE_MSR, UINT64_MAX)); /* centuries ahead */
    pc_advance(pc, 1000 * SECOND);
    assert_false(pending(pc));
    assert_true(msr_write(pc, DEADLINE_MSR, pc_tsc(pc) + 1000));
    assert_true(msr_write(pc, DEADLINE_MSR, 0)); /* disarms */
    pc_advance(pc, 1 * MS);
    assert_false(pending(pc));
    assert_true(msr_write(pc, DEADLINE_MSR, pc_tsc(pc) + 1000));
    apic_write(pc, LVT_TIMER, 0x42); /* so does another mode */
    pc_advance(pc, 1 * MS);
    assert_false(pending(pc));
}

static void setting_the_tsc_moves_the_deadline(void **state) {
    struct pc *pc = *state;
    apic_write(pc, LVT_TIMER, TSC_DEADLINE | 0x42);
    assert_true(msr_write(pc, DEADLINE_MSR, pc_tsc(pc) + 2000000)); /* 1 ms */
    pc->tsc_offset = 1000000;
    dev_apic_tsc_changed(pc->m);
    pc_advance(pc, 500 * US - 1);
    assert_false(pending(pc));
    pc_advance(pc, 1);
    assert_int_equal(intack(pc), 0x42);
    eoi(pc);
    assert_true(msr_write(pc, DEADLINE_MSR, pc_tsc(pc) + 2000));
    pc->tsc_offset -= 2000; /* back, unannounced: must not fire early */
    pc_advance(pc, 1 * US);
    assert_false(pending(pc));
    pc_advance(pc, 1 * US + 1);
    assert_int_equal(intack(pc), 0x42);
}

/* ---- IA32_APIC_BASE and x2APIC ---- */

static void the_page_moves_with_its_base(void **state) {
    struct pc *pc = *state;
    assert_true(msr_write(pc, BASE_MSR, 0xf1234800)); /* BSP is read-only */
    assert_int_equal(msr(pc, BASE_MSR), 0xf1234900);
    assert_int_equal(mmio32(pc, 0xf1234030), 0x00050014);
    assert_int_equal(apic(pc, VERSION), 0xffffffff);
    assert_true(msr_write(pc, BASE_MSR, BASE_XAPIC));
    assert_int_equal(apic(pc, VERSION), 0x00050014);
}

static void without_the_apic_the_8259_has_the_cpu(void **state) {
    struct pc *pc = *state;
    apic_write(pc, TPR, 0x33), apic_write(pc, LVT_LINT0, MASKED);
    pc_init_pics(pc, 1);
    pc_line_set(pc, 3, true);
    assert_false(pending(pc));
    self_ipi(pc, 0x50);
    assert_true(msr_write(pc, BASE_MSR, 0xfee00000));
    assert_int_equal(apic(pc, VERSION), 0xffffffff);
    assert_int_equal(intack(pc), 0x23);
    assert_false(pending(pc));
    dev_msi_write(pc->m, GPA(0xfee00000), 0x60);
    assert_false(pending(pc));
    dev_nmi_pulse(pc->m);
    assert_true(took_nmi(pc));
    assert_true(
        msr_write(pc, BASE_MSR, BASE_XAPIC)); /* as after power-up, not as the BIOS has it */
    assert_int_equal(apic(pc, TPR), 0);
    assert_int_equal(apic(pc, SVR), 0xff);
    assert_int_equal(apic(pc, LVT_LINT0), MASKED);
    assert_false(pending(pc));
}

static void modes_change_by_legal_steps_only(void **state) {
    struct pc *pc = *state;
    assert_false(msr_write(pc, BASE_MSR, 0xfee00400)); /* EXTD without EN */
    assert_true(msr_write(pc, BASE_MSR, BASE_X2APIC));
    assert_int_equal(msr(pc, BASE_MSR), BASE_X2APIC);
    assert_false(msr_write(pc, BASE_MSR, BASE_XAPIC)); /* only through disabled */
    assert_false(msr_write(pc, BASE_MSR, 0xfee00500));
    assert_true(msr_write(pc, BASE_MSR, BASE_X2APIC));
    assert_true(msr_write(pc, BASE_MSR, 0xfee00100));
    assert_false(msr_write(pc, BASE_MSR, BASE_X2APIC)); /* only through xAPIC */
    assert_true(msr_write(pc, BASE_MSR, BASE_XAPIC));
    u64 value;
    assert_false(dev_apic_msr(pc->m, 0x803, false, &value)); /* not in xAPIC mode */
}

static void x2apic_registers_are_msrs(void **state) {
    struct pc *pc = *state;
    apic_write(pc, TPR, 0x20);
    assert_true(msr_write(pc, BASE_MSR, BASE_X2APIC));
    assert_int_equal(apic(pc, TPR), 0xffffffff); /* the page is gone */
    assert_int_equal(msr(pc, 0x802), 0);
    assert_int_equal(msr(pc, 0x803), 0x00050014);
    assert_int_equal(msr(pc, 0x808), 0x20); /* the state is kept */
    assert_int_equal(msr(pc, 0x80d), 1);    /* cluster 0, member 0 */
    assert_true(msr_write(pc, 0x83f, 0x55));
    assert_int_equal(msr(pc, 0x822), 1u << (0x55 % 32));
    assert_int_equal(intack(pc), 0x55);
    assert_int_equal(msr(pc, 0x80a), 0x50);
    assert_true(msr_write(pc, 0x80b, 0));
    assert_true(msr_write(pc, 0x830, 0x0000000000000056)); /* physical, to 0 */
    assert_int_equal(intack(pc), 0x56);
    assert_int_equal(msr(pc, 0x830), 0x56);
    assert_true(msr_write(pc, 0x80b, 0));
    assert_true(msr_write(pc, 0x830, 0x0000000100000857)); /* logical: cluster 0, member 0 */
    assert_int_equal(intack(pc), 0x57);
    assert_true(msr_write(pc, 0x80b, 0));
    assert_true(msr_write(pc, 0x830, 0x0001000100000858)); /* cluster 1 */
    assert_true(msr_write(pc, 0x830, 0x000000ff00000059)); /* not a broadcast in 32 bits */
    assert_false(pending(pc));
    assert_true(msr_write(pc, 0x830, 0xffffffff0000005a));
    assert_int_equal(intack(pc), 0x5a);
    assert_true(msr_write(pc, 0x80b, 0));
    dev_msi_write(pc->m, GPA(0xfeeff000), 0x5b); /* eight bits of ones are, in a message */
    assert_int_equal(intack(pc), 0x5b);
}

static void x2apic_refuses_what_is_reserved(void **state) {
    struct pc *pc = *state;
    assert_true(msr_write(pc, BASE_MSR, BASE_X2APIC));
    static const u32 not_readable[] = {0x800, 0x809, 0x80b, 0x80e, 0x831, 0x83a, 0x83f, 0x8ff};
    static const u32 not_writable[] = {0x802, 0x803, 0x80a, 0x80d, 0x80e, 0x810,
                                       0x818, 0x820, 0x82f, 0x831, 0x839, 0x8ff};
    static const u64 reserved[][2] = {
        {0x808, 0x100},   {0x80b, 1},       {0x80f, 0x1000},     {0x828, 1}, {0x830, 0x2000},
        {0x832, 0x80000}, {0x835, 0x20000}, {0x838, 1ull << 32}, {0x83e, 4}, {0x83f, 0x100}};
    u64 value;
    for (unsigned i = 0; i < ARRAY_LEN(not_readable); i++)
        assert_false(dev_apic_msr(pc->m, not_readable[i], false, &value));
    for (unsigned i = 0; i < ARRAY_LEN(not_writable); i++)
        assert_false(msr_write(pc, not_writable[i], 0));
    for (unsigned i = 0; i < ARRAY_LEN(reserved); i++)
        assert_false(msr_write(pc, (u32)reserved[i][0], reserved[i][1]));
    assert_true(msr_write(pc, 0x828, 0));
}

static void the_timer_works_by_msrs_too(void **state) {
    struct pc *pc = *state;
    assert_true(msr_write(pc, BASE_MSR, BASE_X2APIC));
    assert_true(msr_write(pc, 0x83e, 0xb) && msr_write(pc, 0x832, 0x44));
    assert_true(msr_write(pc, 0x838, 100));
    pc_advance(pc, 400);
    assert_int_equal(msr(pc, 0x839), 60);
    pc_advance(pc, 600);
    assert_int_equal(intack(pc), 0x44);
}

static void a_machine_without_apic_has_none(void **state) {
    struct pc *pc = *state; /* PC_TEST: without */
    u64 value;
    assert_false(dev_apic_msr(pc->m, BASE_MSR, false, &value));
    assert_int_equal(apic(pc, VERSION), 0xffffffff);
    assert_int_equal(mmio32(pc, 0xfec00000), 0xffffffff);
    dev_msi_write(pc->m, GPA(0xfee00000), 0x60);
    dev_apic_tsc_changed(pc->m);
    assert_false(pending(pc));
    dev_nmi_pulse(pc->m);
    assert_true(took_nmi(pc));
}

/* No sequence of accesses trips an assertion or leaves the one bit wrong. */
static void random_accesses_keep_the_pending_bit_right(void **state) {
    struct pc *pc = *state;
    u32 r = 12345;
    for (unsigned i = 0; i < 200000; i++) {
        r = r * 1664525 + 1013904223;
        u32 reg = r >> 24 & 0x3f, v = r * 2654435761u;
        if (i % 7 == 0)
            pc_line_set(pc, r >> 16 & 15, r >> 15 & 1);
        else if (i % 11 == 0)
            ioapic_write(pc, (u8)(r >> 20 & 0x3f), v);
        else if (i % 13 == 0)
            pc_advance(pc, r >> 20);
        else if (i % 5 == 0)
            apic(pc, reg << 4);
        else
            apic_write(pc, reg << 4, v);
        if (i % 3 == 0 && pending(pc))
            intack(pc);
    }
    /* Whatever the state: once it takes all and has no requests, nothing is pending. */
    out8(pc, 0x21, 0xff), out8(pc, 0xa1, 0xff);
    assert_true(msr_write(pc, BASE_MSR, 0xfee00000));
    assert_false(pending(pc));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        PC_APIC_TEST(power_on_leaves_virtual_wire_mode),
        PC_APIC_TEST(registers_keep_their_writable_bits),
        PC_APIC_TEST(only_aligned_32_bit_writes_count),
        PC_APIC_TEST(reset_restores_everything),
        PC_APIC_TEST(an_interrupt_is_requested_served_and_ended),
        PC_APIC_TEST(priorities_are_classes_of_sixteen),
        PC_APIC_TEST(a_second_request_waits_behind_the_first),
        PC_APIC_TEST(tpr_holds_back_its_class_and_lower),
        PC_APIC_TEST(tpr_does_not_hold_back_the_8259),
        PC_APIC_TEST(what_has_gone_is_spurious),
        PC_APIC_TEST(illegal_vectors_are_errors),
        PC_APIC_TEST(software_disable_masks_and_drops),
        PC_APIC_TEST(masking_lint0_cuts_off_the_8259),
        PC_APIC_TEST(lint0_in_fixed_mode_takes_edges),
        PC_APIC_TEST(lint0_as_a_level_asks_again_after_eoi),
        PC_APIC_TEST(lint1_and_nmi_messages_reach_the_nmi_line),
        PC_APIC_TEST(ipis_find_their_destination),
        PC_APIC_TEST(cluster_addresses_need_cluster_and_member),
        PC_APIC_TEST(init_to_itself_resets_and_start_up_does_nothing),
        PC_APIC_TEST(messages_of_devices_are_interrupts),
        PC_APIC_TEST(one_shot_counts_down_once),
        PC_APIC_TEST(the_divider_divides),
        PC_APIC_TEST(periodic_does_not_drift),
        PC_APIC_TEST(a_late_periodic_timer_fires_once),
        PC_APIC_TEST(short_periods_do_not_keep_the_host_busy),
        PC_APIC_TEST(tsc_deadline_fires_at_its_tsc),
        PC_APIC_TEST(setting_the_tsc_moves_the_deadline),
        PC_APIC_TEST(the_page_moves_with_its_base),
        PC_APIC_TEST(without_the_apic_the_8259_has_the_cpu),
        PC_APIC_TEST(modes_change_by_legal_steps_only),
        PC_APIC_TEST(x2apic_registers_are_msrs),
        PC_APIC_TEST(x2apic_refuses_what_is_reserved),
        PC_APIC_TEST(the_timer_works_by_msrs_too),
        PC_TEST(a_machine_without_apic_has_none),
        PC_APIC_TEST(random_accesses_keep_the_pending_bit_right),
    };
    return cmocka_run_group_tests_name("apic", tests, NULL, NULL);
}
