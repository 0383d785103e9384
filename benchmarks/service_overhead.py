"""How long after ``POST /v1/data`` a new version answers, beside what its training takes alone.

The service trains on some of the demo's files, and again when the others come: a first version, and one that is held
against it.  Then the same trainings run as the service started them, but for the registry and the champion.

    python benchmarks/service_overhead.py
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from service_demo import services

DATA = (Path(__file__).parent / "data" / "tth").resolve()
TRAIN = ["--tree", "events", "--label", "*signal*=1", "--label", "*=0", "--exclude", "isSignal", "--epochs", "5"]
TRAIN += ["--batch-size", "100", "--seed", "1"]
CONFIG = f'port = {{port}}\nserver = "{{server}}"\n[project.demo]\nsettle = 0\nhold_out = 0.2\ntrain = {TRAIN}\n'


def alone(files: list[str], out: Path) -> float:
    """Seconds of a training as a command of its own."""
    command = [sys.executable, "-m", "mlaas4hep_tf.cli", "train", *files, *TRAIN, "--hold-out", "0.2"]
    start = time.monotonic()
    subprocess.run([*command, "--out", str(out), "--checkpoint-every", "10s"], check=True, stdout=subprocess.DEVNULL)
    return time.monotonic() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args()
    files = sorted(map(str, DATA.glob("*.root")))
    periods = [[one for one in files if one not in files[:2]], files[:2]]
    with tempfile.TemporaryDirectory() as folder:
        took = []
        with services(Path(folder) / "service", config=CONFIG) as both:
            for number, period in enumerate(periods, 1):
                start = time.monotonic()
                both.client.announce("demo", period)
                job = both.client.wait("demo", number)
                took.append(time.monotonic() - start)
                print(f"{took[-1]:.1f} s until version {job['version']} is {job['state']}: {job['reason']}")
        for number, known in enumerate((periods[0], files)):
            own = alone(known, Path(folder) / str(number))
            print(f"training {number + 1} alone: {own:.1f} s; overhead {took[number] - own:.1f} s")


if __name__ == "__main__":
    main()
