"""A task as Keras needs it: the last layers of a model, their losses and metrics."""

from __future__ import annotations

from typing import Any

import keras

from mlaas4hep_tf.errors import ModelError
from mlaas4hep_tf.tasks import SCORE, VALUE, Classes, Head, Regression, Task


def outputs(x: Any, task: Task) -> Any:
    """What a model tells, from its last features [B, H]: a tensor, or a dict of them for a task with several heads."""
    return _each({name: _last(name, head, x) for name, head in task.outputs.items()})


def _last(name: str, head: Head, x: Any) -> Any:
    if isinstance(head, Regression):
        plain = keras.layers.Dense(head.width, name=f"normalised_{name}", dtype="float32")(x)
        return Unscale(head.offset, head.scale, name=name, dtype="float32")(plain)
    activation = "sigmoid" if head.binary or head.one_against_rest else "softmax"
    return keras.layers.Dense(head.width, activation=activation, name=name, dtype="float32")(x)


def check(model: keras.Model, task: Task) -> None:
    """Raise ModelError unless a model has the outputs of a task."""
    shapes = {name: (*tensor.shape, 1)[:2] for name, tensor in _told(model, task).items()}  # [B] is as good as [B, 1]
    wanted = {name: (None, head.width) for name, head in task.outputs.items()}
    if shapes != wanted:
        raise ModelError(f"the model gives {shapes}, but the task needs {wanted}: {task.describe()}")


def _told(model: keras.Model, task: Task) -> dict[str, Any]:
    """Output tensors of a model by name: those of a dict it returns, or else of its last layers."""
    given = getattr(model, "output", None)  # which a Sequential has not
    if isinstance(given, dict):
        return dict(given)
    names = model.output_names if len(model.outputs) > 1 else [*task.outputs]
    return dict(zip(names, model.outputs, strict=False))


def output_name(model: keras.Model) -> str:
    """Name of the one output of a model: ours where the last layer is, else that of a score."""
    last = model.output_names[0] if getattr(model, "output_names", None) else SCORE
    return last if last in (SCORE, VALUE) else SCORE


def in_unit_of_target(model: keras.Model, task: Task) -> keras.Model:
    """The model of a user, who need not know the unit of a target: what it gives is taken as the normalised number."""
    if not task.targets or any(isinstance(layer, Unscale) for layer in model.layers):
        return model
    taken = {layer.name for layer in model.layers}
    told = {
        name: _in_unit(f"{name}_in_unit" if name in taken else name, task.outputs[name], tensor)
        for name, tensor in _told(model, task).items()
    }
    inputs = {one.name: one for one in model.inputs} if len(model.inputs) > 1 else model.inputs[0]
    return keras.Model(inputs, _each(told), name=model.name)


def _in_unit(name: str, head: Head, tensor: Any) -> Any:
    if isinstance(head, Classes):
        return tensor
    return Unscale(head.offset, head.scale, name=name, dtype="float32")(tensor)


def losses(task: Task) -> Any:
    """Of each head, as `keras.Model.compile` takes them."""
    return _each({name: _loss(head) for name, head in task.outputs.items()})


def metrics(task: Task) -> Any:
    """Of each head, weighted like the loss."""
    return _each({name: _metrics(head) for name, head in task.outputs.items()})


def _each(by_output: dict[str, Any]) -> Any:
    return by_output if len(by_output) > 1 else next(iter(by_output.values()))


def _loss(head: Head) -> keras.losses.Loss:
    if isinstance(head, Regression):
        return ScaledLoss(head.loss, head.scale, head.quantiles)
    focal = head.loss == "focal"
    if head.binary:
        return keras.losses.BinaryFocalCrossentropy() if focal else keras.losses.BinaryCrossentropy()
    return ClassLoss(head.width, one_against_rest=head.one_against_rest, focal=focal)


def _metrics(head: Head) -> list[keras.metrics.Metric]:
    if isinstance(head, Regression):
        return [] if head.quantiles else [keras.metrics.MeanAbsoluteError(name="mae")]
    if head.binary:
        return [keras.metrics.AUC(name="auc"), keras.metrics.BinaryAccuracy(name="accuracy")]
    return [ClassAUC(head.width, name="auc"), keras.metrics.SparseCategoricalAccuracy(name="accuracy")]


def _one_hot(labels: Any, classes: int) -> Any:
    """Labels [B] or [B, 1] -> [B, K]."""
    flat = keras.ops.reshape(keras.ops.cast(labels, "int32"), (-1,))
    return keras.ops.one_hot(flat, classes, dtype="float32")


@keras.saving.register_keras_serializable(package="mlaas4hep_tf")
class ClassLoss(keras.losses.Loss):  # type: ignore[misc]  # keras has no type information
    """Cross-entropy of labels 0 to K - 1 [B] and K > 2 probabilities [B, K].

    One against rest it is the mean of the binary cross-entropies of the K classes.
    """

    def __init__(
        self, classes: int, *, one_against_rest: bool = False, focal: bool = False, name: str = "class_loss",
        **kwargs: Any,
    ) -> None:  # fmt: skip
        super().__init__(name=name, **kwargs)
        self.classes, self.one_against_rest, self.focal = classes, one_against_rest, focal

    def call(self, y_true: Any, y_pred: Any) -> Any:
        truth = _one_hot(y_true, self.classes)
        if self.one_against_rest:
            binary = keras.losses.binary_focal_crossentropy if self.focal else keras.losses.binary_crossentropy
            return binary(truth, y_pred)
        one = keras.losses.categorical_focal_crossentropy if self.focal else keras.losses.categorical_crossentropy
        return one(truth, y_pred)

    def get_config(self) -> dict[str, Any]:
        own = {"classes": self.classes, "one_against_rest": self.one_against_rest, "focal": self.focal}
        return {**super().get_config(), **own}


@keras.saving.register_keras_serializable(package="mlaas4hep_tf")
class ClassAUC(keras.metrics.AUC):  # type: ignore[misc]  # keras has no type information
    """Mean of the K areas under the ROC curve of one class against the rest, labels being 0 to K - 1 [B]."""

    def __init__(self, classes: int, name: str = "auc", **kwargs: Any) -> None:
        kwargs = {key: value for key, value in kwargs.items() if key not in ("multi_label", "num_labels")}
        super().__init__(name=name, multi_label=True, num_labels=classes, **kwargs)
        self.classes = classes

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        super().update_state(_one_hot(y_true, self.classes), y_pred, sample_weight)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "classes": self.classes}


@keras.saving.register_keras_serializable(package="mlaas4hep_tf")
class Unscale(keras.layers.Layer):  # type: ignore[misc]  # keras has no type information
    """From the normalised number to the one of the target: x scale + offset."""

    def __init__(self, offset: float, scale: float, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.offset, self.scale = offset, scale

    def call(self, inputs: Any) -> Any:
        return inputs * self.scale + self.offset

    def compute_output_spec(self, inputs: Any) -> Any:
        return keras.KerasTensor(inputs.shape, inputs.dtype)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "offset": self.offset, "scale": self.scale}


@keras.saving.register_keras_serializable(package="mlaas4hep_tf")
class ScaledLoss(keras.losses.Loss):  # type: ignore[misc]  # keras has no type information
    """Loss of (told - truth) / scale: truth [B], told [B, 1], or [B, Q] for quantiles."""

    def __init__(
        self, kind: str, scale: float, quantiles: Any = (), *, name: str = "scaled_loss", **kwargs: Any
    ) -> None:
        super().__init__(name=name, **kwargs)
        self.kind, self.scale, self.quantiles = kind, scale, tuple(quantiles)

    def call(self, y_true: Any, y_pred: Any) -> Any:
        truth = keras.ops.reshape(keras.ops.cast(y_true, y_pred.dtype), (-1, 1))
        missed = (truth - y_pred) / self.scale  # [B, outputs]
        size = keras.ops.abs(missed)
        if self.kind == "quantile":
            q = keras.ops.convert_to_tensor([self.quantiles], y_pred.dtype)
            each = keras.ops.maximum(q * missed, (q - 1) * missed)
        elif self.kind == "huber":
            each = keras.ops.where(size < 1, keras.ops.square(missed) / 2, size - 0.5)
        else:
            each = size if self.kind == "mae" else keras.ops.square(missed)
        return keras.ops.mean(each, axis=-1)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "kind": self.kind, "scale": self.scale, "quantiles": self.quantiles}
