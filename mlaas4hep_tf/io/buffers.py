"""Memory that reader processes fill and the training process reads: anonymous, recycled, never a file.

A buffer is a ``memfd``: it has no name, so there is nothing in /dev/shm to leave behind, whoever is killed
and whenever; the kernel frees it with its last user.  The training process owns the buffers; a reader on
the same machine opens one through ``/proc/<pid>/fd/<fd>``, fills it and forgets it.  Arrays start at
multiples of 64 bytes, so that TensorFlow takes them without a copy; when TensorFlow has dropped the last
of them, the buffer goes back to the pool.
"""

from __future__ import annotations

import ctypes
import math
import mmap
import os
import resource
import sys
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

ALIGNMENT = 64
_NAME = "mlaas4hep"  # of every buffer; a reader writes to nothing of another name


@dataclass(frozen=True)
class BufferRef:
    """Where another process finds a buffer: file descriptor `fd` of process `pid`."""

    pid: int
    fd: int


class ArraySpec(NamedTuple):  # which is pickled in half of a dataclass's time
    """Shape and dtype of one array of a buffer."""

    shape: tuple[int, ...]
    dtype: str

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize


def keep_freed_memory() -> bool:
    """Let glibc's malloc keep what is freed instead of giving it back to the kernel each time.

    Batches, chunks and decoded baskets have some megabytes each.  By default glibc maps each anew, and zeroing its
    pages takes the kernel half of the CPU time of padding.  The process keeps its peak memory in return.

    Returns:
        Whether this C library knows the setting.
    """
    mallopt = _mallopt()
    if mallopt is None:
        return False
    m_trim_threshold, m_top_pad, m_mmap_threshold = -1, -2, -3  # names and numbers of malloc.h
    settings = {m_mmap_threshold: 32 << 20, m_trim_threshold: 1 << 30, m_top_pad: 64 << 20}
    return all(mallopt(name, value) for name, value in settings.items())


@cache
def _mallopt() -> Any:
    """The function of the C library, or None; to look for it takes longer than to call it."""
    try:
        return ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return None


@cache
def supported() -> bool:
    """Whether processes of this machine can share buffers so; if not, arrays are pickled."""
    return sys.platform == "linux" and hasattr(os, "memfd_create") and os.path.isdir("/proc/self/fd")


def offsets(specs: Sequence[ArraySpec]) -> list[int]:
    """Byte position of each array, and behind the last one the size of the whole."""
    positions = [0]
    for spec in specs:
        positions.append(-(-(positions[-1] + spec.nbytes) // ALIGNMENT) * ALIGNMENT)
    return positions


def views(
    root: npt.NDArray[np.uint8], specs: Sequence[ArraySpec], starts: Sequence[int]
) -> list[npt.NDArray[np.generic]]:
    """The arrays inside a buffer, without a copy; where they start (`offsets`) was worked out for its size."""
    return [np.ndarray(spec.shape, spec.dtype, root, start) for start, spec in zip(starts, specs, strict=False)]


def allocate(ref: BufferRef | None, specs: Sequence[ArraySpec]) -> list[npt.NDArray[np.generic]]:
    """Reader side: arrays to fill, in the shared buffer, or in private memory where there is none."""
    starts = offsets(specs)
    size = starts[-1]
    if ref is None or size == 0:
        return [np.empty(spec.shape, spec.dtype) for spec in specs]
    place = f"/proc/{ref.pid}/fd/{ref.fd}"
    if not os.readlink(place).startswith(f"/memfd:{_NAME}"):
        raise OSError(f"{place} is no buffer: it is {os.readlink(place)}")
    fd = os.open(place, os.O_RDWR)
    try:
        if os.fstat(fd).st_size < size:
            os.ftruncate(fd, size)
        return views(_mapped(fd, size, mmap.PROT_READ | mmap.PROT_WRITE), specs, starts)
    finally:
        os.close(fd)


def _mapped(fd: int, size: int, access: int) -> npt.NDArray[np.uint8]:
    """A whole buffer, mapped at once: page by page, at first touch, costs as much as filling it."""
    flags = mmap.MAP_SHARED | mmap.MAP_POPULATE
    return np.frombuffer(mmap.mmap(fd, size, flags=flags, prot=access), np.uint8)


def descriptors() -> int:
    """How many files this process may have open, buffers among them."""
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


class BufferPool:
    """Training side: lends buffers to readers and takes them back when their arrays are gone.

    Each takes a file descriptor; half of them, and fifty more, are left to others.
    """

    def __init__(self) -> None:
        self._free: list[int] = []
        self._memory: dict[int, npt.NDArray[np.uint8]] = {}  # by descriptor, mapped once for all that come to lie there
        self._left = max(0, descriptors() // 2 - 50)
        self._closer = weakref.finalize(self, _close_all, self._free)

    def lend(self) -> BufferRef | None:
        """A buffer, or None where there are as many as there may be: then arrays are pickled."""
        try:
            fd = self._free.pop()
        except IndexError:
            if not self._left:
                return None
            self._left -= 1
            fd = os.memfd_create(_NAME)
        return BufferRef(os.getpid(), fd)

    def give_back(self, ref: BufferRef) -> None:
        """For a buffer that was lent and never opened by `arrays`."""
        self._recycle(ref.fd)

    def arrays(self, ref: BufferRef, specs: Sequence[ArraySpec]) -> list[npt.NDArray[np.generic]]:
        """The arrays that a reader left; the buffer is recycled when all of them are garbage."""
        starts = offsets(specs)
        size = starts[-1]
        if size == 0:
            self._recycle(ref.fd)
            return [np.empty(spec.shape, spec.dtype) for spec in specs]
        memory = self._memory.get(ref.fd)
        if memory is None or len(memory) < size:
            memory = self._memory[ref.fd] = _mapped(ref.fd, size, mmap.PROT_READ)
        lease = np.frombuffer(memory.data, np.uint8)  # views of it have the lease as base, not the memory
        weakref.finalize(lease, self._recycle, ref.fd)
        return views(lease, specs, starts)

    def _recycle(self, fd: int) -> None:
        if self._closer.alive:
            self._free.append(fd)
        else:
            os.close(fd)


class ArrayPool:
    """Lends private memory for arrays and takes it back when the last of them is garbage."""

    def __init__(self) -> None:
        self._free: list[npt.NDArray[np.uint8]] = []

    def take(self, specs: Sequence[ArraySpec]) -> list[npt.NDArray[np.generic]]:
        """Arrays to fill, aligned to 64 bytes, in memory that was used before if there is enough of it."""
        starts = offsets(specs)
        size = starts[-1]
        memory = self._pop()
        while memory is not None and len(memory) < size:  # too small for the chunks of now: let it go
            memory = self._pop()
        if memory is None:
            memory = _aligned(size + size // 8)
        lease = np.frombuffer(memory.data, np.uint8)  # views of it have the lease as base, not the memory
        weakref.finalize(lease, self._give_back, memory)
        return views(lease, specs, starts)

    def _pop(self) -> npt.NDArray[np.uint8] | None:
        try:
            return self._free.pop()  # atomic, unlike a look and then a take: finalizers run in any thread
        except IndexError:
            return None

    def _give_back(self, memory: npt.NDArray[np.uint8]) -> None:
        self._free.append(memory)


def _aligned(size: int) -> npt.NDArray[np.uint8]:
    memory = np.empty(size + ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % ALIGNMENT
    return memory[start : start + size]


def _close_all(free: list[int]) -> None:
    while free:
        os.close(free.pop())
