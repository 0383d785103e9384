"""A file that takes a second to be written, by a process that does not import TensorFlow."""

import os
from pathlib import Path
from time import sleep

from mlaas4hep_tf.io.writer import whole_file


def write_slowly(path: Path) -> None:
    """The process's parent first, the rest a second later."""
    with whole_file(path) as partial, partial.open("w", buffering=1) as file:
        print(os.getppid(), file=file)
        sleep(1.0)
        print("whole", file=file)
