"""For tests and benchmarks: synthetic ROOT files, jagged events of any shape, and servers that hand them out."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import awkward as ak
import numpy as np
import uproot

COMPRESSIONS = {
    "none": None, "zlib": uproot.ZLIB(1), "lz4": uproot.LZ4(1), "zstd": uproot.ZSTD(1), "lzma": uproot.LZMA(1),
}  # fmt: skip


def make_events(
    entries: int, *, first_id: int = 0, groups: Mapping[str, int] | None = None, mean: float = 3.0, seed: int = 0
) -> dict[str, Any]:
    """Branches of random events: ``id`` (unique), ``x``, and for each group jagged float32 branches.

    Args:
        entries: number of events.
        first_id: ``id`` of the first event; ids count up.
        groups: group name -> number of its branches, ``<group>_0`` ...; default ``{"Jet": 2}``.
        mean: mean multiplicity (Poisson).
        seed: of the values.
    """
    rng = np.random.default_rng(seed)
    branches: dict[str, Any] = {
        "id": np.arange(first_id, first_id + entries, dtype=np.int32),
        "x": rng.normal(size=entries).astype(np.float32),
    }
    for group, count in (groups if groups is not None else {"Jet": 2}).items():
        counts = rng.poisson(mean, entries)
        columns = {
            str(i): ak.unflatten(rng.exponential(size=int(counts.sum())).astype(np.float32), counts)
            for i in range(count)
        }
        branches[group] = ak.zip(columns)
    return branches


def write_tree(
    path: str | os.PathLike[str],
    branches: Mapping[str, Any],
    *,
    tree: str = "events",
    compression: str = "zlib",
    basket: int | None = None,
) -> Path:
    """Write branches as a TTree; a record array ``Jet`` becomes ``nJet`` and ``Jet_*``.

    Args:
        path: file to write.
        branches: name -> NumPy or awkward array of one length.
        tree: name of the tree.
        compression: a key of `COMPRESSIONS`.
        basket: entries per basket, default all.
    """
    arrays = {name: ak.Array(values) for name, values in branches.items()}
    entries = len(next(iter(arrays.values())))
    with uproot.recreate(path, compression=COMPRESSIONS[compression]) as file:
        target = file.mktree(tree, {name: array.type.content for name, array in arrays.items()})
        step = basket or max(entries, 1)
        for start in range(0, entries, step):
            target.extend({name: array[start : start + step] for name, array in arrays.items()})
    return Path(path)


def write_files(folder: str | os.PathLike[str], sizes: list[int], **options: Any) -> list[str]:
    """Files ``f000.root`` ... of `make_events`, with ids that count through all of them."""
    known = {k: options.pop(k) for k in ("groups", "mean") if k in options}
    paths, first = [], 0
    for number, entries in enumerate(sizes):
        events = make_events(entries, first_id=first, seed=number, **known)
        paths.append(str(write_tree(Path(folder) / f"f{number:03d}.root", events, **options)))
        first += entries
    return paths


class _RangeHandler(SimpleHTTPRequestHandler):
    """Files and folders, with byte ranges, which http.server lacks."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        """Say nothing."""

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, body: bool) -> None:
        path = Path(self.translate_path(self.path))
        if path.is_dir():
            super().do_GET() if body else super().do_HEAD()
            return
        try:
            data, changed = path.read_bytes(), path.stat().st_mtime_ns
        except OSError as error:
            self.send_error(403 if isinstance(error, PermissionError) else 404)
            return
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        first, last = (int(wanted[1]), int(wanted[2] or len(data) - 1)) if wanted else (0, len(data) - 1)
        self.send_response(206 if wanted else 200)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("ETag", f'"{changed:x}"')
        if wanted:
            self.send_header("Content-Range", f"bytes {first}-{min(last, len(data) - 1)}/{len(data)}")
        self.send_header("Content-Length", str(len(data[first : last + 1])))
        self.end_headers()
        if body:
            self.wfile.write(data[first : last + 1])


@contextmanager
def http_server(folder: str | os.PathLike[str], port: int = 0) -> Iterator[str]:
    """An HTTP server with byte ranges on the loopback interface; yields its URL."""
    server = ThreadingHTTPServer(("127.0.0.1", port), partial(_RangeHandler, directory=os.fspath(folder)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def has_xrootd() -> bool:
    """Whether this machine has an XRootD server (Debian: apt-get install xrootd-server)."""
    return shutil.which("xrootd") is not None


@contextmanager
def xrootd_server(folder: str | os.PathLike[str], port: int = 0) -> Iterator[str]:
    """An XRootD server on the loopback interface that hands out the files of a folder; yields its URL.

    It runs as nobody when this process is root, as XRootD demands, so the folder must be open to everybody.
    """
    port = port or free_port()
    with tempfile.TemporaryDirectory() as place:
        admin = Path(place)
        admin.chmod(0o777)
        (admin / "cfg").write_text(
            f"xrd.port {port}\nxrd.network nodnr\nall.export /\noss.localroot {Path(folder).resolve()}\n"
            f"all.adminpath {admin}\nall.pidpath {admin}\n"
        )
        user = ["-R", "nobody"] if os.geteuid() == 0 else []
        command = ["xrootd", *user, "-c", str(admin / "cfg"), "-l", str(admin / "log")]
        process = subprocess.Popen(command, cwd=admin)
        try:
            _wait_for(port, process)
            yield f"root://127.0.0.1:{port}/"
        finally:
            process.terminate()
            process.wait(10)


def free_port() -> int:
    """A port of the loopback interface that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and process.poll() is None:
        with socket.socket() as client:
            if client.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise RuntimeError(f"the XRootD server did not start within 10 s (exit status {process.poll()})")
