"""TensorFlow imported without what it, CUDA and absl say of the machine; a log without what is no fault."""

from __future__ import annotations

import logging
import os
import tempfile


def import_tensorflow() -> None:
    """Import TensorFlow; what was written to stderr meanwhile is shown if that fails.

    Its C++ parts write to the descriptor before they know of any level, so the descriptor is turned away; devices are
    looked up here because CUDA complains then.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    for name, level in (("tensorflow", logging.ERROR), ("uvicorn", logging.WARNING)):
        logging.getLogger(name).setLevel(level)  # deprecations in our use of it, "Restoring parameters"; "Started ..."
    with tempfile.TemporaryFile() as chatter:
        stderr = os.dup(2)
        try:
            os.dup2(chatter.fileno(), 2)
            import tensorflow as tf

            tf.config.list_physical_devices()
        except BaseException:
            chatter.seek(0)
            os.write(stderr, chatter.read())
            raise
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
