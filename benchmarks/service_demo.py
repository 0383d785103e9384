"""`make service-demo`: from an empty folder to a model that is trained, judged, served and trained again as data come.

Files of three periods are dropped into a folder that the service looks at: good ones twice, and then ones whose signal
and background are mistaken for each other.  Open the page that is printed at the end to see what became of them.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from mlaas4hep_tf.service.client import ServiceClient
from mlaas4hep_tf.testing import free_port, make_events, write_tree

CONFIG = """\
port = {port}
server = "{server}"

[project.demo]
watch = ["data/*.root"]
every = 0.5
settle = 1.5
train = ["--tree", "events", "--label", "*signal*=signal", "--label", "*background*=background", "--epochs", "{epochs}",
         "--exclude", "id", "--batch-size", "200", "--workers", "1", "--lr", "0.005"]

[project.demo.gate]
margin = 0.01
"""


def drop(folder: Path, period: str, events: int, *, mistaken: bool = False, seed: int = 0) -> None:
    """Files of one period: signal has larger ``x``; they appear whole."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, (name, shift) in enumerate((("signal", 1.0), ("background", -1.0))):
        branches = make_events(events, seed=seed + number)
        branches["x"] = (branches["x"] + (-shift if mistaken else shift)).astype(np.float32)
        write_tree(folder / f".{name}_{period}", branches).rename(folder / f"{name}_{period}.root")


@dataclass
class Services:
    """The server of the models and the service, on a folder.

    Attributes:
        service, server: their URLs.
        running: their processes, by name.
    """

    folder: Path
    service: str
    server: str
    running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def client(self) -> ServiceClient:
        """Asks the service."""
        return ServiceClient(self.service)

    def start(self, name: str) -> None:
        """Start ``server`` or ``service``, and wait until it answers."""
        programs = Path(sys.executable).parent
        commands = {
            "server": [
                programs / "mlaas4hep-serve", "--port=0", f"--rest_api_port={self.server.rpartition(':')[2]}",
                f"--publish_base_path={self.folder}/served",
            ],
            "service": [programs / "mlaas4hep-tf", "service", "--config", self.folder / "service.toml"],
        }  # fmt: skip
        with (self.folder / f"{name}.log").open("ab") as log:
            self.running[name] = subprocess.Popen(list(map(str, commands[name])), stdout=log, stderr=subprocess.STDOUT)
        wait_for({"server": f"{self.server}/healthz", "service": f"{self.service}/v1/jobs"}[name])

    def stop(self) -> None:
        """End both."""
        for process in self.running.values():
            process.terminate()
        for process in self.running.values():
            process.wait()


@contextmanager
def services(folder: Path, epochs: int = 3, config: str = CONFIG) -> Iterator[Services]:
    """Both on an empty folder, until the end of the block."""
    port, serving = free_port(), free_port()
    made = Services(folder, f"http://127.0.0.1:{port}", f"http://127.0.0.1:{serving}")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "service.toml").write_text(config.format(port=port, server=made.server, epochs=epochs))
    try:
        for name in ("server", "service"):
            made.start(name)
        yield made
    finally:
        made.stop()


def wait_for(url: str, seconds: float = 600) -> None:
    """Until something answers there."""
    end = time.monotonic() + seconds
    while True:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.2)


def answer(server: str) -> tuple[float, str]:
    """The score of an event that looks like signal, and the version that told it."""
    event = {"x": 1.0, "nJet": 2, "Jet_0": [0.5, 1.0], "Jet_1": [0.5, 1.0]}
    body = json.dumps({"instances": [event]}).encode()
    with urllib.request.urlopen(f"{server}/v1/models/demo:predict", body, timeout=30) as reply:
        score = json.load(reply)["predictions"][0]
        return float(np.ravel(score if not isinstance(score, dict) else score["score"])[0]), reply.headers[
            "X-Model-Version"
        ]


def main() -> None:
    """Show it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/service-demo"))
    parser.add_argument("--leave", action="store_true", help="end when it is done, rather than at Ctrl-C")
    arguments = parser.parse_args()
    folder: Path = arguments.out.resolve()
    shutil.rmtree(folder, ignore_errors=True)
    with services(folder) as both:
        client, service, server = both.client, both.service, both.server
        print(f"service {service}, server {server}")
        for number, (period, events, mistaken) in enumerate(
            (("2024", 2000, False), ("2025", 2000, False), ("2026_mistaken", 8000, True)), 1
        ):
            print(f"\nfiles of {period} are dropped into {folder}/data")
            drop(folder / "data", period, events, mistaken=mistaken, seed=10 * number)
            job = client.wait("demo", number)
            print(f"job {job['id']}: version {job['version']} is {job['state']}: {job['reason']}")
            score, version = answer(server)
            print(f"the server answers with version {version}: {score:.3f} for an event like signal")
        client.rollback("demo")
        print(f"\nrolled back: the server answers with version {answer(server)[1]}")
        print(f"look at {service}/ and {service}/jobs")
        while not arguments.leave:
            print("Ctrl-C ends it")
            time.sleep(3600)


if __name__ == "__main__":
    main()
