"""A look from outside at the machine that a carrier lends to Ringfold: through QEMU's machine protocol
(QMP) its virtual processor is stopped, and its registers and memory are read as the hardware's would
be. Nothing of Ringfold is asked, so that nothing of it is trusted.
"""

import json
import os
import re
import shlex
import socket
import tempfile
import time

from machine import Failure, Machine

# src/metal/metal_contract.h
DIRECT, SHARED, RING3_DELTA = 0xffff800000000000, 0xffff808000000000, 0x8000000000
IMAGE = 0xffffffff80000000
SHARED_BYTES = 0x40000000
FOUR_GIB = 1 << 32


class Registers:
    """The carrier's CPU at one moment."""

    def __init__(self, text):
        self.text = text

        def value(name):
            return int(re.search(rf"\b{name}\s*=\s*([0-9a-f]+)", text)[1], 16)

        def segment(name):
            found = re.search(rf"^{name} ?=([0-9a-f]{{4}}) ([0-9a-f]+) ([0-9a-f]{{8}}) ([0-9a-f]{{8}})",
                              text, re.M)
            return tuple(int(field, 16) for field in found.groups())

        self.rip = value("RIP") if "RIP" in text else value("EIP")
        self.cpl = int(re.search(r"CPL=(\d)", text)[1])
        self.halted = "HLT=1" in text
        self.cs = segment("CS")
        self.long_mode = bool(value("EFER") & 0x400)
        self.long_code = self.long_mode and bool(self.cs[3] & 1 << 21)
        self.cr0, self.cr3, self.cr4 = value("CR0"), value("CR3"), value("CR4")
        tables = {name: re.search(rf"^{name}= +([0-9a-f]+) ([0-9a-f]+)", text, re.M).groups()
                  for name in ("GDT", "IDT")}
        self.gdt, self.gdt_limit = (int(field, 16) for field in tables["GDT"])
        self.idt, self.idt_limit = (int(field, 16) for field in tables["IDT"])
        self.tr, self.ldt = segment("TR"), segment("LDT")


class Carrier(Machine):
    """A Machine under scripts/metal-run, with a QMP connection beside its console."""

    def __init__(self, metal_run, *options):
        self.directory = tempfile.TemporaryDirectory(prefix="ringfold-qmp-")
        path = os.path.join(self.directory.name, "qmp")
        super().__init__(metal_run[0], *metal_run[1:], "--carrier",
                         shlex.join(["-qmp", f"unix:{path},server=on,wait=off"]), *options)
        self.connection = None
        try:
            self.connection = self.connect(path)
            self.stream = self.connection.makefile("r")
            self.stream.readline()  # QEMU's greeting
            self.qmp("qmp_capabilities")
        except Failure:
            self.show()
            self.kill()
            raise

    def connect(self, path):
        end = time.monotonic() + 20
        while time.monotonic() < end and self.process.poll() is None:
            connection = socket.socket(socket.AF_UNIX)
            try:
                connection.connect(path)
                return connection
            except OSError:
                connection.close()
                time.sleep(0.05)
        self._pump(1)
        raise Failure("the carrier did not start")

    def qmp(self, name, **arguments):
        """One QMP command; events that come between are passed over."""
        self.connection.sendall(json.dumps({"execute": name, "arguments": arguments}).encode())
        while line := self.stream.readline():
            answer = json.loads(line)
            if "return" in answer:
                return answer["return"]
            if "error" in answer:
                raise Failure(f"the carrier refused {name}: {answer['error']['desc']}")
        raise Failure(f"the carrier ended at {name}")

    def ask(self, line):
        """A command of QEMU's human monitor."""
        return self.qmp("human-monitor-command", **{"command-line": line})

    def stop(self):
        self.qmp("stop")

    def go_on(self):
        self.qmp("cont")

    def registers(self):
        return Registers(self.ask("info registers"))

    def sample(self):
        """The registers at this moment; the machine is stopped for them and goes on."""
        self.stop()
        registers = self.registers()
        self.go_on()
        return registers

    def physical(self, address, count):
        """count 64-bit words of physical memory."""
        path = os.path.join(self.directory.name, "memory")
        self.qmp("pmemsave", val=address, size=8 * count, filename=path)
        with open(path, "rb") as file:
            data = file.read()
        return [int.from_bytes(data[at:at + 8], "little") for at in range(0, len(data), 8)]

    def kill(self):
        super().kill()
        if self.connection:
            self.connection.close()
        self.directory.cleanup()


class Page:
    """One mapping of a page-table tree, with the rights of all levels taken together. SDM volume 3,
    section 4.6.1 "Determination of Access Rights"."""

    def __init__(self, linear, physical, size, entry, user, writable, execute):
        self.linear, self.physical, self.bytes, self.entry = linear, physical, size, entry
        self.user, self.writable, self.execute = user, writable, execute

    def __str__(self):
        rights = "".join(letter if on else "-" for letter, on in
                         (("u", self.user), ("w", self.writable), ("x", self.execute)))
        return f"{self.linear:016x} -> {self.physical:x}, {self.bytes:x} bytes, {rights}"


ADDRESS = 0x000ffffffffff000


def walk(carrier, root):
    """Every page that the tree at this root maps, in the order of linear addresses. SDM volume 3,
    section 4.5 "4-Level Paging and 5-Level Paging"."""

    def level(table, shift, base, user, writable, execute):
        for index, entry in enumerate(carrier.physical(table & ADDRESS, 512)):
            if not entry & 1:
                continue
            linear = base + (index << shift)
            if linear & 1 << 47:
                linear |= 0xffff << 48
            rights = (user and bool(entry & 4), writable and bool(entry & 2),
                      execute and not entry >> 63)
            if shift == 12 or (entry & 0x80 and shift < 39):
                size = 1 << shift
                yield Page(linear, entry & ADDRESS & -size, size, entry, *rights)
            else:
                yield from level(entry, shift - 9, linear, *rights)

    yield from level(root, 39, 0, True, True, True)
