"""Every -d category prints what docs/logging.md says it does.

usage: logging.py RINGFOLD KERNEL_DIR
"""
import re
import subprocess
import sys
import tempfile

# category list, kernel, further options, a line that must occur, the least number of lines
CASES = [
    ("in_asm", "calls", [], r"0x[0-9a-f]{8}:  (?:[0-9a-f]{2} )+ +push esi", 100),
    ("out_asm", "calls", [], r" +\+[0-9a-f]+ +mov dword ptr gs:\[r12d - 4\], esi", 100),
    ("exec", "calls", [], r"exec [0-9a-f]{8} cpl 0 unit \d+", 100),
    ("exec,nochain", "calls", [], r"exec [0-9a-f]{8} cpl 3 unit \d+", 100000),
    ("exits", "calls", [], r"exit EMULATE at [0-9a-f]{8}", 20),
    ("int", "page_accessed_dirty", [], r"int: v=0e e=0003 s=0 cpl=0 .* cr2=30000010", 5),
    ("page", "page_accessed_dirty", [], r"page fault at 30000010 error 3 from [0-9a-f]{8}", 1),
    ("mmu", "processes", [], r"hidden fault: write at [0-9a-f]{8} gpa [0-9a-f]+", 100),
    ("mmu", "processes", [], r"revalidate: kernel window, \d+ regions", 100),
    ("ioport", "calls", [], r"out 0020/1 <- 11 at [0-9a-f]{8}", 10),
    ("guest_errors", "hostile_end_of_ram", [], r"bus: read of 4 bytes at 04000000, where .*", 1),
    ("unimp", "privileged", [], r"rdmsr 12345678: no such register, #GP at [0-9a-f]{8}", 1),
    ("cpu_reset", "calls", [], r"CPU reset, entry at 00100010", 1),
    # Printing inside callouts must not disturb the guest's floating-point state: it checks itself.
    ("all", "sse", [], r"int: .*", 100),
    ("all", "x87", [], r"int: .*", 100),
]


def run(ringfold, kernel, options):
    with tempfile.NamedTemporaryFile("r") as log:
        command = [ringfold, "-hot", "0", "-kernel", kernel, "-append", "rounds=1", "-m", "64",
                   "-device", "isa-debug-exit,iobase=0xf4,iosize=0x4", "-nographic", "-serial",
                   "null", "-monitor", "none", "-no-reboot", "-D", log.name] + options
        done = subprocess.run(command, stdin=subprocess.DEVNULL, timeout=60, check=False)
        return done.returncode, log.read().splitlines()


def main():
    ringfold, kernels = sys.argv[1:]
    wrong = 0
    for categories, kernel, options, line, least in CASES:
        status, lines = run(ringfold, f"{kernels}/{kernel}.elf", ["-d", categories] + options)
        if status != 33 or len(lines) < least or not any(re.fullmatch(line, x) for x in lines):
            print(f"-d {categories} with {kernel}: status {status}, {len(lines)} lines, "
                  f"expected {least} and one like {line}")
            wrong += 1
    first = 0x101000
    _, lines = run(ringfold, f"{kernels}/calls.elf",
                   ["-d", "exec", "-dfilter", f"{first:#x}..{first + 0xfff:#x}"])
    outside = [x for x in lines if not first <= int(x.split()[1], 16) < first + 0x1000]
    if not lines or outside:
        print(f"-dfilter lets through {outside[:3]} of {len(lines)} lines")
        wrong += 1
    # Exits and faults happen at addresses, too: all of them, or none outside the range.
    everything = run(ringfold, f"{kernels}/page_faults.elf", ["-d", "exits,page,mmu"])[1]
    elsewhere = run(ringfold, f"{kernels}/page_faults.elf", ["-d", "exits,page,mmu", "-dfilter", "0x40..0x41"])[1]
    pattern = re.compile(r"exit |page fault|hidden fault|true fault|emulate |invlpg")
    if not any(pattern.match(x) for x in everything) or any(pattern.match(x) for x in elsewhere):
        print(f"-dfilter lets through {[x for x in elsewhere if pattern.match(x)][:3]}")
        wrong += 1
    status, _ = run(ringfold, f"{kernels}/calls.elf", ["-d", "exec", "-dfilter", "5..4"])
    if status != 1:
        print("-dfilter 5..4 was accepted")
        wrong += 1
    return 1 if wrong else 0


sys.exit(main())
