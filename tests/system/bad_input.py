#!/usr/bin/env python3
"""Bad input is never silent: one clear line on stderr naming the file or option and the cause, status 1.

usage: bad_input.py MONITOR GOOD-KERNEL
"""

import os
import resource
import struct
import subprocess
import sys
import tempfile

monitor, good = sys.argv[1:3]
failures = 0


def limit_memory():
    resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))


def case(name, options, *expected, status=1, lines=1, before=None):
    """The monitor must say each expected text, in at most so many lines, and end with the status."""
    global failures
    try:
        run = subprocess.run([monitor, "-nographic", *options], stdin=subprocess.DEVNULL, timeout=10,
                             stdout=subprocess.PIPE, stderr=subprocess.PIPE, preexec_fn=before)
    except subprocess.TimeoutExpired:
        failures += 1
        print(f"{name}: it ran\n  options: {' '.join(options)}")
        return
    err = run.stderr.decode(errors="replace")
    complaints = [f"no {text!r}" for text in expected if text not in err]
    if run.returncode != status:
        complaints.append(f"status {run.returncode}, expected {status}")
    if lines and len(err.splitlines()) > lines:
        complaints.append(f"more than {lines} line(s)")
    if complaints:
        failures += 1
        print(f"{name}: {', '.join(complaints)}\n  options: {' '.join(options)}\n  stderr: {err!r}")


def write(name, data):
    path = os.path.join(directory, name)
    with open(path, "wb") as f:
        f.write(data)
    return path


def bzimage(size=0x8000, setup_sectors=4, version=0x20f, loadflags=1, xloadflags=0, syssize=None):
    """A file with Linux's boot header and nothing behind it."""
    image = bytearray(size)
    payload = size - (setup_sectors + 1) * 512
    struct.pack_into("<B", image, 0x1f1, setup_sectors)
    struct.pack_into("<I", image, 0x1f4, (payload // 16) if syssize is None else syssize)
    image[0x1fe:0x200] = b"\x55\xaa"
    image[0x202:0x206] = b"HdrS"
    struct.pack_into("<H", image, 0x206, version)
    image[0x211] = loadflags
    struct.pack_into("<H", image, 0x236, xloadflags)
    return bytes(image)


def elf(bits, machine=3, kind=2):
    ident = b"\x7fELF" + bytes([2 if bits == 64 else 1, 1, 1]) + bytes(9)
    head = struct.pack("<HHI", kind, machine, 1)
    return (ident + head).ljust(8192, b"\0")


def missing_and_unreadable():
    nothing = os.path.join(directory, "nothing")
    kernel = f"could not load kernel '{nothing}'"
    case("missing kernel", ["-kernel", nothing], kernel, "No such file or directory")
    case("kernel is a directory", ["-kernel", directory], f"could not load kernel '{directory}'", "is a directory")
    case("kernel is a device", ["-kernel", "/dev/zero"], "could not load kernel '/dev/zero'")
    empty = write("empty", b"")
    case("empty kernel", ["-kernel", empty], f"could not load kernel '{empty}'", "empty")
    if os.getuid():
        secret = write("secret", b"x" * 4096)
        os.chmod(secret, 0)
        case("unreadable kernel", ["-kernel", secret], f"'{secret}'", "Permission denied")
    case("no kernel at all", [], "kernel")
    case("missing initrd", ["-kernel", good, "-initrd", nothing], nothing, "No such file")


def not_a_kernel():
    for name, data, cause in (
            ("text", b"this is not a kernel\n" * 500, "neither a Linux bzImage nor a Multiboot kernel"),
            ("zeros", bytes(65536), "neither a Linux bzImage nor a Multiboot kernel"),
            ("short", b"\x7fELF", ""),
            ("elf64", elf(64, 62), "64-bit"),
            ("elf-arm", elf(32, 40), "another machine"),
            ("elf-object", elf(32, 3, 1), "not an executable"),
            ("elf-plain", elf(32, 3, 2), ""),
            ("bzimage-cut", bzimage(syssize=1 << 20), "truncated"),
            ("bzimage-header-only", bzimage()[:0x260], "truncated"),
            ("bzimage-old", bzimage(version=0x200), "2.00"),
            ("zimage", bzimage(loadflags=0), "zImage"),
            ("bzimage-64", bzimage(xloadflags=3), "64-bit")):
        path = write(name, data)
        case(name, ["-kernel", path], f"could not load kernel '{path}': ", cause)
    with open(good, "rb") as f:
        whole = f.read()
    for size in (40, 100, 4000, len(whole) // 2):
        path = write(f"cut-{size}", whole[:size])
        case(f"a good kernel cut to {size} bytes", ["-kernel", path], f"could not load kernel '{path}': ")


def sizes_and_options():
    for size in ("0", "abc", "-5", "9999999999999", "12Q", "1..5", "", "64T"):
        case(f"-m {size!r}", ["-kernel", good, "-m", size], "-m")
    case("no memory on the host", ["-kernel", good, "-m", "2048"], lines=2, before=limit_memory)
    case("unknown option", ["-kernel", good, "-frobnicate"], "frobnicate", lines=2)
    case("unknown device", ["-kernel", good, "-device", "e1000"], "e1000")
    case("unknown accelerator", ["-kernel", good, "-accel", "warp"], "warp")
    case("unknown machine", ["-kernel", good, "-machine", "vax"], "vax")
    case("unknown CPU", ["-kernel", good, "-cpu", "8008"], "8008")
    case("unknown CPU feature", ["-kernel", good, "-cpu", "max,+frob"], "frob")
    case("too many CPUs", ["-kernel", good, "-smp", "2"], "-smp")
    case("serial to nowhere", ["-kernel", good, "-serial", "file:/nonexistent/x"], "/nonexistent/x")
    case("serial of unknown kind", ["-kernel", good, "-serial", "pigeon"], "pigeon")
    case("log to nowhere", ["-kernel", good, "-d", "int", "-D", "/nonexistent/x"], "/nonexistent/x")
    case("unknown log category", ["-kernel", good, "-d", "gossip"], "gossip")
    case("option without value", ["-kernel"], "kernel", lines=2)
    case("a disk", ["-kernel", good, "-hda", "disk.img"], "hda")
    case("bad exit port", ["-kernel", good, "-device", "isa-debug-exit,iobase=zzz"], "zzz")


def firmware():
    for name, size in (("empty.rom", 0), ("odd.rom", 1000), ("large.rom", 0x50000), ("half.rom", 0x18000)):
        path = write(name, b"\xf4" * size)
        case(name, ["-bios", path], f"could not load PC BIOS '{path}'", "KiB")
    case("missing ROM", ["-bios", "/nonexistent"], "could not load PC BIOS '/nonexistent': No such file")
    case("directory as ROM", ["-bios", directory], "is a directory")
    rom = write("good.rom", b"\xf4" * 0x10000)
    case("ROM and Multiboot kernel", ["-bios", rom, "-kernel", good], "-bios", "Multiboot")
    linux = write("linux", bzimage())
    big = write("initrd", b"x" * (20 << 20))
    case("ROM and an initrd larger than RAM", ["-bios", rom, "-kernel", linux, "-initrd", big, "-m", "16"],
         big, "does not fit")
    case("fw_cfg without content", ["-kernel", good, "-fw_cfg", "opt/x"], "exactly one of file and string")
    case("fw_cfg with a missing file", ["-kernel", good, "-fw_cfg", "opt/x,file=/nonexistent"], "can't load",
         "/nonexistent")
    case("fw_cfg name twice", ["-kernel", good, "-fw_cfg", "opt/x,string=a", "-fw_cfg", "opt/x,string=b"],
         "duplicate fw_cfg file name: opt/x")


def initrd_sizes():
    big = os.path.join(directory, "big")
    with open(big, "wb") as f:
        f.truncate(200 << 20)
    case("module larger than RAM", ["-kernel", good, "-initrd", big, "-m", "64"], "big", "fit")


def leaves_nothing():
    """Files of the run's own directory only; no shared memory objects."""
    before = set(os.listdir("/dev/shm"))
    case("missing kernel again", ["-kernel", "/nonexistent"], "could not load kernel '/nonexistent'")
    if set(os.listdir("/dev/shm")) - before:
        print("something was left in /dev/shm")
        return 1
    return 0


with tempfile.TemporaryDirectory(prefix="ringfold-test-") as directory:
    missing_and_unreadable()
    not_a_kernel()
    sizes_and_options()
    firmware()
    initrd_sizes()
    failures += leaves_nothing()
print(f"{failures} failures")
sys.exit(1 if failures else 0)
