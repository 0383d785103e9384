"""Where a registry lies: a folder with a database of its own, or what MLflow finds at a URI."""

from __future__ import annotations

import fcntl
import logging
import os
import sqlite3
from collections.abc import Collection, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from mlaas4hep_tf.errors import RegistryError

if TYPE_CHECKING:
    from mlflow import MlflowClient

_DATABASE = "mlflow.db"
_WAIT_S = 60  # for another writer


class Place:
    """A registry's place.

    Args:
        where: a folder, in which a database and artifacts are made; or a URI that MLflow takes: ``sqlite:///``,
            ``postgresql://``, ``http://`` of a tracking server.

    Attributes:
        uri: as MLflow takes it.
        artifacts: folder of the artifacts; None where MLflow knows.
    """

    def __init__(self, where: str) -> None:
        self._folder = None if "://" in where else Path(where).resolve()
        self.uri = where if self._folder is None else f"sqlite:///{self._folder / _DATABASE}?timeout={_WAIT_S}"
        self.artifacts = str(self._folder / "artifacts") if self._folder is not None else None
        if self._folder is not None:
            self._folder.mkdir(parents=True, exist_ok=True)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """One writer at a time: SQLite refuses a second one that has begun by reading."""
        if self._folder is None:
            yield
            return
        with (self._folder / ".lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def count_rows(self) -> None:
        """Let SQLite know how many rows there are, or a search by a metric compares each run with every other one."""
        if self._folder is not None:
            with closing(self._database(self._folder)) as database:
                database.execute("PRAGMA analysis_limit = 1000")
                database.execute("ANALYZE")
                database.commit()

    def aliases(self, names: Collection[str]) -> dict[str, dict[str, int]] | None:
        """Model -> alias -> version, from the database, as MLflow brings whole models; None where that is not ours."""
        if self._folder is None:
            return None
        found: dict[str, dict[str, int]] = {name: {} for name in names}
        with closing(self._database(self._folder)) as database:
            rows = database.execute("SELECT name, alias, version FROM registered_model_aliases")
            for name, alias, version in rows:
                if name in found:
                    found[name][alias] = int(version)
        return found

    @staticmethod
    def _database(folder: Path) -> sqlite3.Connection:
        return sqlite3.connect(folder / _DATABASE, timeout=_WAIT_S)


def client_of(uri: str) -> MlflowClient:
    """MLflow's client, quiet."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    from mlflow import MlflowClient

    logging.getLogger("mlflow").setLevel(logging.WARNING)  # its import sets it
    return MlflowClient(uri, registry_uri=uri)


@contextmanager
def told() -> Iterator[None]:
    """What MLflow refuses, as one line."""
    from mlflow.exceptions import MlflowException

    try:
        yield
    except MlflowException as error:
        raise RegistryError(f"the registry refuses: {' '.join(str(error).split())}") from error
