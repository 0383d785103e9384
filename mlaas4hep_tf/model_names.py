"""Which models there are, told without TensorFlow: those built in, and whether a name can be one of the user's own."""

from __future__ import annotations

import os
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from mlaas4hep_tf.errors import ModelError, near_misses


@dataclass(frozen=True)
class BuiltIn:
    """A model of ours.

    Attributes:
        name: as for `models.build`.
        inputs: what it takes.
        what: what it is, in 45 characters.
        shell: whether ``mlaas4hep-tf train`` can train it.
    """

    name: str
    inputs: str
    what: str
    shell: bool


BUILT_IN = (
    BuiltIn("mlp", "vector", "the paper's: 128, 64 ReLU, dropout, sigmoid", shell=True),
    BuiltIn("set", "vector, mask or objects", "a network per object, pooled (Deep Sets)", shell=True),
    BuiltIn("particle_transformer", "vector, mask", "attention of particles, biased by their pairs", shell=True),
    BuiltIn("particle_net", "vector, mask", "messages between near particles", shell=True),
    BuiltIn("cnn", "image", "convolutions on an image (--image)", shell=True),
    BuiltIn("autoencoder", "vector, mask", "autoencoder(specs), to a code and back", shell=False),
)
OWN = "module:function or a model.py of your own"
TRAINED = tuple(one.name for one in BUILT_IN if one.shell)
KNOWN = f"{', '.join(TRAINED)}, {OWN}"


def check_model(name: str) -> None:
    """Raise ModelError for a name that no model for vectors can have, or a model file that is not there."""
    if name in TRAINED:
        return
    if name.endswith(".py"):
        _check_file(name)
    elif ":" in name:
        _check_module(name.partition(":")[0], name)
    else:
        python = [one for one in BUILT_IN if one.name == name]
        why = f" for the shell; in Python it is {python[0].what}" if python else near_misses(name, TRAINED)
        raise ModelError(f"no model {name!r}{why}; there are {KNOWN}")


def check_form(name: str, *, image: bool, form: str = "vector") -> None:
    """Raise ModelError for a model of ours that does not take this form: the image, the vector, or what has names."""
    ours = next((one for one in BUILT_IN if one.name == name), None)
    if ours is None:
        return
    if (ours.inputs == "image") != image:
        wanted = "an image: give --image, or in Python image=" if ours.inputs == "image" else "no image"
        raise ModelError(f"model {name!r} takes {wanted}")
    if form not in ours.inputs and not image:
        raise ModelError(f"model {name!r} takes {ours.inputs}, not {form}: that is for set (objects) or a model.py")


def _check_file(name: str) -> None:
    if not there(name):
        raise ModelError(f"no such model file: {name}")
    try:
        compile(Path(name).read_bytes(), name, "exec")
    except (SyntaxError, ValueError) as error:
        raise ModelError(f"the model file {name} is no Python: {error}") from error


def _check_module(module: str, name: str) -> None:
    if not there(name):
        raise ModelError(f"cannot import the model {name!r}: there is no module {module!r} here or installed")


def there(name: str) -> bool:
    """Whether the user's own module or file can be found; nothing is imported, as it would import TensorFlow."""
    if name.endswith(".py"):
        return os.path.isfile(name)
    top = name.partition(":")[0].partition(".")[0]
    return os.path.exists(f"{top}.py") or os.path.isdir(top or "-") or (bool(top) and find_spec(top) is not None)
