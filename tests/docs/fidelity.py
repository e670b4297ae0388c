#!/usr/bin/env python3
"""docs/fidelity.md names tests that exist, and every guest test is named there.

usage: fidelity.py SOURCE-DIRECTORY BUILD-DIRECTORY
"""

import fnmatch
import pathlib
import re
import subprocess
import sys

source, build = pathlib.Path(sys.argv[1]), sys.argv[2]
complaints = []


def named_tests(document):
    """Patterns in the last column of each table row, with the row's first cell."""
    for line in document.read_text().splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if not line.startswith("|") or set(cells[0]) <= {"-"} or cells[-1] == "tests":
            continue
        patterns = re.findall(r"`([^`]+)`", cells[-1])
        if len(cells) != 3 or not all(cells) or not patterns:
            complaints.append(f"a row has other than three full columns: {line}")
        yield from ((pattern, cells[0]) for pattern in patterns)


def existing_tests():
    listing = subprocess.run(["ctest", "--test-dir", build, "-N"], check=True,
                             capture_output=True, text=True).stdout
    return re.findall(r"^\s*Test\s+#\d+: (\S+)$", listing, re.MULTILINE)


def expected_patterns():
    guest = source / "tests" / "guest"
    for path in sorted(guest.glob("test_*.c")):
        yield f"guest.*.{path.stem.removeprefix('test_')}"
    for path in sorted((guest / "rom").glob("test_*.S")):
        yield f"guest.rom.*.{path.stem.removeprefix('test_')}"


tests = existing_tests()
named = list(named_tests(source / "docs" / "fidelity.md"))
if not tests or not named:
    complaints.append("found no tests or no rows")
for pattern, mechanism in named:
    if not fnmatch.filter(tests, pattern):
        complaints.append(f"row `{mechanism}' names `{pattern}', which is no test")
patterns = {pattern for pattern, _ in named}
for pattern in expected_patterns():
    if pattern not in patterns:
        complaints.append(f"no row names {pattern}")
print("\n".join(complaints) if complaints else f"{len(patterns)} names, all tests")
sys.exit(bool(complaints))
