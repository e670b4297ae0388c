#!/bin/sh
# Looks for instructions in the image that ask an operating system: there is none under it. Only the
# stubs of translated code (bt_stub_*), which leave ring 1 and 3 that way, may have them.
#
# usage: check-image.sh OBJDUMP IMAGE
set -eu

found=$("$1" -d --no-show-raw-insn "$2" | awk '
    /^[0-9a-f]+ <.*>:$/ { name = substr($2, 2, length($2) - 3); functions++; next }
    $2 ~ /^(syscall|sysenter)$/ || ($2 == "int" && $3 == "$0x80") {
        if (name !~ /^bt_stub_/)
            print name ": " $2
    }
    END { if (functions < 100) print "(too few functions: was it disassembled at all?)" }')
if [ -n "$found" ]; then
    echo "system calls in the bootable image:" >&2
    echo "$found" >&2
    exit 1
fi
