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
from mlaas4hep_tf.transforms.vector import FLAT, MASK_SUFFIX, Preprocessor

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
        parts.append(_pooled(str(number), objects, real))
    return keras.Model({VECTOR: vector, MASK: mask}, heads.outputs(_joined(parts), task), name="set")


def set_of_objects(preprocessor: Preprocessor, task: Task = SIGNAL_OR_NOT) -> keras.Model:
    """`set_model` on what ``layout="objects"`` gives: groups [B, L, F] with their masks [B, L], and flat [B, F]."""
    specs = preprocessor.input_specs(mask=False)
    inputs = {name: keras.Input(one.shape[1:], name=name, dtype=one.dtype) for name, one in specs.items()}
    parts = [inputs[FLAT]] if FLAT in inputs else []
    for group, members in preprocessor.specs.groups.items():
        name = preprocessor.group_names[group]
        if members[0].length:
            real = keras.layers.Reshape((members[0].length, 1))(inputs[name + MASK_SUFFIX])
            parts.append(_pooled(name, inputs[name], real))
    return keras.Model(inputs, heads.outputs(_joined(parts), task), name="set")


def _pooled(name: str, objects: Any, real: Any) -> Any:
    """A small network for each object [B, L, F], pooled over the real ones."""
    x = keras.layers.Dense(64, activation="relu")(objects)
    x = keras.layers.Dense(64, activation="relu")(x)
    return MaskedPool(name=f"pool_{name}")([x, real])


def _joined(parts: list[Any]) -> Any:
    """Flat branches and pooled objects, seen together."""
    x = keras.layers.Concatenate()(parts) if len(parts) > 1 else parts[0]
    x = keras.layers.Dense(128, activation="relu")(x)
    x = keras.layers.Dropout(0.2)(x)
    return keras.layers.Dense(64, activation="relu")(x)


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
            file, as in the paper) takes the length of the input vector, or with `image` its shape, or with a
            preprocessor of another form than the vector the shape of each input by its name, and returns a model; one
            that is not compiled is compiled with Adam and the loss of the task.
        specs: of the data.
        learning_rate: of Adam.
        image: the model takes this image rather than the vector.
        task: what the model is to tell; outputs, loss and metrics follow from it.
        preprocessor: of the dataset; networks on particles undo its normalisation inside.

    Raises:
        ModelError: no such model, or one that does not fit the data or the task.
    """
    form = preprocessor.form if preprocessor is not None else VECTOR
    check_form(name, image=image is not None, form=form)
    if preprocessor is not None and form != VECTOR:
        model = _on_names(name, preprocessor, task)
    elif name in _BUILDERS:
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
        model = _users(name, width if image is None else image.shape)
        check_inputs(model, width, image)
    if not model.compiled:
        heads.check(model, task)
        model = heads.in_unit_of_target(model, task)
        model.compile(
            optimizer=keras.optimizers.Adam(learning_rate), loss=heads.losses(task),
            weighted_metrics=heads.metrics(task),
        )  # fmt: skip
    return model


def _users(name: str, shape: Any) -> keras.Model:
    """What the user's function makes for inputs of this shape, or of these shapes by name."""
    model = _user_function(name)(shape)
    if not isinstance(model, keras.Model):
        raise ModelError(f"{name} must return a Keras model, not {type(model).__name__}")
    return model


def _on_names(name: str, preprocessor: Preprocessor, task: Task) -> keras.Model:
    """A model that takes several inputs by name."""
    if name == "set":
        return set_of_objects(preprocessor, task)
    shapes = {key: tuple(one.shape[1:]) for key, one in preprocessor.input_specs(mask=False).items()}
    model = _users(name, shapes)
    check_names(model, preprocessor)
    return model


def check_names(model: keras.Model, preprocessor: Preprocessor) -> None:
    """Hold a model's inputs to those of a form that has names.

    Raises:
        ModelError: other names or shapes; all inputs are taken, also those that the model does not look at.
    """
    shapes = {tensor.name: tuple(tensor.shape) for tensor in getattr(model, "inputs", None) or ()}
    masked = wants_mask(model, preprocessor.form)
    wanted = {name: tuple(one.shape) for name, one in preprocessor.input_specs(mask=masked).items()}
    if shapes != wanted:
        raise ModelError(f"the model takes {shapes}, but layout={preprocessor.form!r} gives {wanted}, all by name")


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


def wants_mask(model: keras.Model, form: str = VECTOR) -> bool:
    """Whether a model takes ``{"vector", "mask"}`` rather than the vector alone, or columns and their masks."""
    if form == "columns":
        names = {one.name for one in model.inputs}
        return any(name.endswith(MASK_SUFFIX) and name.removesuffix(MASK_SUFFIX) in names for name in names)
    return form == VECTOR and len(model.inputs) > 1


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
