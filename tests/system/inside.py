#!/usr/bin/env python3
"""Looking inside: -profile with -symbols, -perfmap, -jitdump, -trace-out and -stats json tell of a run what
they promise, in the formats that others read; and bad arguments get one line.

usage: inside.py RINGFOLD NANO-KERNEL
"""

import json
import os
import re
import struct
import subprocess
import sys
import tempfile

ringfold, kernel = sys.argv[1:3]
EXIT_DEVICE = ["-device", "isa-debug-exit,iobase=0xf4,iosize=0x4"]


def check(good, what):
    if not good:
        sys.exit(what)


def run(directory, *options, rows="loop_kernel", batches=2, status=33):
    process = subprocess.Popen([ringfold, "-kernel", kernel, "-m", "64", "-display", "none", "-serial", "null", "-append",
                                f"rounds=1 batches={batches} total=1 rows={rows}", *EXIT_DEVICE, *options],
                               stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                               cwd=directory)
    out, err = process.communicate(timeout=100)
    check(process.returncode == status, f"{options}: status {process.returncode}: {err[-500:]}")
    return process.pid, out, err


def symbols(directory):
    """A System.map of the kernel."""
    path = os.path.join(directory, "map")
    names = subprocess.run(["nm", kernel], capture_output=True, text=True, check=True).stdout
    with open(path, "w") as file:
        file.write(names)
    return path


def profile_names_kinds_and_functions(directory):
    path = os.path.join(directory, "folded")
    for engine, kind in (("bt", "translated"), ("interp", "interp")):
        run(directory, "-accel", engine, "-profile", path, "-symbols", symbols(directory),
            rows="timer_kernel,pushf_popf", batches=3)
        with open(path) as file:
            lines = file.read().splitlines()
        check(lines, f"{engine}: no sample")
        for line in lines:
            check(re.fullmatch(r"[^; ]+(;[^; ]+)* \d+", line), f"not a folded stack: {line}")
        check(any(line.startswith(f"{kind};kernel_loop") for line in lines),
              f"{engine}: no {kind};kernel_loop among {lines[:5]}")
    run(directory, "-accel", "bt", "-profile", path, "-symbols", kernel, rows="timer_kernel", batches=3)
    with open(path) as file: # the ELF file itself has the names, too
        check("translated;kernel_loop" in file.read(), "no names from an ELF file")


def perf_map_and_jitdump_name_units(directory):
    pid = run(directory, "-hot", "0", "-perfmap", "-jitdump", "-symbols", symbols(directory))[0]
    path = f"/tmp/perf-{pid}.map"
    with open(path) as file:
        lines = file.read().splitlines()
    os.unlink(path)
    check(lines and all(re.fullmatch(r"[0-9a-f]+ [0-9a-f]+ guest_kernel_[0-9a-f]{8}\w*", line) for line in lines),
          f"perf map: {lines[:3]}")
    check(any(line.endswith("_kernel_loop") for line in lines), "perf map: no kernel_loop")
    with open(os.path.join(directory, f"jit-{pid}.dump"), "rb") as file:
        dump = file.read()
    magic, version, header_bytes, machine = struct.unpack_from("<IIII", dump)
    check((magic, version, header_bytes, machine) == (0x4A695444, 1, 40, 62), "jitdump: header")
    at, loads, last = header_bytes, 0, None
    while at < len(dump):
        last, total = struct.unpack_from("<II", dump, at)
        if last == 0:
            address, size = struct.unpack_from("<QQ", dump, at + 32)
            name = dump[at + 56:dump.index(b"\0", at + 56)]
            check(total == 56 + len(name) + 1 + size, f"jitdump: a record of {total} bytes")
            check(f"{address:x} {size:x} {name.decode()}" == lines[loads], "jitdump and perf map differ")
            loads += 1
        at += total
    check(at == len(dump) and last == 3 and loads == len(lines), f"jitdump: {loads} of {len(lines)} units")


def counts_are_exact(directory):
    path = os.path.join(directory, "trace")
    run(directory, "-trace-out", path, "-trace-counts", "exact", "-hot", "0", "-no-retstack")
    top = subprocess.run([ringfold, "trace", "top", path, "1"], capture_output=True, text=True, check=True).stdout
    found = re.search(r"^ +[\d.]+ % +(\d+)  [0-9a-f]{8}", top, re.M)
    # Three batches (one of warm-up) of 100,000 turns: the first of each enters from elsewhere.
    check(found and 299990 <= int(found[1]) <= 300000, f"the loop ran {found and found[1]} times:\n{top}")


def stats_are_json(directory):
    stats = json.loads(run(directory, "-stats", "json")[2])
    check(stats["bt.units_translated"] > 0 and stats["guest_insns"] > 0, f"-stats json: {stats}")


def refuses(directory, *options):
    err = run(directory, *options, status=1)[2]
    check(len(err.strip().splitlines()) == 1, f"{options}: {err}")


with tempfile.TemporaryDirectory() as scratch:
    profile_names_kinds_and_functions(scratch)
    perf_map_and_jitdump_name_units(scratch)
    counts_are_exact(scratch)
    stats_are_json(scratch)
    refuses(scratch, "-profile", "/nonexistent/folded")
    refuses(scratch, "-profile", "folded", "-symbols", "/dev/null")
    refuses(scratch, "-trace-out", "/nonexistent/trace")
    refuses(scratch, "-accel", "interp", "-trace-out", "trace")
    refuses(scratch, "-accel", "interp", "-perfmap")
    refuses(scratch, "-trace-counts", "some")
