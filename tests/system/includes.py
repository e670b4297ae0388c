#!/usr/bin/env python3
"""Includes point one way, every header compiles on its own, and the layout has no stray folder.

usage: includes.py SOURCE-DIRECTORY C-COMPILER
"""

import pathlib
import re
import subprocess
import sys

source, compiler = pathlib.Path(sys.argv[1]), sys.argv[2]
src = source / "src"

# base <- mmu <- ringcomp <- bt <- trace <- monitor; isa stands beside mmu, interp beside bt; base <- devmodel <- monitor;
# study stands aside: it runs the program as a user would;
# metal is under all of them, but only for the files of the metal substrate, which are named for it
ALLOWED = {
    "base": set(),
    "metal": {"base"},
    "isa": {"base"},
    "mmu": {"base"},
    "devmodel": {"base"},
    "ringcomp": {"base", "mmu"},
    "interp": {"base", "isa", "mmu", "ringcomp"},
    "bt": {"base", "isa", "mmu", "ringcomp"},
    "trace": {"base", "isa", "mmu", "bt"},
    "monitor": {"base", "isa", "mmu", "devmodel", "ringcomp", "interp", "bt", "trace", "study"},
    "study": {"base"},
}
complaints = []


def check_include(path, line_number, name):
    module = path.parent.name
    folder, _, header = name.partition("/")
    where = f"{path.relative_to(source)}:{line_number}"
    if not header:
        complaints.append(f'{where}: "{name}" does not name its folder')
    elif folder not in ALLOWED:
        complaints.append(f'{where}: "{name}" is in no known folder')
    elif folder == "metal" and "_metal" in path.name:
        pass
    elif folder != module and folder not in ALLOWED[module]:
        complaints.append(f'{where}: {module} must not include "{name}"')
    elif folder != module and re.search(r"_internal\.h$|^vm\.h$|^load\.h$", header):
        complaints.append(f'{where}: "{name}" is internal to {folder}')
    if not (src / name).exists():
        complaints.append(f'{where}: "{name}" does not exist')


files = sorted(p for p in src.rglob("*") if p.suffix in (".c", ".h", ".S"))
for path in files:
    if path.parent.name not in ALLOWED or path.parent.parent != src:
        complaints.append(f"{path.relative_to(source)}: not in one of the known folders")
        continue
    for number, line in enumerate(path.read_text().splitlines(), 1):
        match = re.match(r'\s*#\s*include\s*"([^"]+)"', line)
        if match:
            check_include(path, number, match.group(1))

for header in (p for p in files if p.suffix == ".h"):
    run = subprocess.run(
        [compiler, "-std=c11", "-D_GNU_SOURCE", '-DRINGFOLD_VERSION="0"', "-Wall", "-Wextra", "-Werror",
         "-Wno-unused-function", "-fsyntax-only", f"-I{src}", "-x", "c", "-include", str(header), "/dev/null"],
        capture_output=True, text=True)
    if run.returncode:
        complaints.append(f"{header.relative_to(source)} does not compile on its own:\n{run.stderr}")

print("\n".join(complaints) or f"{len(files)} files checked")
sys.exit(1 if complaints else 0)
