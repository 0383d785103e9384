"""Reference models built from `Specs`, and the user's own: ``module:function`` or a ``model.py``."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import keras

from mlaas4hep_tf import heads
from mlaas4hep_tf.errors import ModelError
from mlaas4hep_tf.layers import MaskedPool, TakeColumns
from mlaas4hep_tf.model_names import check_form, check_model, there
from mlaas4hep_tf.particle_models import particle_net, particle_transformer
from mlaas4hep_tf.specs import Specs
from mlaas4hep_tf.tasks import SIGNAL_OR_NOT, Task
from mlaas4hep_tf.transforms.image_axes import Image
from mlaas4hep_tf.transforms.vector import Preprocessor

VECTOR, MASK, IMAGE = "vector", "mask", "image"


def mlp(specs: Specs, task: Task = SIGNAL_OR_NOT) -> keras.Model:
    """The paper's network (section 4.2): 128 and 64 ReLU, dropout 0.5 between them, sigmoid; input [B, D].

    As all models here it ends in the outputs of its task, by default the probability of signal.
    """
    inputs = keras.Input((len(specs.vector_names),), name=VECTOR)
    x = keras.layers.Dense(128, activation="relu")(inputs)
    x = keras.layers.Dropout(0.5)(x)
    x = keras.layers.Dense(64, activation="relu")(x)
    return keras.Model(inputs, heads.outputs(x, task), name="mlp")


def set_model(specs: Specs, task: Task = SIGNAL_OR_NOT) -> keras.Model:
    """A network that knows padding from objects: one small network per object, pooled over the real ones.

    Inputs ``vector`` float32 [B, D] and ``mask`` bool [B, D].  The order of the objects and the length of
    the padding make no difference to the output (M. Zaheer et al., Deep Sets, 2017).
    """
    width = len(specs.vector_names)
    vector = keras.Input((width,), name=VECTOR)
    mask = keras.Input((width,), name=MASK, dtype="bool")
    columns = {name: number for number, name in enumerate(specs.vector_names)}
    own = specs.columns
    parts = []
    if specs.flat:
        parts.append(TakeColumns([columns[b.name] for b in specs.flat], name="flat")(vector))
    for number, members in enumerate(specs.groups.values()):
        if members[0].length == 0:
            continue
        place = [[columns[name] for name in names] for names in zip(*(own[b.name] for b in members), strict=True)]
        objects = TakeColumns(place, name=f"objects_{number}")(vector)  # [B, L, F]
        real = TakeColumns(place, name=f"real_{number}")(mask)  # [B, L, F]
        x = keras.layers.Dense(64, activation="relu")(objects)
        x = keras.layers.Dense(64, activation="relu")(x)
        parts.append(MaskedPool(name=f"pool_{number}")([x, real]))
    x = keras.layers.Concatenate()(parts) if len(parts) > 1 else parts[0]
    x = keras.layers.Dense(128, activation="relu")(x)
    x = keras.layers.Dropout(0.2)(x)
    x = keras.layers.Dense(64, activation="relu")(x)
    return keras.Model({VECTOR: vector, MASK: mask}, heads.outputs(x, task), name="set")


def cnn(image: Image, task: Task = SIGNAL_OR_NOT) -> keras.Model:
    """A small convolutional network on the matrix representation; input [B, bins of each axis ..., channels]."""
    axes = len(image.axes)
    convolution, pooling, mean, largest = (
        getattr(keras.layers, f"{name}{axes}D")
        for name in ("Conv", "MaxPooling", "GlobalAveragePooling", "GlobalMaxPooling")
    )
    inputs = keras.Input(image.shape, name=IMAGE)
    x = convolution(16, 3, padding="same", activation="relu")(inputs)
    x = pooling(2, padding="same")(x)
    x = convolution(32, 3, padding="same", activation="relu")(x)
    x = keras.layers.Concatenate()([mean()(x), largest()(x)])
    x = keras.layers.Dense(64, activation="relu")(x)
    x = keras.layers.Dropout(0.2)(x)
    return keras.Model(inputs, heads.outputs(x, task), name="cnn")


def autoencoder(specs: Specs, code: int = 16, learning_rate: float = 1e-3) -> keras.Model:
    """Vector and mask through a narrow code and back (paper, sections 3.2 and 5.2), compiled.

    Inputs ``vector`` float32 [B, D] and ``mask`` bool [B, D], output float32 [B, D] in the unit of the vector, which
    `transforms.decode` turns into events; the layer ``code`` has [B, code].  The loss is the mean squared error of
    the real values; padding counts neither for nor against.  It is part of the model, so that any dataset with
    ``mask=True`` trains it and labels make no difference.
    """
    width = len(specs.vector_names)
    vector = keras.Input((width,), name=VECTOR)
    mask = keras.Input((width,), name=MASK, dtype="bool")
    known = keras.ops.cast(mask, "float32")
    x = keras.layers.Dense(128, activation="relu")(keras.layers.Concatenate()([vector, known]))
    x = keras.layers.Dense(code, name="code")(x)
    x = keras.layers.Dense(128, activation="relu")(keras.layers.Concatenate()([x, known]))
    x = keras.layers.Dense(width)(x)
    model = keras.Model(
        {VECTOR: vector, MASK: mask}, MaskedError(name="decoded")([x, vector, mask]), name="autoencoder"
    )
    model.compile(optimizer=keras.optimizers.Adam(learning_rate))
    return model


@keras.saving.register_keras_serializable(package="mlaas4hep_tf")
class MaskedError(keras.layers.Layer):  # type: ignore[misc]  # keras has no type information
    """Adds the mean squared error over real values as loss: decoded, vector, real [B, D] -> decoded."""

    def call(self, inputs: Any) -> Any:
        decoded, vector, real = inputs
        weight = keras.ops.cast(real, decoded.dtype)
        error = keras.ops.sum(weight * keras.ops.square(decoded - vector))
        self.add_loss(error / keras.ops.maximum(keras.ops.sum(weight), 1))
        return decoded

    def compute_output_spec(self, inputs: Any) -> Any:
        return keras.KerasTensor(inputs[0].shape, inputs[0].dtype)


_BUILDERS: dict[str, Callable[[Specs, Task], keras.Model]] = {"mlp": mlp, "set": set_model}
_ON_PARTICLES: dict[str, Callable[[Preprocessor, Task], keras.Model]] = {
    "particle_transformer": particle_transformer,
    "particle_net": particle_net,
}


def build(
    name: str, specs: Specs, learning_rate: float = 1e-3, *, image: Image | None = None,
    task: Task = SIGNAL_OR_NOT, preprocessor: Preprocessor | None = None,
) -> keras.Model:  # fmt: skip
    """A compiled model by name.

    Args:
        name: ``mlp``, ``set``, ``particle_transformer`` and ``particle_net`` (with `preprocessor`), ``cnn`` (with
            `image`), ``package.module:function`` or a path of a ``model.py``.  The user's function (``model`` in a
            file, as in the paper) takes the length of the input vector, or with `image` its shape, and returns a
            model; one that is not compiled is compiled with Adam and the loss of the task.
        specs: of the data.
        learning_rate: of Adam.
        image: the model takes this image rather than the vector.
        task: what the model is to tell; outputs, loss and metrics follow from it.
        preprocessor: of the dataset; networks on particles undo its normalisation inside.

    Raises:
        ModelError: no such model, or one that does not fit the data or the task.
    """
    check_form(name, image=image is not None)
    if name in _BUILDERS:
        model = _BUILDERS[name](specs, task)
    elif name in _ON_PARTICLES:
        if preprocessor is None:
            raise ModelError(
                f"{name} works in the unit of the branches, so it must know what normalises them: "
                f"build({name!r}, specs, preprocessor=ds.preprocessor)"
            )
        model = _ON_PARTICLES[name](preprocessor, task)
    elif name == "cnn" and image is not None:
        model = cnn(image, task)
    else:
        width = len(specs.vector_names)
        model = _user_function(name)(width if image is None else image.shape)
        if not isinstance(model, keras.Model):
            raise ModelError(f"{name} must return a Keras model, not {type(model).__name__}")
        check_inputs(model, width, image)
    if not model.compiled:
        heads.check(model, task)
        model = heads.in_unit_of_target(model, task)
        model.compile(
            optimizer=keras.optimizers.Adam(learning_rate), loss=heads.losses(task),
            weighted_metrics=heads.metrics(task),
        )  # fmt: skip
    return model


def check_inputs(model: keras.Model, width: int, image: Image | None = None) -> None:
    """Hold a model's inputs to the vector, or to the image.

    Raises:
        ModelError: inputs that are neither one vector of this width nor a vector and a mask; or not the image.
    """
    wanted: tuple[int, ...] = (width,) if image is None else image.shape
    if not getattr(model, "inputs", None):
        model.build((None, *wanted))
    if not getattr(model, "inputs", None):
        raise ModelError("the model must say what it takes: a functional or Sequential model, not a subclass of Model")
    shapes = {tensor.name: tuple(tensor.shape) for tensor in model.inputs}
    if image is not None and list(shapes.values()) != [(None, *image.shape)]:
        raise ModelError(f"the model takes {shapes}, but the data give an image {image.shape} alone")
    masked = image is None and set(shapes) == {VECTOR, MASK}
    if any(shape[1:] != wanted for shape in shapes.values()) or (len(shapes) > 1 and not masked):
        raise ModelError(
            f"the model takes {shapes}, but the data give a vector of {width} columns "
            f"(and a mask, for inputs named {VECTOR!r} and {MASK!r})"
        )


def wants_mask(model: keras.Model) -> bool:
    """Whether a model takes ``{"vector", "mask"}`` rather than the vector alone."""
    return len(model.inputs) > 1


def definitions(name: str, *, beside: str | None = None) -> dict[str, Any]:
    """Classes and functions that the user's own model may consist of, by name.

    There are none for a model of ours, nor where the module is gone: one of Keras's layers alone needs none.

    Args:
        name: as for `build`.
        beside: folder of modules that a ``model.py`` imports, if that is not its own.

    Raises:
        ModelError: a module that fails.
    """
    if name in _BUILDERS or name in _ON_PARTICLES or name == "cnn" or not there(name):
        return {}
    with _importing_from(beside or os.getcwd()):
        module = _user_module(name)
    return {
        value.__name__: value for value in vars(module).values() if inspect.isclass(value) or inspect.isfunction(value)
    }


def _user_function(name: str) -> Callable[[Any], Any]:
    function = "model" if name.endswith(".py") else name.partition(":")[2]
    found: Callable[[Any], Any] | None = getattr(_user_module(name), function, None)
    if not callable(found):
        raise ModelError(f"{name} defines no function {function!r} (def {function}(idim))")
    return found


def _user_module(name: str) -> ModuleType:
    """The module of ``module:function``, or that of a file."""
    check_model(name)
    if name.endswith(".py"):
        return _run_file(Path(name))
    try:
        with _importing_from(os.getcwd()):
            return importlib.import_module(name.partition(":")[0])
    except ImportError as error:
        raise ModelError(f"cannot import the model {name!r}: {error}") from error


def _run_file(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None  # a .py file always has a loader
    module = importlib.util.module_from_spec(spec)
    try:
        with _importing_from(str(path.absolute().parent)):
            spec.loader.exec_module(module)
    except Exception as error:
        raise ModelError(f"the model file {path} fails: {type(error).__name__}: {error}") from error
    return module


@contextmanager
def _importing_from(folder: str) -> Iterator[None]:
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        sys.path.remove(folder)
