"""Parts of the server that an extra installs, and what to say where they are missing."""

from __future__ import annotations

from importlib.util import find_spec

from mlaas4hep_serving.errors import failed_precondition

SERVE = ("uvicorn", "uvloop", "httptools", "orjson", "grpc_health", "jwt", "jinja2")
TFAAS = ("python_multipart", "PIL")


def need(extra: str, modules: tuple[str, ...], purpose: str) -> None:
    """Say how to install `extra`, unless all of its `modules` can be imported.

    Raises:
        ServingError: FAILED_PRECONDITION, which module is missing for which purpose, and the line that installs it.
    """
    missing = [name for name in modules if find_spec(name) is None]
    if missing:
        raise failed_precondition(
            f"{purpose} needs {' and '.join(missing)}, not installed here; pip install 'mlaas4hep_tf[{extra}]'"
        )
