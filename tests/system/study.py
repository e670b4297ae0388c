#!/usr/bin/env python3
"""`ringfold study` fills every row under the engines that need nothing of the host, writes files that programs can
read, counts exits, and refuses bad options in one line. Nothing here depends on how fast the host is.

usage: study.py MONITOR NANOBENCHMARK-KERNEL
"""

import csv
import json
import os
import shutil
import subprocess
import sys
import tempfile
import xml.etree.ElementTree

monitor, kernel = sys.argv[1:3]
# Without the rows that wait for a timer: on a busy host noise may eat all batches of them.
ROWS = ("loop_user", "loop_kernel", "int80", "sysenter", "hidden_fault", "true_fault", "pt_write", "pt_write_invlpg",
        "kmap", "cli_sti", "context_switch", "in_port", "rdtsc", "call_ret", "call_indirect", "write_cr3", "iret",
        "div_zero", "pt_protect", "fork_page")
# What must leave translated code, so many times per operation, and what must not.
EXITS = {"loop_user": 0, "loop_kernel": 0, "int80": 2, "in_port": 1, "pt_write": 0, "rdtsc": 0, "call_ret": 0,
         "div_zero": 2}
complaints = []


def check(good, what):
    if not good:
        complaints.append(what)


def study(*options, cwd=None):
    return subprocess.run([monitor, "study", *options], stdin=subprocess.DEVNULL, capture_output=True, text=True,
                          timeout=240, cwd=cwd)


def fills_every_row(directory):
    engines = ["bt", "interp"] + (["tcg"] if shutil.which("qemu-system-i386") else [])
    out = os.path.join(directory, "results")
    run = study("--quick", "--engines", ",".join(["native", *engines]), "--rows", ",".join(ROWS), "--out", out)
    check(run.returncode == 0, f"status {run.returncode}: {run.stderr}")
    lines = {line.split()[0]: line.split("|")[0].split() for line in run.stdout.splitlines() if "|" in line}
    with open(os.path.join(out, "study.json")) as file:
        results = json.load(file)
    rows = {row["row"]: row for row in results["rows"]}
    check(set(rows) == set(ROWS), f"other rows: {sorted(set(rows) ^ set(ROWS))}")
    for name in ROWS:
        check(name in lines, f"{name} is not in the table")
        for engine in engines:
            cell = rows[name]["cells"].get(engine)
            check(cell and 0 < cell["min"] <= cell["median"] <= cell["max"], f"{name} under {engine}: {cell}")
    for name, times in EXITS.items():
        exits = rows[name]["cells"]["bt"].get("exits", -1)
        check(abs(exits - times) < 0.02, f"{name}: {exits} exits, expected {times}")
    faults = rows["div_zero"]["cells"]["bt"]["reasons"].get("bt.faults", 0)
    check(abs(faults - 1) < 0.02, f"div_zero: {faults} host faults, expected 1")
    check(rows["call_ret"]["published"]["software"] == 51 and rows["call_ret"]["bar"] == 51, "call_ret: no bar")
    check("native" in rows["loop_user"]["cells"] and "native" not in rows["in_port"]["cells"],
          "native has a row too few or too many")
    check(results["signal_round_trip"] > 0, "a signal costs nothing")
    with open(os.path.join(out, "study.csv")) as file:
        found = list(csv.DictReader(file))
    for name in ROWS:
        for engine in engines:
            medians = [line["median"] for line in found if (line["row"], line["engine"]) == (name, engine)]
            check(len(medians) == 1 and float(medians[0]) == rows[name]["cells"][engine]["median"],
                  f"{name} under {engine}: the two files differ")
    draws_a_chart(out, run.stdout)


def draws_a_chart(out, said):
    path = os.path.join(out, "study.svg")
    if not shutil.which("gnuplot"):
        check("no chart" in said and not os.path.exists(path), "no gnuplot, and nothing said about it")
        return
    check(xml.etree.ElementTree.parse(path).getroot().tag.endswith("svg"), "the chart is no SVG")


def draws_what_there_is(directory):
    """Rows of which nothing was published, and a study in which nothing ran."""
    for engine, row in (("bt", "cli_sti"), ("native", "cli_sti")):
        out = os.path.join(directory, engine)
        run = study("--quick", "--engines", engine, "--rows", row, "--out", out)
        check(run.returncode == 0, f"{engine}: status {run.returncode}: {run.stderr}")
        if engine == "bt":
            draws_a_chart(out, run.stdout)
        else:
            check("no chart: there are no cycles to draw" in run.stdout, f"nothing to draw: {run.stdout}")


def says_why_a_column_is_empty(directory):
    """With nothing in PATH there is neither QEMU nor gnuplot; the rest runs."""
    run = subprocess.run([monitor, "study", "--quick", "--engines", "interp,tcg", "--rows", "rdtsc", "--out", "alone"],
                         stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120, cwd=directory,
                         env={**os.environ, "PATH": directory})
    check(run.returncode == 0, f"without QEMU: status {run.returncode}: {run.stderr}")
    check("tcg: no qemu-system-i386 on this host" in run.stdout, f"without QEMU: {run.stdout}")
    check("no chart: gnuplot is not there" in run.stdout, f"without gnuplot: {run.stdout}")


def takes_mechanisms_away(directory):
    run = study("--quick", "--ablation", "--engines", "bt", "--rows", "loop_kernel,call_ret", "--out", directory)
    check(run.returncode == 0, f"--ablation: status {run.returncode}: {run.stderr}")
    with open(os.path.join(directory, "ablation.csv")) as file:
        found = {(line["row"], line["off"]): float(line["ratio"]) for line in csv.DictReader(file)}
    for off in ("no-chain", "no-retstack", "no-icache", "no-adapt", "no-foresight", "no-selfcheck", "no-light"):
        for row in ("loop_kernel", "call_ret"):
            check(found.get((row, off), 0) > 0, f"--ablation: no {row} with -{off}")


def counters_of(row, *options):
    run = subprocess.run([monitor, *options, "-kernel", kernel, "-m", "64", "-display", "none", "-serial", "null",
                          "-append", f"rounds=1 batches=2 total=1 rows={row}", "-stats", "json",
                          "-device", "isa-debug-exit,iobase=0xf4,iosize=0x4"],
                         stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)
    check(run.returncode == 33, f"{row} {options}: status {run.returncode}: {run.stderr[-300:]}")
    return json.loads(run.stderr)


def switches_reach_their_mechanisms():
    """By counters that the mechanism alone moves, with it and without."""
    for options, row, counter, expected in (
            ("-no-foresight", "hidden_fault_seq", "mmu.hidden_faults", lambda on, off: off > 8 * on),
            ("-no-foresight", "true_fault", "mmu.hidden_faults", lambda on, off: off > on + 1000),
            ("-no-selfcheck", "code_page_store", "bt.checked_units", lambda on, off: off == 0 < on),
            ("-no-light", "in_port", "callout.io", lambda on, off: off == 0 < on),
            # Pages that check themselves leave adaptation nothing to do here.
            ("-no-selfcheck -no-adapt", "code_page_store", "bt.faults", lambda on, off: off > on + 1000),
            ("-no-chain", "loop_kernel", "bt.chains", lambda on, off: off == 0 < on),
            ("-no-icache", "call_indirect", "callout.indirect", lambda on, off: off > on + 1000)):
        on, off = counters_of(row)[counter], counters_of(row, *options.split())[counter]
        check(expected(on, off), f"{options}: {row} has {counter} {on} with the mechanism, {off} without")


def refuses_bad_options(directory):
    for options, expected in (
            (["--rows", "call_ret,nothing"], "no row 'nothing'"),
            (["--engines", "bt,vax"], "no engine 'vax'"),
            (["--rows"], "an argument is missing after '--rows'"),
            (["--rows", ""], "no row ''"),
            (["--slow"], "no option '--slow'"),
            (["--ablation", "--engines", "tcg"], "--ablation is of bt and metal"),
            (["--out", "/proc/none", "--engines", "bt"], "/proc/none")):
        run = study(*options, cwd=directory)
        check(run.returncode == 1, f"{options}: status {run.returncode}")
        check(expected in run.stderr and len(run.stderr.splitlines()) == 1, f"{options}: said {run.stderr!r}")
    run = study("--help")
    check(run.returncode == 0 and "--ablation" in run.stdout and "call_indirect" in run.stdout, "--help")


with tempfile.TemporaryDirectory(prefix="ringfold-test-") as scratch:
    fills_every_row(scratch)
    draws_what_there_is(scratch)
    says_why_a_column_is_empty(scratch)
    takes_mechanisms_away(scratch)
    switches_reach_their_mechanisms()
    refuses_bad_options(scratch)
print("\n".join(complaints) or "passed")
sys.exit(bool(complaints))
