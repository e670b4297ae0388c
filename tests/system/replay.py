#!/usr/bin/env python3
"""-icount: a run with random numbers and time stamps in it is repeated exactly, by its log of inputs.

usage: replay.py MONITOR KERNEL
"""

import re
import sys
import tempfile

from machine import Machine, check, run_case

monitor, kernel = sys.argv[1:3]
machines = []
COMMANDS = "random\nuptime\nrandom\npoweroff -f\n"


def run(engine, icount, typed):
    machine = Machine(monitor, *engine.split(), *(["-icount", icount] if icount else []), "-cpu", "max", "-kernel",
                      kernel, "-m", "64", "-nographic", "-no-reboot")
    machines.append(machine)
    machine.type(typed)
    status = machine.wait(20)
    check(status == 0, f"{engine} {icount}: exit status {status}, expected 0")
    return machine.out


def numbers(out):
    return re.findall(r"random: (.*), time stamp (\S+)", out)


def session():
    for engine in ("-accel bt", "-accel bt -hot 0", "-accel interp"):
        with tempfile.NamedTemporaryFile(prefix="ringfold-replay-") as log:
            recorded = run(engine, f"shift=0,rr=record,rrfile={log.name}", COMMANDS)
            replayed = run(engine, f"shift=0,rr=replay,rrfile={log.name}", "")
        found = numbers(recorded)
        check(len(found) == 2 and found[0] != found[1], f"{engine}: not two different lines of random numbers")
        check(replayed == recorded, f"{engine}: the replay differs from the recording")
    # Without -icount nothing is alike.
    free = {line for _ in range(2) for line in numbers(run("-accel bt", None, COMMANDS))}
    check(len(free) == 4, "two runs had the same random numbers")


sys.exit(run_case(session, machines))
