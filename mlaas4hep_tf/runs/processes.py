"""Which process of several that train one model together this is: as it is told, or as Slurm, MPI and TF_CONFIG say."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass

from mlaas4hep_tf.errors import ConfigError

FROM_ENVIRONMENT = "env"
STEP_TIMEOUT_S = 600.0
_PORTS = 20_000, 20_000  # first of those that Slurm's jobs get, and how many
_MPI = (("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"), ("PMI_RANK", "PMI_SIZE"))


@dataclass(frozen=True)
class Processes:
    """A process of `count` that train one model together.

    Attributes:
        count: how many there are.
        index: which one this is, from 0; the first alone writes.
        coordinator: ``HOST:PORT`` at which the first listens.
        step_timeout_s: seconds without a step after which a process ends itself, as another one may be gone.

    Raises:
        ConfigError: an index that is none, no address, or a time that is not positive.
    """

    count: int = 1
    index: int = 0
    coordinator: str = ""
    step_timeout_s: float = STEP_TIMEOUT_S

    def __post_init__(self) -> None:
        if not 0 <= self.index < self.count:
            raise ConfigError(
                f"of {self.count} processes each has a number from 0 to {self.count - 1}, not {self.index}"
            )
        if self.count > 1 and not re.fullmatch(r".+:\d+", self.coordinator):
            raise ConfigError(f"processes meet at HOST:PORT of the first of them, not at {self.coordinator!r}")
        if not self.step_timeout_s > 0:
            raise ConfigError(f"a step may take more than 0 seconds, not {self.step_timeout_s:g}")

    @property
    def writes(self) -> bool:
        return self.index == 0


ALONE = Processes()


def this_process(
    count: int | None, index: int | None, coordinator: str, step_timeout_s: float, environment: Mapping[str, str]
) -> Processes:
    """The process that this is; what is not given is taken from the environment.

    Args:
        coordinator: ``HOST:PORT``, or ``env`` where Slurm or TF_CONFIG know the first host.

    Raises:
        ConfigError: neither says how many processes there are, which this is, or where they meet.
    """
    address, known_count, known_index = _told(environment)
    count = known_count if count is None else count
    index = known_index if index is None else index
    if coordinator == FROM_ENVIRONMENT:
        coordinator = address or ""
    if count is None or index is None or not coordinator:
        raise ConfigError(
            "neither options nor Slurm, MPI or TF_CONFIG say which process of how many this is, and where they meet: "
            "give --processes N --process-id I --coordinator HOST:PORT"
        )
    return Processes(count, index, coordinator, step_timeout_s)


def _told(environment: Mapping[str, str]) -> tuple[str | None, int | None, int | None]:
    """Address, number of processes and which this is, as far as the environment tells."""
    if "TF_CONFIG" in environment:
        return _by_tf_config(environment["TF_CONFIG"])
    if "SLURM_PROCID" in environment and "SLURM_NTASKS" in environment:
        nodes = environment.get("SLURM_STEP_NODELIST") or environment.get("SLURM_JOB_NODELIST", "")
        port = _PORTS[0] + int(environment.get("SLURM_JOB_ID", "0")) % _PORTS[1]
        address = f"{first_node(nodes)}:{port}" if nodes else None
        return address, int(environment["SLURM_NTASKS"]), int(environment["SLURM_PROCID"])
    for rank, size in _MPI:
        if rank in environment and size in environment:
            return None, int(environment[size]), int(environment[rank])
    return None, None, None


def _by_tf_config(text: str) -> tuple[str, int, int]:
    try:
        config = json.loads(text)
        workers = config["cluster"]["worker"]
        return workers[0], len(workers), int(config["task"]["index"])
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise ConfigError(
            f"TF_CONFIG names the workers of a cluster and the index of this one, and not: {text}"
        ) from error


def first_node(nodes: str) -> str:
    """The first host of a list as Slurm writes it, such as ``node[003-005,9],login1``."""
    found = re.match(r"([^\[,]*)(?:\[(\w+)[^\]]*\]([^,]*))?", nodes)
    return "".join(part or "" for part in found.groups()) if found else nodes
