"""A reader that answers at once, for `many_cores.py`; a module of its own, as reader processes import no script."""

from __future__ import annotations

from typing import Any

import numpy as np

OBJECTS = 4  # of each group in an event


def instant_block(file: Any, alike: Any, start: int, stop: int, layout: Any, ref: Any, kept: str) -> Any:  # noqa: ARG001
    """Runs in a reader process, as `read_block`: a block of the right shapes, with whatever the memory held."""
    from mlaas4hep_tf.io.buffers import ArraySpec, allocate
    from mlaas4hep_tf.io.reader import Packed

    events = stop - start
    specs = [ArraySpec((events, len(layout.flat)), "float32"), ArraySpec((events, 2 * len(layout.groups)), "int32")]
    specs += [ArraySpec((OBJECTS * events, len(names)), "float32") for _, names in layout.groups]
    specs += [ArraySpec((events,), dtype) for _, dtype in layout.targets]
    arrays = allocate(ref, specs)
    arrays[1][:, ::2] = OBJECTS * np.arange(events)[:, np.newaxis]
    arrays[1][:, 1::2] = OBJECTS
    return Packed(tuple(specs), tuple(arrays) if ref is None else None)
