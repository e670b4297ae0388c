/*
 * machine.c: descriptor tables, page tables, interrupt controller and timer of the guest tests.
 */
#include "guest.h"

/* A page of its own: with paging it is the kernel's, all else is everybody's. */
u64 gdt[512] __attribute__((aligned(4096))) = {
    0,                     /* null */
    0x00cf9b000000ffffull, /* 08h: ring 0 code */
    0x00cf93000000ffffull, /* 10h: ring 0 data */
    0x00cffb000000ffffull, /* 18h: ring 3 code */
    0x00cff3000000ffffull, /* 20h: ring 3 data; this order suits SYSENTER */
};
u64 idt[256] __attribute__((aligned(16)));
struct tss tss __attribute__((aligned(4096)));
/* start.S loads the GDT before any C has run. */
struct {
    u16 limit;
    u64 *base;
} __attribute__((packed)) gdt_pointer = {GDT_BYTES - 1, gdt}, idt_pointer;
__asm__(".globl tss_esp0\n.set tss_esp0, tss + 4");

void machine_init(void);

u64 descriptor(u32 base, u32 limit, u8 access, u8 flags) {
    return (u64)(limit & 0xffff) | (u64)(base & 0xffffff) << 16 | (u64)access << 40 |
           (u64)(limit >> 16 & 15) << 48 | (u64)(flags & 15) << 52 | (u64)(base >> 24) << 56;
}

u16 gdt_set(u32 index, u64 value) {
    gdt[index] = value;
    return (u16)(index << 3 | (value >> 45 & 3));
}

u64 gate(u32 offset, u16 selector, u8 type) {
    return (u64)(offset & 0xffff) | (u64)selector << 16 | (u64)type << 40 |
           (u64)(offset >> 16) << 48;
}

void idt_set(u32 vector, u64 value) {
    idt[vector] = value;
}

u64 default_gate(u32 vector) {
    u8 type = vector == V_BP || vector == V_OF || vector == V_DONE ? 0xee : 0x8e;
    return gate((u32)trap_stubs + 16 * vector, KERNEL_CODE, type);
}

void load_idt_limit(u16 limit) {
    idt_pointer.limit = limit;
    idt_pointer.base = idt;
    __asm__ volatile("lidt %0" ::"m"(idt_pointer));
}

void machine_init(void) {
    for (u32 vector = 0; vector < 256; vector++)
        idt_set(vector, default_gate(vector));
    load_idt_limit(sizeof idt - 1);
    tss.ss0 = KERNEL_DATA;
    tss.iomap = sizeof tss; /* no bitmap: every port is refused when CPL > IOPL */
    gdt_set(TSS_SEL >> 3, descriptor((u32)&tss, sizeof tss - 1, 0x89, 0));
    __asm__ volatile("ltr %w0" ::"r"(TSS_SEL));
    __asm__ volatile("lldt %w0" ::"r"(0)); /* reset leaves one of 64 KiB at address 0 */
    write_cr0(read_cr0() | CR0_NE);
    __asm__ volatile("fninit"); /* reset leaves every x87 exception unmasked */
    pic_init(0xffff);
}

/* ---- Paging ---- */

enum { TABLES = 24, IDENTITY_BYTES = 32 << 20 };
u32 page_directory[1024] __attribute__((aligned(4096)));
static u32 page_tables[TABLES][1024] __attribute__((aligned(4096)));
static u32 tables_used;
u64 pae_pointers[4] __attribute__((aligned(32)));
static u64 pae_directories[4][512] __attribute__((aligned(4096)));

static void *new_table(void) {
    if (tables_used == TABLES) {
        print("out of page tables\n");
        finish(0x12);
    }
    memset(page_tables[tables_used], 0, 4096);
    return page_tables[tables_used++];
}

u32 *pde(u32 address) {
    return &page_directory[address >> 22];
}

u32 *pte(u32 address) {
    u32 *directory = pde(address);
    if (!(*directory & PT_P))
        *directory = (u32)new_table() | PT_P | PT_W | PT_U;
    return (u32 *)(*directory & ~0xfffu) + (address >> 12 & 1023);
}

void map(u32 address, u32 physical, u32 flags) {
    *pte(address) = physical | flags;
    invlpg(address);
}

void paging_prepare(void) {
    tables_used = 0;
    memset(page_directory, 0, sizeof page_directory);
    for (u32 address = 0; address < IDENTITY_BYTES; address += 4096)
        *pte(address) = address | PT_P | PT_W | PT_U;
    *pte((u32)gdt) &= ~PT_U;
}

void paging_on(void) {
    write_cr3((u32)page_directory);
    write_cr0(read_cr0() | CR0_PG);
}

void paging_off(void) {
    write_cr0(read_cr0() & ~(CR0_PG | CR0_WP));
    write_cr4(read_cr4() & ~(CR4_PSE | CR4_PGE | CR4_PAE));
}

u64 *pae_pte(u32 address) {
    u64 *directory = &pae_directories[address >> 30][address >> 21 & 511];
    if (!(*directory & PT_P))
        *directory = (u32)new_table() | PT_P | PT_W | PT_U;
    return (u64 *)((u32)*directory & ~0xfffu) + (address >> 12 & 511);
}

void pae_prepare(void) {
    tables_used = 0;
    memset(pae_directories, 0, sizeof pae_directories);
    for (u32 i = 0; i < 4; i++)
        pae_pointers[i] = (u32)pae_directories[i] | PT_P;
    for (u32 address = 0; address < IDENTITY_BYTES; address += 4096)
        *pae_pte(address) = address | PT_P | PT_W | PT_U;
    *pae_pte((u32)gdt) &= ~PT_U;
}

void pae_on(void) {
    write_cr4(read_cr4() | CR4_PAE);
    write_cr3((u32)pae_pointers);
    write_cr0(read_cr0() | CR0_PG);
}

/* ---- Interrupts ---- */

void pic_init(u16 mask) {
    outb(0x20, 0x11);
    outb(0xa0, 0x11);
    outb(0x21, 0x20);
    outb(0xa1, 0x28);
    outb(0x21, 4);
    outb(0xa1, 2);
    outb(0x21, 1);
    outb(0xa1, 1);
    outb(0x21, (u8)mask);
    outb(0xa1, (u8)(mask >> 8));
}

void pit_start(u32 hz) {
    u32 count = 1193182 / hz;
    outb(0x43, 0x34);
    outb(0x40, (u8)count);
    outb(0x40, (u8)(count >> 8));
}

void pit_stop(void) {
    pic_init(0xffff);
    outb(0x43, 0x30); /* mode 0 with no count: the output stays low */
}
