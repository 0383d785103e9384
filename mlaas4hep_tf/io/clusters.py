"""Executors of clusters: Dask and MPI, as the shell names them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import BrokenExecutor, CancelledError, Executor, Future
from contextlib import AbstractContextManager, contextmanager
from time import monotonic
from typing import Any, TypeVar

from mlaas4hep_tf.errors import ConfigError, ReaderError, need

R = TypeVar("R")

NOBODY_S = 10.0  # that a piece of work waits while its cluster has no worker
_LOOK_S = 2.0  # as often as a client asks for the number of workers
_LOCAL = "local:"


class DaskExecutor(Executor):
    """Has functions run by a ``dask.distributed.Client``; what its cluster loses is a BrokenExecutor, never a wait.

    The client's own executor leaves work waiting whose scheduler is gone, or whose workers are.  Arrays come straight
    from the workers where the client was made with ``direct_to_workers=True``, else by way of the scheduler.

    Attributes:
        num_workers: pieces of work that the cluster does at a time, as mpi4py's executor has it.
    """

    def __init__(self, client: Any) -> None:
        self._client = client
        self.num_workers = sum(client.nthreads().values())

    def submit(self, function: Callable[..., R], /, *args: Any, **kwargs: Any) -> Future[R]:
        """As of any executor.

        Raises:
            ReaderError: the client has ended, as it does when its scheduler is gone and does not come back.
        """
        if self._client.status == "closed":
            raise ReaderError("the scheduler of Dask is gone: see its log, start it again and go on")
        future = self._client.submit(function, *args, pure=False, **kwargs)
        return asyncio.run_coroutine_threadsafe(self._result(future), self._client.loop.asyncio_loop)

    async def _result(self, future: Any) -> Any:
        try:
            return await self._watched(future)
        except (asyncio.CancelledError, CancelledError) as error:
            if not future.cancelled():
                raise  # it is not waited for any more
            raise BrokenExecutor("the connection to the scheduler was lost") from error
        except Exception as error:
            if future.status == "error" and type(error).__module__.partition(".")[0] != "distributed":
                raise  # by the function
            raise BrokenExecutor(f"{type(error).__name__}: {error}") from error

    async def _watched(self, future: Any) -> Any:
        """The result of a piece of work, unless the cluster has no worker for long."""
        result, seen = asyncio.ensure_future(future), monotonic()
        try:
            while not (await asyncio.wait([result], timeout=_LOOK_S))[0]:
                known = self._client.scheduler_info()
                if known.get("n_workers", len(known["workers"])):
                    seen = monotonic()
                elif monotonic() - seen > NOBODY_S:
                    raise BrokenExecutor(f"the cluster has had no worker for {NOBODY_S:g} s")
            return result.result()
        finally:
            result.cancel()


def as_executor(given: Any) -> Executor | None:
    """An executor as it is, a Dask client's in its place.

    Raises:
        ConfigError: neither of the two.
    """
    if given is None or isinstance(given, Executor):
        return given
    if hasattr(given, "scheduler_info") and hasattr(given, "nthreads"):
        return DaskExecutor(given)
    raise ConfigError(f"executor= is a concurrent.futures.Executor or a dask.distributed.Client, not {given!r}")


@contextmanager
def on_dask(address: str) -> Iterator[Executor]:
    """The executor of the cluster whose scheduler listens there, or of ``local:N`` processes made for this.

    Raises:
        MissingExtra: distributed is not installed.
        ConfigError: nobody listens there, or ``local:`` without a number.
    """
    need("dask", "distributed", purpose="clusters of Dask")
    import dask
    from distributed import Client, LocalCluster

    if not address.startswith(_LOCAL):
        try:
            client = Client(address, direct_to_workers=True, set_as_default=False)
        except (OSError, ValueError) as error:
            raise ConfigError(f"no scheduler of Dask answers at {address}: {error}; see its log for the address") from (
                error
            )
        with client:
            yield DaskExecutor(client)
        return
    workers = address.removeprefix(_LOCAL)
    if not workers.isdecimal() or not int(workers):
        raise ConfigError(f"--dask is the address of a scheduler, or local:N for N processes here, not {address!r}")
    cluster = LocalCluster(
        n_workers=int(workers), threads_per_worker=1, host="127.0.0.1", dashboard_address="127.0.0.1:0", silence_logs=50
    )
    # else a worker that dies and takes long to start again is not awaited, and in the end there is none
    lasting = dask.config.set({"distributed.deploy.lost-worker-timeout": "1 day"})
    with lasting, cluster, Client(cluster, direct_to_workers=True, set_as_default=False) as client:
        yield DaskExecutor(client)


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
