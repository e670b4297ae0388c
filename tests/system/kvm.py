#!/usr/bin/env python3
"""The kvm engine with a guest so plain that an emulating /dev/kvm runs it, too: ports, memory-mapped registers,
HLT, the end, and what the counters say. Skipped where there is no /dev/kvm.

usage: kvm.py MONITOR KERNEL
"""

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time

monitor, kernel = sys.argv[1:3]
complaints = []


def check(good, what):
    if not good:
        complaints.append(what)


def command(engine, debugcon, append):
    return [monitor, "-accel", engine, "-kernel", kernel, "-append", append, "-m", "64", "-display", "none",
            "-serial", "stdio", "-monitor", "none", "-no-reboot", "-debugcon", f"file:{debugcon}", "-stats", "json",
            "-device", "isa-debug-exit,iobase=0xf4,iosize=0x4"]


def runs_to_its_end(engine, directory):
    debugcon = os.path.join(directory, engine)
    run = subprocess.run(command(engine, debugcon, "rounds=3"), stdin=subprocess.DEVNULL, timeout=60,
                         capture_output=True, text=True)
    check(run.returncode == 33, f"{engine}: status {run.returncode}: {run.stdout[-300:]} {run.stderr[-300:]}")
    check("passed" in run.stdout, f"{engine}: said {run.stdout!r}")
    with open(debugcon) as file:
        said = file.read()
    check(said == 3 * "kvm: a string to a port\n", f"{engine}: the debug console has {said!r}")
    match = re.search(r"\{.*\}", run.stderr, re.S)
    return json.loads(match[0]) if match else {}


def stays_halted_until_a_signal(directory):
    """HLT with interrupts off waits without using the CPU, and SIGTERM ends the machine."""
    with subprocess.Popen(command("kvm", os.path.join(directory, "halt"), "rounds=1 halt=1"), text=True,
                          stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        try:
            seen = ""
            while "halting" not in seen:
                line = process.stdout.readline()
                if not line:
                    check(False, f"ended before HLT: {seen!r} {process.stderr.read()[-300:]!r}")
                    return
                seen += line
            time.sleep(0.3)
            check(process.poll() is None, "it went on after HLT")
            process.send_signal(signal.SIGTERM)
            rest, err = process.communicate(timeout=30)
            check("woke up" not in rest, "HLT with interrupts off ended")
            check("terminating on signal 15" in err, f"no `terminating on signal 15': {err[-300:]!r}")
            check('"halts": 0' not in err, "no HLT was counted")
        finally:
            process.kill()


if not os.path.exists("/dev/kvm") or not os.access("/dev/kvm", os.R_OK | os.W_OK):
    print("skipped: no /dev/kvm that can be opened")
    sys.exit(77)
with tempfile.TemporaryDirectory(prefix="ringfold-test-") as directory:
    counters = runs_to_its_end("kvm", directory)
    same = runs_to_its_end("interp", directory)
    for name in ("mmio_reads", "mmio_writes"):
        check(counters.get(name) == same.get(name) != 0,
              f"{name}: {counters.get(name)} under kvm, {same.get(name)} under interp")
    check(counters.get("hardware_exits", 0) >= counters.get("mmio_reads", 0) > 0, "too few exits of the processor")
    stays_halted_until_a_signal(directory)
print("\n".join(complaints) or "passed")
sys.exit(bool(complaints))
