"""What the service must not forget: which files there are, and the trainings that came of them, in SQLite.

The queue is this table of jobs, and no queue of a library beside it (huey, persist-queue): a file is known and a job
waits for it in one transaction or not at all, and a job's state outlives whoever works on it.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

from mlaas4hep_tf.errors import RegistryError

State = Literal["queued", "running", "promoted", "kept", "failed", "cancelled"]
OPEN = ("queued", "running")
NEW_FILES = "new files"
_SCHEMA = """
CREATE TABLE IF NOT EXISTS announced (
  id INTEGER PRIMARY KEY, project TEXT NOT NULL, url TEXT NOT NULL, error TEXT, known INTEGER NOT NULL DEFAULT 0,
  UNIQUE (project, url));
CREATE TABLE IF NOT EXISTS file (
  id INTEGER PRIMARY KEY, project TEXT NOT NULL, uuid TEXT NOT NULL, url TEXT NOT NULL, since REAL NOT NULL,
  UNIQUE (project, uuid));
CREATE TABLE IF NOT EXISTS job (
  id INTEGER PRIMARY KEY, project TEXT NOT NULL, upto INTEGER NOT NULL, state TEXT NOT NULL, reason TEXT,
  created REAL NOT NULL, started REAL, ended REAL, attempts INTEGER NOT NULL DEFAULT 0, version INTEGER,
  cancel INTEGER NOT NULL DEFAULT 0, cause TEXT NOT NULL DEFAULT 'new files');
CREATE UNIQUE INDEX IF NOT EXISTS one_open_job ON job (project) WHERE state IN ('queued', 'running');
CREATE INDEX IF NOT EXISTS unknown ON announced (known) WHERE known = 0;
"""


@dataclass(frozen=True)
class Job:
    """A training.

    Attributes:
        upto: the last file of the project that it is trained on, by number.
        reason: why it is in this state, in a line.
        created, started, ended: seconds since 1970.
        attempts: how often its process was started.
        version: of the model that came out.
        cancel: it is to be ended.
        cause: why it was queued.
    """

    id: int
    project: str
    upto: int
    state: State
    reason: str | None
    created: float
    started: float | None
    ended: float | None
    attempts: int
    version: int | None
    cancel: bool
    cause: str = NEW_FILES


class Store:
    """The tables; each thread has a connection of its own."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path, self._local = path, threading.local()
        with self._write() as db:
            for statement in _SCHEMA.split(";\n"):
                db.execute(statement)

    def _db(self) -> sqlite3.Connection:
        if not hasattr(self._local, "db"):
            self._local.db = sqlite3.connect(self._path, timeout=60, isolation_level=None)
            self._local.db.execute("PRAGMA journal_mode = WAL")
        db: sqlite3.Connection = self._local.db
        return db

    @contextmanager
    def _write(self) -> Iterator[sqlite3.Connection]:
        """A transaction that has the lock from its beginning."""
        db = self._db()
        db.execute("BEGIN IMMEDIATE")
        try:
            yield db
        except BaseException:
            db.execute("ROLLBACK")
            raise
        db.execute("COMMIT")

    # files

    def announce(self, project: str, files: Iterable[tuple[str, str | None]]) -> int:
        """Take note of files, by URL and, where it is known, uuid; returns how many are new."""
        rows = list(files)
        with self._write() as db:
            before = db.total_changes
            db.executemany(
                "INSERT OR IGNORE INTO file (project, uuid, url, since) VALUES (?, ?, ?, ?)",
                [(project, uuid, url, time.time()) for url, uuid in rows if uuid is not None],
            )
            db.executemany(
                "INSERT OR IGNORE INTO announced (project, url) VALUES (?, ?)",
                [(project, url) for url, uuid in rows if uuid is None],
            )
            return db.total_changes - before

    def unknown(self, most: int = 1000) -> list[tuple[int, str, str]]:
        """Announced files whose uuid is not known yet: number, project, URL."""
        found = self._db().execute("SELECT id, project, url FROM announced WHERE known = 0 LIMIT ?", (most,))
        return list(found)

    def identify(self, number: int, uuid: str) -> None:
        """What an announced file turned out to be."""
        with self._write() as db:
            project, url = db.execute("SELECT project, url FROM announced WHERE id = ?", (number,)).fetchone()
            db.execute(
                "INSERT OR IGNORE INTO file (project, uuid, url, since) VALUES (?, ?, ?, ?)",
                (project, uuid, url, time.time()),
            )
            db.execute("UPDATE announced SET known = 1, error = NULL WHERE id = ?", (number,))

    def cannot_identify(self, number: int, why: str) -> None:
        """A file that cannot be opened, which is tried again."""
        with self._write() as db:
            db.execute("UPDATE announced SET error = ? WHERE id = ?", (why, number))

    def unreadable(self, project: str) -> list[tuple[str, str]]:
        """Announced files that could not be opened, and why."""
        rows = self._db().execute(
            "SELECT url, error FROM announced WHERE project = ? AND known = 0 AND error IS NOT NULL", (project,)
        )
        return list(rows)

    def files(self, project: str, upto: int | None = None) -> list[str]:
        """URLs of the files of a project, in the order in which they came."""
        last = upto if upto is not None else 1 << 62
        rows = self._db().execute("SELECT url FROM file WHERE project = ? AND id <= ? ORDER BY id", (project, last))
        return [url for (url,) in rows]

    # jobs

    def plan(self, project: str, settled: float) -> None:
        """Queue a job where there are files that none was made for, the last of which came before `settled`."""
        self._queue(
            "MAX(since) <= ?4 AND MAX(id) > (SELECT IFNULL(MAX(upto), 0) FROM job WHERE project = ?1)",
            project, NEW_FILES, settled,
        )  # fmt: skip

    def plan_again(self, project: str, cause: str) -> None:
        """Queue a job for all files, whether or not there was one for them."""
        self._queue("MAX(id) IS NOT NULL AND ?4", project, cause, 1)

    def plan_once(self, project: str, kind: str, cause: str) -> None:
        """Queue a job for all files, unless there was one for the same files whose cause begins with `kind`."""
        self._queue(
            "MAX(id) > (SELECT IFNULL(MAX(upto), 0) FROM job WHERE project = ?1 AND substr(cause, 1, length(?4)) = ?4)",
            project, cause, kind,
        )  # fmt: skip

    def _queue(self, condition: str, project: str, cause: str, given: object) -> None:
        with self._write() as db:
            db.execute(
                "INSERT OR IGNORE INTO job (project, upto, state, created, cause) "
                f"SELECT ?1, MAX(id), 'queued', ?2, ?3 FROM file WHERE project = ?1 HAVING {condition}",
                (project, time.time(), cause, given),
            )

    def jobs(self, project: str | None = None, states: tuple[str, ...] = (), most: int = 100) -> list[Job]:
        """Jobs, the newest first."""
        wanted, values = [], []
        if project is not None:
            wanted.append("project = ?")
            values.append(project)
        if states:
            wanted.append(f"state IN ({','.join('?' * len(states))})")
            values += states
        where = f"WHERE {' AND '.join(wanted)}" if wanted else ""
        return self._jobs(f"{where} ORDER BY id DESC LIMIT {most:d}", values)

    def _jobs(self, rest: str, values: Iterable[object]) -> list[Job]:
        names = [one.name for one in fields(Job)]
        rows = self._db().execute(f"SELECT {', '.join(names)} FROM job {rest}", tuple(values))
        found = (dict(zip(names, row, strict=True)) for row in rows)
        return [Job(**{**row, "cancel": bool(row["cancel"])}) for row in found]

    def job(self, number: int) -> Job:
        """One job.

        Raises:
            RegistryError: there is none of that number.
        """
        found = self._jobs("WHERE id = ?", (number,))
        if not found:
            raise RegistryError(f"there is no job {number}")
        return found[0]

    def began(self, number: int) -> None:
        """A process for it is about to be started."""
        with self._write() as db:
            db.execute(
                "UPDATE job SET state = 'running', started = IFNULL(started, ?), attempts = attempts + 1, "
                "reason = NULL WHERE id = ?",
                (time.time(), number),
            )

    def again(self, number: int, why: str) -> None:
        """It waits once more."""
        with self._write() as db:
            db.execute("UPDATE job SET state = 'queued', reason = ? WHERE id = ?", (why, number))

    def ended(self, number: int, state: State, reason: str, version: int | None = None) -> None:
        """It has come to its end."""
        with self._write() as db:
            db.execute(
                "UPDATE job SET state = ?, reason = ?, version = ?, ended = ? WHERE id = ?",
                (state, reason, version, time.time(), number),
            )

    def cancel(self, number: int) -> Job:
        """Ask for the end of a job.

        Raises:
            RegistryError: it has ended.
        """
        job = self.job(number)
        with self._write() as db:
            done = db.execute(
                "UPDATE job SET cancel = 1 WHERE id = ? AND state IN ('queued', 'running')", (number,)
            ).rowcount
        if not done:
            raise RegistryError(f"job {number} has ended already: {job.state}")
        return self.job(number)

    def retry(self, number: int) -> Job:
        """Let a job that failed or was cancelled go on.

        Raises:
            RegistryError: it is in another state, or another job of the project is under way.
        """
        job = self.job(number)
        if job.state not in ("failed", "cancelled"):
            raise RegistryError(f"job {number} is {job.state}: what failed or was cancelled is tried again")
        try:
            with self._write() as db:
                db.execute(
                    "UPDATE job SET state = 'queued', cancel = 0, attempts = 0, started = NULL, ended = NULL "
                    "WHERE id = ?",
                    (number,),
                )
        except sqlite3.IntegrityError as error:
            raise RegistryError(f"another job of project {job.project!r} is under way: wait for its end") from error
        return self.job(number)
