"""What the service does, in steps: look for files, identify them, queue trainings, run them, judge, promote.

Each step finds out anew how things stand, in the tables and on disk, so that it can be cut off anywhere and done again.
"""

from __future__ import annotations

import csv
import glob
import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mlaas4hep_client.errors import ServingError

from mlaas4hep_tf.errors import MlaasError, RegistryError
from mlaas4hep_tf.io.remote import list_files
from mlaas4hep_tf.registry.files import uuid_of
from mlaas4hep_tf.registry.promotion import promote
from mlaas4hep_tf.registry.registry import CHAMPION, RUN, Registry
from mlaas4hep_tf.registry.targets import TOKEN, Target, target_of
from mlaas4hep_tf.service import drift, processes
from mlaas4hep_tf.service.config import Project, ServiceConfig
from mlaas4hep_tf.service.gate import decide
from mlaas4hep_tf.service.store import OPEN, Job, Store

log = logging.getLogger(__name__)
STEP_S = 0.5  # between two steps
REGISTERED, JUDGEMENT = "registered.json", "judgement.json"  # in a run folder, when it is done
_AGAIN_S = 10.0  # until a file that could not be opened is tried again
_COMMAND_S = 300  # that a command of a catalogue may take
_AT_ONCE = 100  # files that are opened in a step
_GRACE_S = 10.0  # from SIGTERM to SIGKILL
_DRIFT_S = 30.0  # between two looks at what the server is asked


class Engine:
    """The service without its front end.

    Attributes:
        config, store, registry, target: what it works on.
    """

    def __init__(self, config: ServiceConfig) -> None:
        self.config = config
        self.registry = Registry(config.place(config.registry))
        self.target: Target = target_of(config.place(config.served), config.server)
        self._state = Path(config.place(config.state))
        self.store = Store(self._state / "service.db")
        self._looked: dict[str, float] = {}
        self._asked: dict[str, float] = {}
        self._cancelling: dict[int, float] = {}
        self._tried: dict[int, float] = {}
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._forever, name="engine", daemon=True)

    def start(self) -> None:
        """Step from now on, in a thread."""
        self._thread.start()

    def stop(self) -> None:
        """No more steps; trainings go on, and are found again."""
        self._stopping.set()
        self._thread.join()

    def _forever(self) -> None:
        while not self._stopping.wait(STEP_S):
            try:
                self.step()
            except Exception:  # a step that fails must not end all later ones
                log.exception("a step of the service failed")

    def step(self) -> None:
        """Do what there is to do now."""
        for project in self.config.projects.values():
            self._look(project)
        self._identify()
        for project in self.config.projects.values():
            self.store.plan(project.name, time.time() - project.settle)
            self._drift(project)
        for job in reversed(self.store.jobs(states=OPEN)):
            if job.project in self.config.projects:
                self._work(job, self.config.projects[job.project])

    # data

    def _look(self, project: Project) -> None:
        now = time.monotonic()
        if now - self._looked.get(project.name, -1e9) < project.every:
            return
        self._looked[project.name] = now
        try:
            self.store.announce(project.name, ((url, None) for url in self._seen(project)))
        except (MlaasError, OSError, subprocess.SubprocessError) as error:
            log.warning("project %s: looking for files failed: %s", project.name, error)

    def _seen(self, project: Project) -> Iterator[str]:
        for pattern in project.watch:
            if "://" in pattern:
                yield from list_files(pattern)
            else:
                place = self.config.place(pattern)
                yield from sorted(glob.glob(os.path.join(place, "*.root") if os.path.isdir(place) else place))
        if project.command:
            told = subprocess.run(
                project.command, capture_output=True, text=True, timeout=_COMMAND_S, check=True, cwd=self.config.folder
            )
            yield from filter(None, map(str.strip, told.stdout.splitlines()))

    def _identify(self) -> None:
        now = time.monotonic()
        due = [one for one in self.store.unknown() if now - self._tried.get(one[0], -1e9) > _AGAIN_S]
        for number, _, url in due[:_AT_ONCE]:
            self._tried[number] = now
            try:
                self.store.identify(number, uuid_of(url))
            except MlaasError as error:  # not written to its end, or gone
                self.store.cannot_identify(number, str(error))

    def _drift(self, project: Project) -> None:
        """Queue a training where the served version is asked something else than it was trained on."""
        now, server = time.monotonic(), self.config.server
        if project.drift is None or server is None or now - self._asked.get(project.name, -1e9) < _DRIFT_S:
            return
        self._asked[project.name] = now
        served = self.target.traffic(project.name)
        if served is None:
            return
        try:
            rows = drift.counted(server, os.environ.get(TOKEN))
        except ServingError as error:
            log.warning("project %s: %s tells nothing of drift: %s", project.name, server, error)
            return
        why = drift.gone(rows, project.name, served.stable, project.drift)
        if why is not None:
            self.store.plan_once(project.name, "drift", why)

    # jobs

    def folder(self, number: int) -> Path:
        """Where a job lies: its files, log, run and the champion it is held against."""
        return self._state / "jobs" / str(number)

    def _work(self, job: Job, project: Project) -> None:
        folder = self.folder(job.id)
        running = processes.alive(folder)
        if job.cancel:
            self._cancel(job, folder)
        elif running:
            self._limit(job, project)
        elif (folder / RUN / REGISTERED).exists():
            self._finish(job, project)
        elif job.attempts > project.retries:
            self.store.ended(job.id, "failed", processes.last_line(folder))
        elif sum(processes.alive(self.folder(one.id)) for one in self.store.jobs(states=OPEN)) < self.config.jobs:
            self._start(job, project)

    def _cancel(self, job: Job, folder: Path) -> None:
        """End a training: what was launched for it may take its batch job back before it ends itself."""
        if processes.alive(folder):
            since = self._cancelling.setdefault(job.id, time.monotonic())
            processes.kill(folder, signal.SIGTERM if time.monotonic() - since < _GRACE_S else signal.SIGKILL)
        else:
            self._cancelling.pop(job.id, None)
            self.store.ended(job.id, "cancelled", "cancelled on demand")

    def _limit(self, job: Job, project: Project) -> None:
        """End a training that takes more than it may."""
        folder = self.folder(job.id)
        hours = (time.time() - (job.started or time.time())) / 3600
        memory = processes.memory_gb(folder) if project.memory_gb is not None else 0.0
        why = None
        if project.hours is not None and hours > project.hours:
            why = f"it took more than {project.hours:g} hours"
        elif project.memory_gb is not None and memory > project.memory_gb:
            why = f"it took {memory:.1f} GB of memory, and {project.memory_gb:g} GB are allowed"
        if why is not None:
            processes.kill(folder)
            self.store.ended(job.id, "failed", why)

    def _start(self, job: Job, project: Project) -> None:
        folder = self.folder(job.id)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "files.txt").write_text("\n".join(self.store.files(project.name, job.upto)) + "\n")
        champion = self._champion(project, folder)
        command = [
            sys.executable, "-m", "mlaas4hep_tf.cli", "train", "files.txt", *project.train,
            "--hold-out", project.held_out, "--out", RUN, "--resume", "--checkpoint-every", "10s",
            "--registry", self.registry.where, "--register", project.name, "--tag", f"job={job.id}",
        ]  # fmt: skip
        going_on = champion and project.start == "champion"
        command += ["--against", "champion"] if champion else []
        command += ["--continue-from", "champion"] if going_on else project.scan
        self.store.began(job.id)
        processes.start(folder, processes.launched(project.launch, command))

    def _champion(self, project: Project, folder: Path) -> bool:
        """Bring the champion's run beside the job, once; False where there is none."""
        place = folder / "champion"
        if place.exists() or (folder / RUN).exists():
            return place.exists()
        try:
            one = self.registry.version(project.name, CHAMPION)
        except RegistryError:  # the first training
            return False
        scratch = folder / f".champion.{os.getpid()}"
        found = self.registry.fetch(one.of.run, RUN, scratch)
        (found / "version").write_text(str(one.version))
        found.rename(place)
        scratch.rmdir()
        return True

    def _finish(self, job: Job, project: Project) -> None:
        folder = self.folder(job.id)
        version = json.loads((folder / RUN / REGISTERED).read_text())["version"]
        decision = decide(self.judgement(job.id), project.gate)
        if not decision.promote:
            self.registry.tag(project.name, version, {"gate": decision.reason})
            self.store.ended(job.id, "kept", decision.reason, version)
            return
        try:
            now = self.target.traffic(project.name)
            promote(
                self.registry, self.target, project.name, version, canary=project.canary if now is not None else None
            )
        except RegistryError as error:
            self.store.ended(job.id, "failed", f"version {version} is not served: {error}", version)
            return
        self.registry.tag(project.name, version, {"gate": decision.reason})
        self.store.ended(job.id, "promoted", decision.reason, version)

    def judgement(self, number: int) -> dict[str, Any]:
        """What came out when a job's model was held against the champion; without one ``champion`` is None."""
        folder = self.folder(number)
        path = folder / RUN / JUDGEMENT
        if not path.exists():
            return {"champion": None}
        return {"champion": int((folder / "champion" / "version").read_text()), **json.loads(path.read_text())}

    def curves(self, number: int) -> dict[str, list[float]]:
        """Loss or metric -> its value after each epoch so far."""
        path = self.folder(number) / RUN / "history.csv"
        if not path.exists():
            return {}
        found: dict[str, list[float]] = {}
        with path.open(newline="") as file:
            for row in csv.DictReader(file):
                for name, value in row.items():
                    if name != "epoch" and value:
                        found.setdefault(name, []).append(float(value))
        return found

    def log(self, number: int, most: int = 1 << 16) -> str:
        """The end of what a job printed."""
        path = self.folder(number) / processes.LOG
        if not path.exists():
            return ""
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - most))
            return file.read().decode("utf-8", "replace")
