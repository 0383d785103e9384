"""A server for SavedModels with the interfaces of TensorFlow Serving, REST and gRPC, that needs no Docker.

Independent of the rest: it imports neither uproot nor mlaas4hep_tf.  The modules, and a request's way through them,
are in docs/architecture.md, "The inference layer".
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlaas4hep_serving.client import Client

__all__ = ["Client"]


def __getattr__(name: str) -> Any:
    """`Client`, when it is asked for: the server does without it."""
    if name == "Client":
        from mlaas4hep_serving.client import Client

        return Client
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
