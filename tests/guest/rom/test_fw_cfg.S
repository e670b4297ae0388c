/*
 * fw_cfg as firmware uses it: by ports and by DMA, numbered items and files.
 * OPTIONS: -fw_cfg name=opt/rom/word,string=xyzzy -m 48
 */
#include "rom.h"

        .set BLOCK, 0x1000 /* of a DMA transfer */
        .set DATA, 0x2000

.macro SELECT key:req
        mov $\key, %ax
        mov $0x510, %dx
        out %ax, %dx
.endm
/* Reads so many bytes to DATA. */
.macro READ bytes:req
        mov $0x511, %dx
        mov $DATA, %di
        mov $\bytes, %cx
        cld
        rep insb
.endm
/* Starts a transfer: control and length as they stand in memory, big-endian. */
.macro DMA control:req, length:req
        movl $\control, BLOCK
        movl $\length, BLOCK + 4
        movl $0, BLOCK + 8
        movl $0x00200000, BLOCK + 12 /* DATA */
        mov $0x518, %dx
        mov $0x00100000, %eax /* BLOCK */
        out %eax, %dx
.endm

reset:
        PLAIN_SEGMENTS
        GO_LOW
        SELECT 0
        READ 5
        MUST_BE 0x554d4551, DATA, "signature"
        cmpb $0, DATA + 4
        MUST e, "beyond an item's end there are zeros"
        SELECT 1
        READ 4
        MUST_BE 3, DATA, "features"
        SELECT 3
        READ 8
        MUST_BE 48 << 20, DATA, "RAM"
        MUST_BE 0, DATA + 4, "RAM, the upper half"
        SELECT 5
        READ 2
        MUST_BE16 1, DATA, "number of CPUs"
        SELECT 0xf
        READ 2
        MUST_BE16 1, DATA, "greatest number of CPUs"
        SELECT 0x3fff
        movl $-1, DATA
        READ 4
        MUST_BE 0, DATA, "an item that does not exist"

        mov $0x514, %dx
        in %dx, %eax
        cmp $0x554d4551, %eax /* "QEMU" */
        MUST e, "DMA signature"
        mov $0x518, %dx
        in %dx, %eax
        cmp $0x47464320, %eax /* " CFG" */
        MUST e, "DMA signature, second half"

        /* Select and read item 0, five bytes. */
        movl $-1, DATA + 4
        DMA 0x0a000000, 0x05000000
        MUST_BE 0, BLOCK, "a transfer that does not end"
        MUST_BE 0x554d4551, DATA, "signature by DMA"
        MUST_BE 0xffffff00, DATA + 4, "a transfer's length"
        /* Select and skip two bytes, then read two. */
        DMA 0x0c000000, 0x02000000
        movl $0, DATA
        DMA 0x02000000, 0x02000000
        MUST_BE 0x554d, DATA, "skipping"
        /* Nothing can be written. */
        DMA 0x18000000, 0x01000000
        MUST_BE 0x01000000, BLOCK, "a write without an error"

        /* The directory: find opt/rom/word. */
        SELECT 0x19
        READ 4
        mov DATA, %ebp
        bswap %ebp
        test %ebp, %ebp
        MUST nz, "the directory is empty"
next:   READ 64
        mov $DATA + 8, %si
        mov $name, %di
        push %es
        mov $ROM_SEGMENT, %ax
        mov %ax, %es
        mov $name_end - name, %cx
        repe cmpsb
        pop %es
        je found
        dec %bp
        jnz next
        call fail
        .asciz "opt/rom/word is not in the directory"
found:  MUST_BE 0x05000000, DATA, "the file's size"
        mov DATA + 4, %ax
        xchg %al, %ah
        mov $0x510, %dx
        out %ax, %dx
        READ 5
        MUST_BE 0x7a7a7978, DATA, "the file's content"
        cmpb $'y', DATA + 4
        MUST e, "the file's last byte"
        PASS

name:   .asciz "opt/rom/word"
name_end:
