"""Starts the metal image of test_traps.c under QEMU and plays the outside: the keyboard, the NMI
button, and whoever looks at the exit status.

run_traps.py QEMU IMAGE CASE [QEMU OPTIONS]: CASE is "all" or one of the ends of test_traps.c.
"""
import os
import select
import socket
import subprocess
import sys
import tempfile
import time

TIMEOUT_S = 50
# What the image asks for, and what to do then.
TYPED = {b"type hello\r\n": b"hello\n", b"type again\r\n": b"again\n", b"type early\r\n": b"early\n"}
# Lines that an end must say, in this order, and its exit status.
ENDS = {
    "status=0": (0, []),
    "status=37": (37, []),
    "status=6": (7, []),
    "fatal": (1, [b"ringfold: nothing works: 42\r\n"]),
    "page_fault": (1, [b"ringfold: exception in the monitor: #PF (vector 14) error 2 at ring 0\r\n",
                       b"touch_nothing+", b"cr2 0000000000405018", b"end_by+",
                       b"metal_main+", b"crash hook: exception in the monitor\r\n"]),
    "double_fault": (1, [b"ringfold: double fault: #DF (vector 8) error 0 at ring 0\r\n", b"recurse+",
                         b"the monitor's stack was overrun", b"recurse+",
                         b"crash hook: double fault\r\n"]),
    "crash_hook_faults": (1, [b"crash hook: exception in the monitor\r\n",
                              b"ringfold: failed again while reporting\r\n"]),
    "guest_fault": (1, [b"ringfold: exception in translated or guest code: #UD (vector 6) error 0 "
                        b"at ring 1\r\n", b"0000000000400000", b"r8  1111111111111108"]),
}


def press_nmi(monitor_path):
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as monitor:
        monitor.connect(monitor_path)
        monitor.sendall(b"nmi\n")
        time.sleep(0.5)  # closing earlier would lose the command


def converse(process, monitor_path):
    """Everything the image says, until it ends."""
    said, deadline = b"", time.monotonic() + TIMEOUT_S
    waiting = dict(TYPED)
    nmi_sent = False
    while True:
        left = deadline - time.monotonic()
        if left <= 0 or not select.select([process.stdout], [], [], left)[0]:
            process.kill()
            return said + b"\n*** timed out\n"
        piece = os.read(process.stdout.fileno(), 4096)
        if not piece:
            return said
        said += piece
        for prompt in [p for p in waiting if p in said]:
            process.stdin.write(waiting.pop(prompt))
            process.stdin.flush()
        if not nmi_sent and b"send nmi\r\n" in said:
            press_nmi(monitor_path)
            nmi_sent = True


def in_order(said, lines):
    at = 0
    for line in lines:
        at = said.find(line, at)
        if at < 0:
            return line
        at += len(line)
    return None


def main():
    qemu, image, case, *options = sys.argv[1:]
    with tempfile.TemporaryDirectory() as folder:
        monitor_path = os.path.join(folder, "monitor")
        serial = [] if "-serial" in options else ["-serial", "stdio"]
        command = [qemu, "-kernel", image, "-m", "128", "-display", "none", *serial, "-no-reboot",
                   "-rtc", "base=2023-11-14T22:13:20",
                   "-monitor", f"unix:{monitor_path},server=on,wait=off",
                   "-device", "isa-debug-exit,iobase=0xf4,iosize=4", *options]
        if case != "all":
            command += ["-append", case]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        said = converse(process, monitor_path)
        status = process.wait(timeout=10)
    sys.stdout.write(said.decode("latin-1").replace("\r\n", "\n"))
    print(f"exit status {status}")
    if case == "all":
        passed = status == 0 and b"all passed\r\n" in said and b"FAIL" not in said
    else:
        expected_status, lines = ENDS[case]
        missing = in_order(said, lines)
        if missing:
            print(f"not said: {missing.decode()!r}")
        passed = status == expected_status and missing is None
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
