#!/usr/bin/env python3
"""The bootable image, looked at from outside, started in every way, and given bad input.

usage: metal.py CASE METAL-RUN BUILD-DIRECTORY GUEST-DIRECTORY SOURCE-DIRECTORY
CASE is the name of one of the functions at the end.
"""

import collections
import os
import re
import struct
import subprocess
import sys
import tempfile
import time

from carrier import DIRECT, FOUR_GIB, IMAGE, RING3_DELTA, SHARED, SHARED_BYTES, Carrier, walk
from machine import SKIP, Failure, Machine, check, run_case, skip

case_name, metal_run, build, guest, source = sys.argv[1:6]
IMAGE_FILE = f"{build}/ringfold-metal.elf"
KERNELS = f"{build}/guest-kernels"
CS0, GIB = 0xfff0, 1 << 30
DEBUG_EXIT = ["-device", "isa-debug-exit,iobase=0xf4,iosize=0x4"]
machines = []


def start(*options, image=IMAGE_FILE, machine=Machine, own=()):
    """Boots an image; `own` are options of scripts/metal-run."""
    words = (metal_run, "--image", image, *own)
    started = machine(words, *options) if machine is Carrier else machine(*words, *options)
    machines.append(started)
    return started


# ---- Where the carrier's CPU may be ----

# place: (privilege level, 64-bit code?)
PLACES = {
    "monitor": (0, True),                 # the image
    "kernel": (1, True),                  # the translation cache, guest ring 0
    "application, translated": (3, True),  # the cache's alias for ring 3
    "application": (3, False),            # below 4 GiB: the application's own instructions
}


def place_of(registers):
    """Which of them it is by the address alone."""
    address = registers.rip
    if address >= IMAGE:
        return "monitor"
    if SHARED <= address < SHARED + SHARED_BYTES:
        return "kernel"
    if SHARED + RING3_DELTA <= address < SHARED + RING3_DELTA + SHARED_BYTES:
        return "application, translated"
    return "application" if address < FOUR_GIB else "nowhere"


def judge(registers):
    """The place; privilege level and mode must be the place's."""
    if not registers.long_mode or registers.gdt < FOUR_GIB:
        return "boot loader"  # the loader's own table; the image loads one of its own at once
    place = place_of(registers)
    check(place in PLACES and PLACES[place] == (registers.cpl, registers.long_code),
          f"CPL {registers.cpl}, {'64' if registers.long_code else '32'}-bit code,"
          f" at {registers.rip:x} ({place})\n{registers.text}")
    check(registers.cpl or registers.cs[0] == CS0, f"ring 0 with CS {registers.cs[0]:x}")
    return place


# ---- What the page tables in force allow ----

class Guest:
    """What a walk must know of the guest: its memory's size, a linear address for which linear and
    physical address differ by a constant, and, if known, where its user pages are."""

    def __init__(self, mib, direct_map=0, user_ranges=None):
        self.mib, self.direct_map, self.user_ranges = mib, direct_map, user_ranges


def check_upper(page):
    """A page of the monitor's half."""
    check(not (page.writable and page.execute), f"writable and executable: {page}")
    if SHARED + RING3_DELTA <= page.linear < SHARED + RING3_DELTA + SHARED_BYTES:
        return
    check(not page.user, f"ring 3 reaches the monitor: {page}")
    if DIRECT <= page.linear < SHARED:
        check(not page.execute, f"the direct map is executable: {page}")
    else:
        check(SHARED <= page.linear < SHARED + SHARED_BYTES or page.linear >= IMAGE,
              f"mapped where nothing should be: {page}")


def frames(pages):
    return {page.physical + at for page in pages for at in range(0, page.bytes, 4096)}


def check_lower(pages, guest_machine, monitor_frames):
    """The guest's window holds frames of its memory only, each where the guest's own tables put it."""
    check(all(page.linear + page.bytes <= FOUR_GIB for page in pages), "something above 4 GiB")
    offsets = collections.Counter(
        page.physical - (page.linear - guest_machine.direct_map) for page in pages
        if 0 <= page.linear - guest_machine.direct_map < guest_machine.mib << 20)
    if not offsets:
        return
    base = offsets.most_common(1)[0][0]
    for page in pages:
        check(base <= page.physical and page.physical + page.bytes <= base + (guest_machine.mib << 20),
              f"not the guest's memory (which begins at {base:x}): {page}")
        if page.user and guest_machine.user_ranges is not None:
            check(any(low <= page.linear and page.linear + page.bytes <= high
                      for low, high in guest_machine.user_ranges), f"not a page of ring 3: {page}")
    check(not frames(pages) & monitor_frames, "the guest reaches a frame of the monitor")


def check_tables(carrier, registers, guest_machine):
    """Returns the number of pages in the guest's window."""
    check(registers.cr0 & 1 << 16, "CR0.WP is off")
    pages = list(walk(carrier, registers.cr3))
    upper = [page for page in pages if page.linear >= 1 << 63]
    lower = [page for page in pages if page.linear < 1 << 63]
    check(upper, "the monitor's half is empty")
    for page in upper:
        check_upper(page)
    check_lower(lower, guest_machine, frames(p for p in upper if p.linear >= SHARED))
    return len(lower)


def read_linear(carrier, pages, linear, count):
    """64-bit words at a linear address of the monitor."""
    words = []
    while len(words) < count:
        at = linear + 8 * len(words)
        page = next((p for p in pages if p.linear <= at < p.linear + p.bytes), None)
        check(page, f"a table of the CPU at {at:x}, where nothing is mapped")
        here = min(count - len(words), (page.linear + page.bytes - at) // 8)
        words += carrier.physical(page.physical + at - page.linear, here)
    return words


def check_descriptors(carrier, registers):
    """Under direct execution: no way from a far transfer into 64-bit code or into an outer gate."""
    pages = [page for page in walk(carrier, registers.cr3) if page.linear >= 1 << 63]
    tables = {"GDT": (registers.gdt, registers.gdt_limit)}
    if registers.ldt[0] & 0xfffc:
        # In compatibility mode QEMU prints the low half of this base; the table is in the image.
        tables["LDT"] = registers.ldt[1] | IMAGE & ~0xffffffff, registers.ldt[2]
    for name, (base, limit) in tables.items():
        for index, entry in enumerate(read_linear(carrier, pages, base, (limit + 1) // 8)):
            dpl, segment, code = entry >> 45 & 3, entry >> 44 & 1, entry >> 43 & 1
            if not entry >> 47 & 1 or index in (CS0 // 8, CS0 // 8 + 1) and name == "GDT":
                continue  # not present, or the monitor's own two
            what = f"{name} entry {8 * index:x}: {entry:016x}"
            check(segment, f"a gate or system segment within reach of ring 3: {what}")
            check(dpl == 3 or (code and entry >> 42 & 1), f"not ring 3's: {what}")
            check(not (code and entry >> 53 & 1), f"a 64-bit code segment: {what}")
    gates = read_linear(carrier, pages, registers.idt, (registers.idt_limit + 1) // 8)
    for vector in range(0, len(gates), 2):
        handler = gates[vector] & 0xffff | gates[vector] >> 32 & 0xffff0000 | gates[vector + 1] << 32
        if gates[vector] >> 47 & 1:
            check(gates[vector] >> 16 & 0xffff == CS0 and handler >= IMAGE,
                  f"gate {vector // 2:x} does not lead to the monitor")


def symbols(kernel):
    lines = subprocess.run(["nm", kernel], stdout=subprocess.PIPE, text=True, check=True).stdout
    return {line.split()[2]: int(line.split()[0], 16) for line in lines.splitlines()}


def isolation_of(options, wanted):
    """Runs the hostile program's kernel; whenever the CPU is found in one of the wanted places, for the first
    few times, everything that it could reach from there is looked through."""
    kernel = f"{KERNELS}/hostile_ring3.elf"
    names = symbols(kernel)
    user = [(names["first"], names["last"] + 0xfff & ~0xfff), (names["scratch"], names["scratch"] + (1 << 20)),
            (names["user_stack"], names["user_stack"] + 16384), (0, 4096), (FOUR_GIB - 4096, FOUR_GIB)]
    carrier = start("-hot", "0", "-verify", *options, "-kernel", kernel, "-append",
                    "linger=1", "-m", "64", *DEBUG_EXIT, "-no-reboot", machine=Carrier)
    looked, end = collections.Counter(), time.monotonic() + 100
    while any(looked[place] < 3 for place in wanted):
        check(time.monotonic() < end, f"within 100 s the CPU was only found in {dict(looked)}")
        carrier.stop()
        registers = carrier.registers()
        place = judge(registers)
        # Before its program first runs the kernel has no paging, and then all pages are for all.
        running = place != "kernel" or any(looked[other] for other in wanted if other != "kernel")
        if place in wanted and running and looked[place] < 3:
            pages = check_tables(carrier, registers, Guest(64, user_ranges=user))
            if place == "application":
                check_descriptors(carrier, registers)
            looked[place] += 1
            print(f"{place} at {registers.rip:x}: {pages} pages in the window")
        carrier.go_on()
        carrier._pump(0.02)
    carrier.kill()


def isolation():
    """Neither ring 1 nor ring 3 can reach anything that is not its own."""
    isolation_of(["-direct", "on"], ("kernel", "application"))
    isolation_of(["-direct", "off"], ("kernel", "application, translated"))


# ---- Debian, watched ----

def program_text(path):
    """[(first address, bytes)] of an i386 program's executable segments."""
    with open(path, "rb") as file:
        data = file.read()
    offset, size, count = struct.unpack_from("<I", data, 28) + struct.unpack_from("<HH", data, 42)
    found = []
    for at in range(offset, offset + size * count, size):
        kind, start_at, linear, _, length, _, flags = struct.unpack_from("<7I", data, at)
        if kind == 1 and flags & 1:
            found.append((linear, data[start_at:start_at + length]))
    return found


def runs_program(carrier, registers, text):
    """Is EIP inside the program, and do the instructions there stand as in its file?"""
    for linear, data in text:
        offset = registers.rip - linear
        if 0 <= offset < len(data) - 16:
            path = f"{carrier.directory.name}/code"
            carrier.qmp("memsave", val=registers.rip, size=16, filename=path)
            with open(path, "rb") as file:
                check(file.read() == data[offset:offset + 16],
                      f"at {registers.rip:x} ring 3 does not run the program's own instructions")
            return True
    return False


def units_of(carrier, addresses):
    """What the image's console says of addresses in the translation cache: {address: (eip, cpl)}."""
    carrier.type("\x01c")
    found = {}
    for address in addresses:
        before = len(carrier.out)
        carrier.type(f"info unit {address:#x}\n")
        end = time.monotonic() + 20
        while not re.search(r"\n[^\n]*(not in a unit|eip)[^\n]*\n", carrier.out[before:]):
            check(time.monotonic() < end, "the console does not answer `info unit'")
            carrier._pump(0.1)
        match = re.search(r"eip ([0-9a-f]{8}).*?cpl (\d)", carrier.out[before:])
        if match:
            found[address] = int(match[1], 16), int(match[2])
    carrier.type("\x01c")
    return found


def make_initrd():
    path = f"{scratch}/initrd.img"
    subprocess.run([f"{source}/scripts/make-initramfs", "-b", f"{guest}/busybox", "-o", path,
                    f"{KERNELS}/probe:/bin/probe"], check=True)
    return path


def watch_boot(carrier):
    """Samples until the shell is there; how often the CPU was where, and addresses in ring 1."""
    places, ring1, end = collections.Counter(), [], time.monotonic() + 400
    while "watch me" not in carrier.out:
        check(time.monotonic() < end, "Debian did not come up within 400 s")
        registers = carrier.sample()
        place = judge(registers)
        places[place] += 1
        if place == "kernel":
            ring1.append(registers.rip)
        carrier._pump(0.03)
    return places, ring1


def watch_program(carrier, guest_machine):
    """Samples while the program computes, until it was found often enough in both rings."""
    text, hits, tables, places = program_text(f"{KERNELS}/probe"), 0, 0, collections.Counter()
    end = time.monotonic() + 200
    while hits < 30 or places["kernel"] < 3:
        check(time.monotonic() < end, f"200 s of the program: {hits} times in its code, {dict(places)}")
        carrier.stop()
        registers = carrier.registers()
        place = judge(registers)
        places[place] += 1
        if place == "application":
            check(registers.rip < 0xc0000000, f"ring 3 at {registers.rip:x}")
            hits += runs_program(carrier, registers, text)
        if place == "kernel" or (place == "application" and tables < 2):
            check_tables(carrier, registers, guest_machine)
            tables += place == "application"
        carrier.go_on()
        carrier._pump(0.02)
    return hits, places


def outside():
    """Debian's kernel runs translated in ring 1, its programs run by themselves in ring 3."""
    if not os.path.exists(f"{guest}/vmlinuz-686"):
        skip(f"no Debian guest in {guest} (scripts/fetch-guest fetches it)")
    carrier = start("-kernel", f"{guest}/vmlinuz-686", "-initrd", make_initrd(), "-m", "256", "-append",
                    "console=ttyS0 quiet panic=-1", "-no-reboot", "-verify", "-direct", "on", machine=Carrier)
    carrier.type("echo watch' 'me; while /bin/probe native; do fork=$(echo); done\n")
    places, ring1 = watch_boot(carrier)
    print(f"during the boot: {dict(places)}")
    check(places["kernel"] >= 10, "hardly ever in ring 1")
    hits, places = watch_program(carrier, Guest(256, direct_map=0xc0000000))
    print(f"while the program ran: {dict(places)}, {hits} times at its own instructions")
    found = units_of(carrier, ring1[-20:])
    for address, (eip, cpl) in found.items():
        check(cpl == 0 and eip >= 0xc0000000, f"ring 1 at {address:x} is {eip:08x} at CPL {cpl}")
    print(f"{len(found)} of {len(ring1[-20:])} addresses in ring 1 belong to units of the kernel")
    check(len(found) >= len(ring1[-20:]) // 2, "addresses in ring 1 that belong to no unit")
    carrier.kill()


# ---- Bad input ----

def complains(name, options, *expected, own=(), ends=True):
    """Exactly one line with these texts, then status 1 or a halt: no second start."""
    machine = start(*options, machine=Machine if ends else Carrier, own=own)
    if ends:
        status = machine.wait(30)
        check(status == 1, f"{name}: status {status}, expected 1")
    else:
        machine.expect("\n", 20)
        machine._pump(0.3)
        time.sleep(1)
        check(machine.sample().halted, f"{name}: the machine is not halted")
        machine._pump(0.1)
    lines = [line for line in machine.out.splitlines() if line.strip()]
    check(len(lines) == 1, f"{name}: {len(lines)} lines instead of one")
    for text in expected:
        check(text in lines[0], f"{name}: no {text!r}")
    machine.kill()


def write(name, data):
    path = f"{scratch}/{name}"
    with open(path, "wb") as file:
        file.write(data)
    return path


def elf64():
    return (b"\x7fELF\2\1\1" + bytes(9) + struct.pack("<HHI", 2, 62, 1)).ljust(8192, b"\0")


def bzimage64():
    """Linux's boot header of a kernel that has no 32-bit code."""
    image = bytearray(0x8000)
    struct.pack_into("<B", image, 0x1f1, 4)
    struct.pack_into("<I", image, 0x1f4, (0x8000 - 5 * 512) // 16)
    image[0x1fe:0x200] = b"\x55\xaa"
    image[0x202:0x206] = b"HdrS"
    struct.pack_into("<H", image, 0x206, 0x20f)
    image[0x211] = 1
    struct.pack_into("<H", image, 0x236, 3)
    return bytes(image)


def bad_input():
    """One clear line, an exit status or a halt, no reboot."""
    good = f"{KERNELS}/sgdt.elf"
    for name, data, cause in (("text", b"this is not a kernel\n" * 500, "neither a Linux bzImage nor"),
                              ("zeros", bytes(65536), "neither a Linux bzImage nor"),
                              ("elf64", elf64(), "64-bit"), ("bzimage64", bzimage64(), "64-bit")):
        path = write(name, data)
        complains(name, ["-kernel", path], f"could not load kernel '{path}'", cause)
    complains("no module", [], "no kernel", "no modules")
    complains("more than there is", ["-kernel", good, "-m", "1024"], "1024", own=["--carrier-m", "256"])
    complains("no room for the monitor", ["-kernel", good, "-m", "64"], "memory",
              own=["--carrier-m", "32"])
    complains("an option that does not exist", ["-kernel", good, "-frobnicate"], "-frobnicate")
    complains("no files here", ["-kernel", good, "-D", "x"], "-D")
    complains("a kernel that is no module", ["-kernel", good, "-append", "x", "-accel", "warp"], "warp")
    complains("no long mode", ["-kernel", good], "no long mode", own=["--carrier-cpu", "qemu32"],
              ends=False)
    complains("no NX", ["-kernel", good], "no NX", own=["--carrier-cpu", "max,-nx"], ends=False)


# ---- Ways to start ----

def session(*own, image=IMAGE_FILE, memory=64):
    machine = start("-kernel", f"{KERNELS}/shell.elf", "-m", str(memory), "-no-reboot", "-verify",
                    image=image, own=own)
    machine.expect("lists the commands", 60)  # GRUB would take what is typed before that
    machine.type("uname -a\nmem\nring3\npage\npoweroff -f\n")
    machine.expect("one page at two addresses: works", 60)
    status = machine.wait(30)
    check(status == 0, f"exit status {status}, expected 0")
    for text in ("Ringfold-guest ringfold", f"memory: {memory} MiB", "summed 1 to 1000: 500500"):
        check(text in machine.out, f"no {text!r}")


def boot_paths():
    """Multiboot, PVH with one packed module, and GRUB from a CD, each to a session with a guest."""
    session(memory=32)
    session("--boot", "pvh", image=f"{build}/ringfold-metal-pvh.elf")
    session("--boot", "iso")
    session("--carrier-cpu", "qemu64")  # no SMEP, UMIP, RDRAND, 1 GiB pages


def host_exit_status():
    """What the guest writes to isa-debug-exit becomes the carrier's status."""
    for kernel, status in (("sgdt", 33), ("triple_fault", 0)):
        machine = start("-kernel", f"{KERNELS}/{kernel}.elf", "-append", "rounds=1", "-m", "32",
                        *DEBUG_EXIT, "-no-reboot")
        actual = machine.wait(30)
        check(actual == status, f"{kernel}: exit status {actual}, expected {status}")


cases = {f.__name__: f for f in (outside, isolation, bad_input, boot_paths, host_exit_status)}

if not os.path.exists(IMAGE_FILE):
    skip(f"no bootable image {IMAGE_FILE} (cmake says what it needs)")
with tempfile.TemporaryDirectory(prefix="ringfold-test-") as scratch:
    sys.exit(run_case(cases[case_name], machines))
