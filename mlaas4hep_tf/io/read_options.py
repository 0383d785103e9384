"""How files are read: the one set of options that everything which reads them takes."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Executor
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from mlaas4hep_tf.errors import ConfigError, PlanError
from mlaas4hep_tf.io.cache import Cache, CacheFolder, as_cache
from mlaas4hep_tf.io.clusters import as_executor
from mlaas4hep_tf.io.policy import DEFAULT_POLICY, ReadPolicy

OnBadFile = Literal["raise", "skip"]


@dataclass(frozen=True, kw_only=True)
class ReadOptions:
    """How files are read, in every pass over them.

    Attributes:
        workers: reader processes; None: one per core.
        executor: where to read instead of local processes: any `Executor`, or a ``dask.distributed.Client``.
        policy: deadlines, retries and replicas.
        cache: folder (or `Cache`) that keeps bytes of remote files, and the packed events of all files if half of it
            holds them, for the next epoch and for other runs.
        on_bad_file: ``raise``, or ``skip`` to go on without the files and blocks that cannot be read.
        max_lost_fraction: share of the events, from 0 to 1, that ``skip`` may lose in an epoch; more is an error.

    Raises:
        PlanError: fewer than one worker.
        ConfigError: another word than raise or skip, a fraction outside [0, 1], or one that ``raise`` cannot use;
            a cache that is no folder; another executor.
    """

    workers: int | None = None
    executor: Executor | None = None
    policy: ReadPolicy = DEFAULT_POLICY
    cache: CacheFolder = None
    on_bad_file: OnBadFile = "raise"
    max_lost_fraction: float = 0.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "executor", as_executor(self.executor))
        object.__setattr__(self, "cache", as_cache(self.cache))  # a relative folder is one of the directory now
        if self.workers is not None and self.workers < 1:
            raise PlanError(f"workers must be at least 1, not {self.workers}")
        if self.on_bad_file not in get_args(OnBadFile):
            raise ConfigError(f"on_bad_file must be 'raise' or 'skip', not {self.on_bad_file!r}")
        if not 0 <= self.max_lost_fraction <= 1:  # NaN is not either
            raise ConfigError(f"max_lost_fraction must lie in 0 to 1, not {self.max_lost_fraction:g}")
        if self.on_bad_file == "raise" and self.max_lost_fraction:
            raise ConfigError("max_lost_fraction needs on_bad_file='skip': with 'raise' nothing may be lost")

    def to_json(self) -> dict[str, Any]:
        """All but the executor, which belongs to one process."""
        cache = as_cache(self.cache)
        return {
            "workers": self.workers, "policy": asdict(self.policy), "cache": asdict(cache) if cache else None,
            "on_bad_file": self.on_bad_file, "max_lost_fraction": self.max_lost_fraction,
        }  # fmt: skip

    @staticmethod
    def from_json(content: Mapping[str, Any]) -> ReadOptions:
        """What `to_json` wrote; of the cache the folder alone is enough, and what is missing has its default.

        Raises:
            TypeError: a key that is no option.
        """
        found = dict(content)
        if isinstance(cache := found.get("cache"), Mapping):
            found["cache"] = Cache(**cache)
        if "policy" in found:
            found["policy"] = ReadPolicy(**found["policy"])
        return ReadOptions(**found)


DEFAULT_READ = ReadOptions()
