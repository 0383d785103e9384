"""The files that the servers hand out, and where they lie."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SIZES = [3000, 2000, 1000]
EVENTS = sum(SIZES)


@contextmanager
def open_folder() -> Iterator[Path]:
    """An empty folder that everybody may read, servers that run as nobody among them.

    Each start of pytest takes the right to read pytest's own temporary folders from all but its user.
    """
    with tempfile.TemporaryDirectory() as place:
        path = Path(place)
        path.chmod(0o755)
        yield path


def urls(scheme: str, port: int) -> list[str]:
    slash = "//" if scheme == "root" else "/"
    return [f"{scheme}://127.0.0.1:{port}{slash}f{number:03d}.root" for number in range(len(SIZES))]
