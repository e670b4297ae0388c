#!/usr/bin/env python3
"""The small guest kernel that the demo falls back to: a session at its prompt under both engines.

usage: shell.py MONITOR KERNEL [MORE OPTIONS OF THE MONITOR]
"""

import sys

from machine import Machine, check, run_case

monitor, kernel, *options = sys.argv[1:]
machines = []


def session():
    for engine in ("bt", "interp"):
        machine = Machine(monitor, "-accel", engine, "-kernel", kernel, "-m", "64", "-nographic", "-no-reboot",
                          *options)
        machines.append(machine)
        machine.type("uname -a\nmem\nring3\npage\nnonsense\npoweroff -f\n")
        status = machine.wait(20)
        for text in ("Ringfold-guest ringfold", "memory: 64 MiB", "summed 1 to 1000: 500500", "exception 13",
                     "one page at two addresses: works", "nonsense: not a command"):
            check(text in machine.out, f"{engine}: no {text!r}")
        check(status == 0, f"{engine}: exit status {status}, expected 0")


sys.exit(run_case(session, machines))
