#!/usr/bin/env python3
"""Boots Debian's unmodified i386 kernels and checks what the guest prints.

usage: debian.py CASE MONITOR GUEST-DIRECTORY PROBE SOURCE-DIRECTORY
CASE is the name of one of the functions at the end. MONITOR may hold several words: scripts/metal-run
and its options. Without a fetched guest every case is skipped.
"""

import functools
import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile

from machine import Machine, check, run_case, skip

FIRST_LINE = "ringfold-init: first line"
PROBES = ["checksum over 64 MiB", "200 fork+execs", "100 signals", "50 protection faults",
          "4 threads", "system calls", "sleep", "500 pipe round trips", "copy on write",
          "floating point", "1000 rewrites of a function"]

case_name, monitor, guest, probe, source = sys.argv[1:6]
monitor = shlex.split(monitor)
machines = []


def boot(*options, flavour="686", memory=256, append="", initrd=None):
    if not initrd:
        initrd = make_initrd()
    machine = Machine(
        *monitor, "-kernel", f"{guest}/vmlinuz-{flavour}", "-initrd", initrd, "-m", str(memory),
        "-append", f"console=ttyS0 quiet panic=-1 {append}", "-nographic", *options)
    machines.append(machine)
    return machine


@functools.lru_cache
def make_initrd():
    """One initramfs of this run, with the probe in it."""
    path = f"{scratch.name}/initrd.img"
    subprocess.run([f"{source}/scripts/make-initramfs", "-b", f"{guest}/busybox", "-o", path,
                    f"{probe}:/bin/probe"], check=True)
    return path


def version(flavour):
    """The release that the kernel must report, from the package's name."""
    with open(f"{guest}/version-{flavour}") as f:
        return re.match(r"linux-image-(\S+)", f.read()).group(1)


def end(machine, seconds=60):
    status = machine.wait(seconds)
    check(status == 0, f"exit status {status}, expected 0")


def healthy(machine):
    """The kernel's own checks of itself, among them the test vectors of its ciphers."""
    for text in ("BUG:", "WARNING:", "Oops", "Call Trace", "test failed", "segfault", "unable to handle"):
        check(text not in machine.out, f"the kernel complained: {text}")


def check_probe(machine):
    for name in PROBES:
        check(f"probe: {name} ok" in machine.out, f"the probe `{name}' did not succeed")
    check("probe: 0 failures" in machine.out, "the probe failed")
    healthy(machine)


def run_probe(*options, seconds=120, **settings):
    machine = boot("-no-reboot", *options, append="rf.run=/bin/probe", **settings)
    end(machine, seconds)
    check_probe(machine)
    check("ringfold-init: status 0" in machine.out, "the probe's status is not 0")


def shell_session(flavour, *options, more="", seconds=120, **settings):
    """A person's session at the shell, with everything typed before the machine has booted."""
    machine = boot("-no-reboot", *options, flavour=flavour, **settings)
    machine.type("uname -r\ncat /proc/cpuinfo\necho $((6 * 7)) > /tmp/x; cat /tmp/x\n"
                 f"{more}dmesg | grep -c 'Call.Trace'\npoweroff -f\n")
    machine.expect("Power down", seconds)
    end(machine)
    healthy(machine)
    check(version(flavour) in machine.out, f"uname does not say {version(flavour)}")
    check(re.search(r"^42\r?$", machine.out, re.M), "the shell does not multiply")
    check(re.search(r"^0\r?$", machine.out, re.M), "the kernel's log has a call trace")
    flags = re.search(r"^flags\s*: (.*)$", machine.out, re.M)
    check(flags, "/proc/cpuinfo shows no flags")
    for flag in "fpu tsc msr pse pge cx8 sep cmov mmx fxsr sse sse2".split():
        check(flag in flags.group(1).split(), f"/proc/cpuinfo lacks {flag}")
    bugs = re.search(r"^bugs\s*:(.*)$", machine.out, re.M)
    check(bugs and not {"cpu_meltdown", "spectre_v1", "l1tf", "mds"} & set(bugs.group(1).split()),
          "/proc/cpuinfo lists speculation bugs")
    return machine


def shell():
    shell_session("686")


def shell_pae():
    shell_session("686-pae")


def interrupts(kernel_options, *options, flavour="686", poweroff="poweroff -f"):
    """What /proc/interrupts says after a second: {name: (count, kind)}."""
    machine = boot("-no-reboot", *options, append=kernel_options, flavour=flavour)
    machine.type(f"sleep 1; cat /proc/interrupts; dmesg | grep -c 'Call.Trace'; {poweroff}\n")
    end(machine, 120)
    healthy(machine)
    check(re.search(r"^0\r?$", machine.out, re.M), "the kernel's log has a call trace")
    rows = {}
    for name, count, kind in re.findall(r"^ *(\w+): +(\d+) *(.*?)\r?$", machine.out, re.M):
        rows[name] = (int(count), kind)
    check("4" in rows and rows["4"][0] > 0, "/proc/interrupts shows no serial line")
    for name in "ERR", "MIS", "SPU":
        check(rows[name][0] == 0, f"/proc/interrupts counts {name}")
    return rows


def is_ioapic(rows):
    """The I/O APIC delivers lines, the local APIC is the timer."""
    check(all(kind.startswith("IO-APIC") for name, (_, kind) in rows.items()
              if name.isdigit() and name not in ("0", "2")), "lines do not come by the I/O APIC")
    check(rows["LOC"][0] > 50, "the local APIC's timer does not tick")


def is_pic(rows, local_timer):
    check(rows["4"][1].startswith("XT-PIC"), "lines do not come by the 8259s")
    check((rows["LOC"][0] > 50) == local_timer, "LOC counts wrong")
    check(("0" in rows and rows["0"][0] > 50) != local_timer, "the 8254's count is wrong")


def apic():
    is_ioapic(interrupts(""))


def apic_pae():
    is_ioapic(interrupts("", flavour="686-pae"))


def apic_timer():
    """The timer by its count instead of the TSC, calibrated against other clocks by a CPU without leaf 15h."""
    is_ioapic(interrupts("lapic=notscdeadline"))
    is_ioapic(interrupts("", "-cpu", "core2"))


def noapic():
    is_pic(interrupts("noapic"), local_timer=True)


def nolapic():
    is_pic(interrupts("nolapic"), local_timer=False)


def acpi_off():
    """The MP table says it all; nothing but a reset ends such a machine."""
    is_ioapic(interrupts("acpi=off", poweroff="reboot -f"))
    is_pic(interrupts("acpi=off noapic", poweroff="reboot -f"), local_timer=True)


def cpu_without_apic():
    is_pic(interrupts("", "-cpu", "default,-apic"), local_timer=False)


def cpu_session(model, has, lacks, flavour="686"):
    """What the kernel makes of another CPU: its features, and no complaint about them."""
    machine = boot("-no-reboot", "-cpu", model, flavour=flavour)
    machine.type("cat /proc/cpuinfo\ndmesg > /tmp/log\n"
                 "grep -iE 'mtrr:|x86.PAT|machine.check|unchecked.MSR|Firmware.Bug' /tmp/log\n"
                 "/bin/probe\npoweroff -f\n")
    machine.expect("Power down", 180)
    end(machine)
    check_probe(machine)
    flags = re.search(r"^flags\s*: (.*)$", machine.out, re.M)[1].split()
    for flag in "fpu vme de pse tsc msr pae mce cx8 apic sep mtrr pge mca cmov".split() + has.split():
        check(flag in flags, f"/proc/cpuinfo lacks {flag}")
    for flag in lacks.split():
        check(flag not in flags, f"/proc/cpuinfo shows {flag}")
    for text in ("inconsistent", "corrected your configuration", "unchecked MSR", "Firmware Bug", "illegal"):
        check(text not in machine.out, f"the kernel complained: {text}")
    return machine


def cpu_pentium3():
    machine = cpu_session("pentium3", "mmx fxsr sse", "sse2 pni nx rdtscp rdrand clflush")
    check("Pentium III (Katmai)" in machine.out, "the model has no name")


def core2(flavour):
    machine = cpu_session("core2", "pat pse36 clflush sse2 pni ssse3 nx", "sse4_1 rdtscp rdrand", flavour)
    check("Core(TM)2 Duo" in machine.out, "the model has no name")
    check("x86/PAT: Configuration [0-7]: WB  WC  UC- UC  WB  WP  UC- WT" in machine.out, "no PAT")
    check(re.search(r"^cache size\s*: 4096 KB", machine.out, re.M), "the cache has another size")


def cpu_core2():
    core2("686")


def cpu_core2_pae():
    """The kernel isolates its page tables from this one's applications (PTI)."""
    core2("686-pae")


def cpu_max():
    cpu_session("max", "sse4_1 sse4_2 movbe popcnt rdtscp rdrand rdseed adx clflushopt", "syscall lm avx")


def cpu_max_pae():
    cpu_session("max", "sse4_1 sse4_2 movbe popcnt rdtscp rdrand rdseed adx nx", "syscall lm avx", "686-pae")


def cpu_486():
    """The kernel needs a newer CPU, and its own set-up code, which the firmware runs, says so."""
    rom = "/usr/share/qemu/qboot.rom"
    if not os.path.exists(rom):
        skip(f"no {rom}")
    machine = boot("-bios", rom, "-cpu", "486", append="earlyprintk=serial,ttyS0,115200")
    # Each character comes twice: by the serial port and by the firmware's console.
    machine.expect("".join(2 * c for c in "Unable to boot"), 60)
    check("ii448866" in machine.out, "it does not say why")


def guards(machine):
    """The kernel keeps itself from running and touching its applications' pages."""
    flags = re.search(r"^flags\s*: (.*)$", machine.out, re.M).group(1).split()
    check({"smep", "smap"} <= set(flags), "/proc/cpuinfo lacks smep or smap")
    check_probe(machine)


def smap():
    """Under both kernels, and the emulator's own rights check to the first line of init."""
    for flavour in "686", "686-pae":
        guards(shell_session(flavour, "-cpu", "default,+smep,+smap", "-verify", more="/bin/probe\n"))
    machine = boot("-no-reboot", "-accel", "interp", "-cpu", "default,+smep,+smap")
    machine.expect(FIRST_LINE, 300)


def probe_256():
    run_probe()


def probe_64():
    run_probe(memory=64)


def probe_1024():
    run_probe(memory=1024)


def probe_pae():
    run_probe(flavour="686-pae")


def probe_pae_1024():
    run_probe(flavour="686-pae", memory=1024)


def probe_verify():
    """Every unit that is emitted passes the second opinion of Capstone."""
    run_probe("-verify", seconds=300)


def probe_small_cache():
    """A translation cache that is full again and again."""
    run_probe("-cache", "1M", seconds=300)


def probe_plain():
    """Every mechanism that only speeds things up is off."""
    run_probe("-no-chain", "-no-retstack", "-no-icache", "-no-adapt", "-no-foresight",
              "-no-selfcheck", seconds=300)


def lockstep():
    """Every unit up to the first line of init, in both engines."""
    machine = boot("-no-reboot", "-lockstep")
    machine.expect(FIRST_LINE, 600)
    machine.signal(signal.SIGTERM)
    machine.wait(20)
    check("differ" not in machine.err, "the engines differ")


def interp():
    """The reference interpreter alone, to the first line of init."""
    machine = boot("-no-reboot", "-accel", "interp")
    machine.expect(FIRST_LINE, 300)


def reboot():
    """Without -no-reboot the machine starts again."""
    machine = boot()
    machine.expect("# ", 120)
    machine.type("reboot -f\n")
    machine.expect(FIRST_LINE, 120, times=2)
    machine.expect("# ", 120)
    machine.type("poweroff -f\n")
    end(machine)


def no_reboot():
    machine = boot("-no-reboot")
    machine.type("reboot -f\n")
    machine.expect(FIRST_LINE, 120)
    end(machine)


def idle():
    """A guest that sleeps costs the host next to nothing."""
    machine = boot("-no-reboot")
    machine.type("echo re''ady; sleep 6; poweroff -f\n")
    machine.expect("ready", 120)
    machine._pump(1)
    before = machine.cpu_seconds()
    for _ in range(4):
        machine._pump(1)
    spent = machine.cpu_seconds() - before
    end(machine)
    check(spent < 1.0, f"an idle guest used {spent:.2f} s of CPU time in about 4 s")
    print(f"idle: {spent:.2f} s of CPU time")


def sigterm():
    machine = boot()
    machine.expect("# ", 120)
    machine.signal(signal.SIGTERM)
    machine.wait(10)
    check("terminating on signal 15" in machine.err, "no `terminating on signal 15'")


def console_keys():
    """Ctrl-A h lists the keys, Ctrl-A c opens the console, Ctrl-A x ends the machine."""
    machine = boot()
    machine.expect("# ", 120)
    machine.type("\x01h")
    machine.expect("C-a x", 10)
    machine.type("\x01cinfo registers\n")
    machine.expect("EIP=", 10)
    machine.type("info stats\n\x01c\n\x01x")
    machine.wait(10)


def serial_file():
    path = f"{scratch.name}/serial"
    machine = Machine(*monitor, "-kernel", f"{guest}/vmlinuz-686", "-initrd", make_initrd(), "-m", "128M",
                      "-append", "console=ttyS0 quiet rf.run=/bin/true", "--display", "none", "-serial",
                      f"file:{path}", "-no-reboot", "-nodefaults", "-smp", "1", "-cpu", "max")
    machines.append(machine)
    end(machine, 120)
    with open(path, errors="replace") as f:
        check("ringfold-init: status 0" in f.read(), "the serial line's file lacks the guest's output")


def bad_init():
    """A kernel panic ends the machine under -no-reboot instead of hanging it."""
    machine = boot("-no-reboot", append="rdinit=/nothing init=/nothing")
    machine.wait(120)
    check("Kernel panic" in machine.out, "no panic")


def firmware():
    """QEMU's minimal firmware starts at the reset vector and loads the kernel through fw_cfg."""
    rom = "/usr/share/qemu/qboot.rom"
    if not os.path.exists(rom):
        skip(f"no {rom}")
    machine = boot("-bios", rom, "-no-reboot")
    machine.type("uname -r\ngrep . /proc/cmdline\necho $((6 * 7))\nreboot -f\n")
    machine.expect("estarting system", 120)
    end(machine)
    check(FIRST_LINE in machine.out, "init did not start")
    check(version("686") in machine.out, "uname does not say what kernel it is")
    check("console=ttyS0 quiet panic=-1" in machine.out, "the command line did not arrive")
    check(re.search(r"^42\r?$", machine.out, re.M), "the shell does not multiply")


# The bootable image under an emulating carrier: few boots, each with many checks. -verify is on, for
# in ring 1 nothing but the form of translated code keeps it away from the monitor.

def metal():
    """A session at the shell with the probe in it, applications in ring 3 untranslated."""
    check_probe(shell_session("686", "-verify", "-direct", "on", more="/bin/probe\n", seconds=400))


def metal_translated():
    """Applications translated; the least memory; a shorter session."""
    forks = "for i in 1 2 3 4 5 6 7 8; do /bin/busybox true; done; echo fork''ed\n"
    machine = shell_session("686", "-verify", "-direct", "off", more=forks, seconds=400, memory=64)
    check("forked" in machine.out, "the shell could not start programs")


def metal_1024():
    """PAE, and as much memory as the hosted tests give."""
    machine = shell_session("686-pae", more="free -m\n", seconds=400, memory=1024)
    total = re.search(r"^Mem:\s+(\d+)", machine.out, re.M)
    check(total and int(total[1]) > 900, "free does not show 1 GiB")


def metal_smap():
    """The guest's SMAP, where one page table serves both rings."""
    guards(shell_session("686", "-cpu", "default,+smep,+smap", "-verify", "-direct", "on",
                         more="/bin/probe\n", seconds=400))


cases = {f.__name__: f for f in (
    shell, shell_pae, apic, apic_pae, apic_timer, noapic, nolapic, acpi_off, cpu_without_apic, cpu_pentium3,
    cpu_core2, cpu_core2_pae, cpu_max, cpu_max_pae, cpu_486,


    shell, shell_pae, smap, apic, apic_pae, apic_timer, noapic, nolapic, acpi_off, cpu_without_apic,
    probe_256, probe_64, probe_1024, probe_pae, probe_pae_1024, probe_verify,
    probe_small_cache, probe_plain, lockstep, interp, reboot, no_reboot, idle, sigterm, console_keys,
    serial_file, bad_init, firmware, metal, metal_translated, metal_1024, metal_smap)}

for name in ("vmlinuz-686", "vmlinuz-686-pae", "busybox"):
    if not os.path.exists(f"{guest}/{name}"):
        skip(f"no Debian guest in {guest} (scripts/fetch-guest fetches it)")
with tempfile.TemporaryDirectory(prefix="ringfold-test-") as directory:
    class scratch:
        name = directory
    sys.exit(run_case(cases[case_name], machines))
