"""Executors of clusters: Dask and MPI, as the shell names them."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Executor
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from mlaas4hep_tf.errors import ConfigError, need

_LOCAL = "local:"


def of_dask(client: Any) -> Executor:
    """The executor of a ``dask.distributed.Client``, which knows how many pieces of work its cluster does at a time.

    Arrays come straight from the workers where the client was made with ``direct_to_workers=True``, else by way of
    the scheduler.
    """
    executor: Executor = client.get_executor(pure=False)
    vars(executor)["num_workers"] = sum(client.nthreads().values())  # as mpi4py's has it
    return executor


def as_executor(given: Any) -> Executor | None:
    """An executor as it is, a Dask client's in its place.

    Raises:
        ConfigError: neither of the two.
    """
    if given is None or isinstance(given, Executor):
        return given
    if hasattr(given, "get_executor") and hasattr(given, "nthreads"):
        return of_dask(given)
    raise ConfigError(f"executor= is a concurrent.futures.Executor or a dask.distributed.Client, not {given!r}")


@contextmanager
def on_dask(address: str) -> Iterator[Executor]:
    """The executor of the cluster whose scheduler listens there, or of ``local:N`` processes made for this.

    Raises:
        MissingExtra: distributed is not installed.
        ConfigError: nobody listens there, or ``local:`` without a number.
    """
    need("dask", "distributed", purpose="clusters of Dask")
    from distributed import Client, LocalCluster

    if not address.startswith(_LOCAL):
        try:
            client = Client(address, direct_to_workers=True, set_as_default=False)
        except (OSError, ValueError) as error:
            raise ConfigError(f"no scheduler of Dask answers at {address}: {error}; see its log for the address") from (
                error
            )
        with client:
            yield of_dask(client)
        return
    workers = address.removeprefix(_LOCAL)
    if not workers.isdecimal() or not int(workers):
        raise ConfigError(f"--dask is the address of a scheduler, or local:N for N processes here, not {address!r}")
    cluster = LocalCluster(
        n_workers=int(workers), threads_per_worker=1, host="127.0.0.1", dashboard_address="127.0.0.1:0", silence_logs=50
    )
    with cluster, Client(cluster, direct_to_workers=True, set_as_default=False) as client:
        yield of_dask(client)


def on_mpi() -> AbstractContextManager[Executor | None]:
    """The executor of all processes that ``mpiexec`` started, in the first of them.

    In the others it is None, behind all the work that they were given.

    Raises:
        MissingExtra: mpi4py is not installed.
        ConfigError: there is no other process.
    """
    need("mpi", "mpi4py", purpose="executors of MPI")
    from mpi4py import MPI
    from mpi4py.futures import MPICommExecutor

    if MPI.COMM_WORLD.Get_size() < 2:
        raise ConfigError(
            "--mpi needs more than one process, of which the first gives the others work: mpiexec -n 9 ..."
        )
    executor: AbstractContextManager[Executor | None] = MPICommExecutor(MPI.COMM_WORLD, root=0)
    return executor
