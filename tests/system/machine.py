"""Runs one ringfold process, or its bootable image through scripts/metal-run, the way a person would:
types at its console, reads it, waits for its end."""

import os
import select
import signal
import subprocess
import sys
import time

SKIP = 77  # ctest's SKIP_RETURN_CODE


class Failure(Exception):
    pass


def skip(reason):
    print("skipped: " + reason)
    sys.exit(SKIP)


class Machine:
    """A running monitor. Everything it wrote is in .out (console) and .err (the monitor's own messages)."""

    def __init__(self, monitor, *options):
        self.command = [monitor, *options]
        self.out = self.err = ""
        self.started = time.monotonic()
        self.process = subprocess.Popen(
            self.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        self.streams = {self.process.stdout: "out", self.process.stderr: "err"}

    def _pump(self, seconds):
        """Reads what there is within so many seconds; False when both streams have ended."""
        if not self.streams:
            return False
        for stream in select.select(list(self.streams), [], [], seconds)[0]:
            data = os.read(stream.fileno(), 65536)
            name = self.streams[stream]
            setattr(self, name, getattr(self, name) + data.decode("latin-1"))
            if not data:
                del self.streams[stream]
        return True

    def expect(self, text, seconds, times=1):
        """Waits until the console has shown the text (so many times)."""
        end = time.monotonic() + seconds
        while self.out.count(text) < times:
            left = end - time.monotonic()
            if left <= 0:
                raise Failure(f"no {text!r} on the console within {seconds} s")
            if not self._pump(min(left, 1)):
                self._skip_without_image()
                raise Failure(f"the monitor ended without {text!r} on the console")

    def type(self, text):
        try:
            self.process.stdin.write(text.encode())
            self.process.stdin.flush()
        except BrokenPipeError:
            pass

    def wait(self, seconds):
        """Waits for the end; the exit status."""
        end = time.monotonic() + seconds
        while self._pump(0.2):
            if time.monotonic() > end:
                raise Failure(f"the monitor did not end within {seconds} s")
        self._skip_without_image()
        return self.process.wait(timeout=max(1, end - time.monotonic()))

    def _skip_without_image(self):
        """What scripts/metal-run says, in this way, when there is nothing to run."""
        if self.process.wait(timeout=10) == SKIP:
            skip(self.err.strip())

    def cpu_seconds(self):
        """User and system time of the process so far."""
        with open(f"/proc/{self.process.pid}/stat") as f:
            fields = f.read().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def signal(self, number):
        self.process.send_signal(number)

    def kill(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()

    def show(self):
        print("command: " + " ".join(self.command))
        print("--- console (last 60 lines)")
        print("\n".join(self.out.splitlines()[-60:]))
        print("--- monitor's messages (last 40 lines)")
        print("\n".join(self.err.splitlines()[-40:]))


def check(condition, complaint):
    if not condition:
        raise Failure(complaint)


def run_case(case, machines):
    """Runs one test function; prints its time; on a failure shows every machine it started."""
    started = time.monotonic()
    try:
        case()
    except Failure as failure:
        print("FAILED: " + str(failure))
        for machine in machines:
            machine.show()
        return 1
    finally:
        for machine in machines:
            machine.kill()
        print(f"took {time.monotonic() - started:.1f} s")
    return 0
