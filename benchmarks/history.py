"""Benchmarks tracked over commits: ``make bench-history`` times them and writes the page docs/history.md.

An entry is one file, ``benchmarks/history/<date>_<commit>.json``: seconds (median) of each benchmark of
tests/bench/test_benchmarks.py, and of a fixed work that uses none of our code.  Machines and hours differ, so the page
shows each benchmark in units of that work.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np

ROOT = Path(__file__).parent.parent
HISTORY, PAGE = ROOT / "benchmarks" / "history", ROOT / "docs" / "history.md"
PACKAGES = ("tensorflow", "keras", "uproot", "awkward", "numpy", "cramjam", "isal")
SHOWN = 8  # the latest entries; the files hold them all

Entry = Mapping[str, Any]


def calibrate(rounds: int = 7) -> float:
    """Seconds (median) of a fixed work: 8 MB of zlib unpacked, a million float64 sorted."""
    rng = np.random.default_rng(0)
    packed = zlib.compress(rng.integers(0, 16, 8_000_000, np.uint8).tobytes(), 1)
    numbers = rng.random(1_000_000)
    seconds = []
    for _ in range(rounds):
        start = perf_counter()
        zlib.decompress(packed)
        np.sort(numbers)
        seconds.append(perf_counter() - start)
    return median(seconds)


def time_all() -> dict[str, float]:
    """Name of a benchmark -> seconds (median), timed by pytest-benchmark."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "result.json"
        command = [
            sys.executable, "-m", "pytest", "-n", "0", "tests/bench/test_benchmarks.py",
            "--benchmark-enable", "--benchmark-only", f"--benchmark-json={out}",
        ]  # fmt: skip
        subprocess.run(command, cwd=ROOT, check=True)
        return medians(json.loads(out.read_text()))


def medians(result: Entry) -> dict[str, float]:
    """What counts of pytest-benchmark's JSON."""
    return {one["name"].removeprefix("test_"): one["stats"]["median"] for one in result["benchmarks"]}


def measure() -> dict[str, Any]:
    """One entry: the fixed work is timed before and after, so that a busy hour is seen by both."""
    before = calibrate()
    seconds = time_all()
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M"),
        "commit": _git("rev-parse", "--short=10", "HEAD"),
        "changed": bool(_git("status", "--porcelain", "--untracked-files=no")),
        "machine": {"cpu": _cpu(), "cores": len(os.sched_getaffinity(0)), "python": platform.python_version()},
        "versions": {package: version(package) for package in PACKAGES},
        "calibration": (before + calibrate()) / 2,
        "seconds": seconds,
    }


def page(entries: Sequence[Entry]) -> str:
    """The page: a row for each benchmark, a column for each of the latest entries."""
    shown = sorted(entries, key=lambda one: str(one["date"]))[-SHOWN:]
    names = list(dict.fromkeys(name for one in reversed(shown) for name in one["seconds"]))
    head = [f"{one['date'].split()[0]} `{one['commit']}`{'*' if one['changed'] else ''}" for one in shown]
    rows = [["benchmark", *head], ["---", *["--:"] * len(shown)]]
    rows += [[f"`{name}`", *_cells(name, shown)] for name in names]
    rows += [["calibration", *(f"{one['calibration'] * 1e3:.1f} ms" for one in shown)]]
    last = shown[-1]["machine"]
    return "\n".join(
        [
            _HEAD,
            *("| " + " | ".join(row) + " |" for row in rows),
            "",
            f"The last column: {last['cpu']}, {last['cores']} cores, Python {last['python']}, "
            + ", ".join(f"{package} {number}" for package, number in shown[-1]["versions"].items())
            + ".\n",
        ]
    )


_HEAD = """# History of the benchmarks

Written by `make bench-history` from `benchmarks/history/`; do not edit.  Each figure is the median time of a benchmark
of `tests/bench/test_benchmarks.py` in units of a fixed work that uses none of this package's code (the row
*calibration*), so columns of different machines can roughly be compared; in brackets the change against the column
before.  Less is better.  A star: the checkout had changes that are not in that commit.
"""


def _cells(name: str, shown: Sequence[Entry]) -> list[str]:
    """A benchmark's figures: in units of the calibration, and the change against the entry before."""
    ratios = [one["seconds"][name] / one["calibration"] if name in one["seconds"] else None for one in shown]
    cells = []
    for before, now in zip([None, *ratios], ratios, strict=False):
        text = "-" if now is None else f"{now:.3g}"
        cells.append(text if now is None or before is None else f"{text} ({now / before - 1:+.0%})")
    return cells


def _git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=ROOT, check=True, capture_output=True, text=True).stdout.strip()


def _cpu() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def load() -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted(HISTORY.glob("*.json"))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--page", action="store_true", help="write the page anew, without timing anything")
    if not parser.parse_args().page:
        entry = measure()
        HISTORY.mkdir(exist_ok=True)
        name = f"{entry['date'].split()[0]}_{entry['commit']}.json"
        (HISTORY / name).write_text(json.dumps(entry, indent=1) + "\n")
    PAGE.write_text(page(load()))
    print(f"-> {PAGE}")


if __name__ == "__main__":
    main()
