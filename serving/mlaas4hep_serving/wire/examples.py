"""Classify, Regress and MultiInference between their messages and tensors: what to run, and what it answered."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from tensorflow.core.framework import types_pb2
from tensorflow.core.protobuf.meta_graph_pb2 import SignatureDef
from tensorflow_serving.apis.classification_pb2 import ClassificationResult
from tensorflow_serving.apis.inference_pb2 import InferenceTask, MultiInferenceRequest
from tensorflow_serving.apis.input_pb2 import Input
from tensorflow_serving.apis.regression_pb2 import RegressionResult

from mlaas4hep_serving.errors import failed_precondition, invalid_argument, shown, unimplemented
from mlaas4hep_serving.wire import sizes, tensors
from mlaas4hep_serving.wire.tensors import DEFAULT_SIGNATURE, Array

CLASSIFY = "tensorflow/serving/classify"
REGRESS = "tensorflow/serving/regress"
PREDICT = "tensorflow/serving/predict"


def serialized(given: Input, most: int = sizes.NO_LIMIT) -> Array:
    """The tf.Examples of a request, serialized, [n] ``object``; a context comes before each of them.

    Raises:
        ServingError: INVALID_ARGUMENT, no examples, or more than ``most`` bytes of them.
    """
    kind = given.WhichOneof("kind")
    listed = getattr(given, kind).examples if kind else ()
    if not listed:
        raise invalid_argument("Input is empty.")
    context = given.example_list_with_context.context.SerializeToString() if kind != "example_list" else b""
    texts = given.ByteSize() + len(listed) * len(context)
    sizes.check(sizes.of(types_pb2.DT_STRING, [len(listed)]) + texts, most)
    array = np.empty(len(listed), object)
    array[:] = [context + example.SerializeToString() for example in listed]
    return array


def check_predict(signature: SignatureDef) -> None:
    """Whether Predict may run a signature, by its method name.

    Raises:
        ServingError: INVALID_ARGUMENT.
    """
    if signature.method_name not in (PREDICT, CLASSIFY, REGRESS):
        raise invalid_argument(
            f"Expected prediction signature method_name to be one of {{{PREDICT}, {CLASSIFY}, {REGRESS}}}. "
            f"Was: {signature.method_name}"
        )


def check_method(signature: SignatureDef, api: str) -> None:
    """Whether Classify or Regress may run a signature, by its method name.

    Raises:
        ServingError: INVALID_ARGUMENT.
    """
    kind, wanted = {"Classify": ("classification", CLASSIFY), "Regress": ("regression", REGRESS)}[api]
    if signature.method_name != wanted:
        raise invalid_argument(f"Expected {kind} signature method_name to be {wanted}. Was: {signature.method_name}")


def classify_tensors(signature: SignatureDef) -> tuple[str, list[str]]:
    """Names of the tensor to feed with examples and of those to fetch, classes before scores.

    Raises:
        ServingError: INVALID_ARGUMENT, FAILED_PRECONDITION: a signature that does not classify.
    """
    if len(signature.inputs) != 1:
        raise invalid_argument("Expected one input Tensor.")
    if len(signature.outputs) not in (1, 2):
        raise invalid_argument(f"Expected one or two output Tensors, found {len(signature.outputs)}")
    if "inputs" not in signature.inputs:
        raise failed_precondition(f"No classification inputs found in SignatureDef: {signature}")
    fetches = [signature.outputs[alias].name for alias in ("classes", "scores") if alias in signature.outputs]
    if not fetches:
        raise failed_precondition(
            'Expected classification signature outputs to contain at least one of "classes" or "scores". '
            f"Signature was: {signature}"
        )
    return signature.inputs["inputs"].name, fetches


def regress_tensors(signature: SignatureDef) -> tuple[str, list[str]]:
    """Names of the tensor to feed with examples and of the one to fetch.

    Raises:
        ServingError: INVALID_ARGUMENT, FAILED_PRECONDITION: a signature that does not regress.
    """
    if len(signature.inputs) != 1:
        raise invalid_argument("Expected one input Tensor.")
    if len(signature.outputs) != 1:
        raise invalid_argument("Expected one output Tensor.")
    if "inputs" not in signature.inputs:
        raise failed_precondition(f"No regression inputs found in SignatureDef: {signature}")
    if "outputs" not in signature.outputs:
        raise failed_precondition(f"No regression outputs found in SignatureDef: {signature}")
    return signature.inputs["inputs"].name, [signature.outputs["outputs"].name]


def plan(request: MultiInferenceRequest, signatures: Mapping[str, SignatureDef]) -> tuple[str, list[str]]:
    """What to run for all tasks of a request at once: the name of their one input tensor, and of all their outputs.

    Raises:
        ServingError: INVALID_ARGUMENT, tasks of different models or inputs, or a signature twice or unknown;
            UNIMPLEMENTED, a task that is neither to classify nor to regress.
    """
    _check_names(request)
    feed, fetches = "", set[str]()
    for task in request.tasks:
        task_feed, task_fetches = _task_tensors(task, signatures)
        if feed not in ("", task_feed):
            raise invalid_argument("Input tensor must be the same for all Signatures.")
        feed = task_feed
        fetches.update(task_fetches)
    return feed, sorted(fetches)


def _check_names(request: MultiInferenceRequest) -> None:
    seen: set[str] = set()
    for task in request.tasks:
        if not task.model_spec.name:
            raise invalid_argument("Found ModelSpec with an empty model name.")
        if task.model_spec.name != request.tasks[0].model_spec.name:
            raise invalid_argument("All ModelSpecs in a MultiInferenceRequest must access the same model name.")
        name = task.model_spec.signature_name or DEFAULT_SIGNATURE
        if name in seen:
            raise invalid_argument(f"Duplicate evaluation of signature: {shown(name)}")
        seen.add(name)


def _task_tensors(task: InferenceTask, signatures: Mapping[str, SignatureDef]) -> tuple[str, list[str]]:
    name = task.model_spec.signature_name or DEFAULT_SIGNATURE
    if name not in signatures:
        raise invalid_argument(f"Requested signature not found in model graph: {shown(name)}")
    tensors_of = {CLASSIFY: classify_tensors, REGRESS: regress_tensors}.get(task.method_name)
    if tensors_of is None:
        raise unimplemented(f"Unsupported signature method_name: {shown(task.method_name)}")
    return tensors_of(signatures[name])


def _shape_text(array: Array) -> str:
    return "[" + ",".join(map(str, array.shape)) + "]"


def classification(
    signature: SignatureDef, count: int, outputs: Mapping[str, Array], result: ClassificationResult
) -> None:
    """Write the answer to ``count`` examples from the tensors of `classify_tensors`, by their names.

    Raises:
        ServingError: INVALID_ARGUMENT, tensors of another type or shape than [count, classes].
    """
    found = {alias: outputs[signature.outputs[alias].name] for alias in _KINDS if alias in signature.outputs}
    for alias, array in found.items():
        _check_column(alias, array, count)
    if len({array.shape[1] for array in found.values()}) > 1:
        raise invalid_argument(
            "Tensors class and score should match in dim_size(1). Got "
            f"{found['classes'].shape[1]} vs. {found['scores'].shape[1]}"
        )
    for row in range(count):
        classes = result.classifications.add().classes
        for column in range(next(iter(found.values())).shape[1]):
            label = found["classes"][row, column].decode("utf-8", "replace") if "classes" in found else ""
            classes.add(label=label, score=float(found["scores"][row, column]) if "scores" in found else 0.0)


_KINDS = {"classes": types_pb2.DT_STRING, "scores": types_pb2.DT_FLOAT}


def _check_column(alias: str, array: Array, count: int) -> None:
    if array.ndim != 2:
        raise invalid_argument(f"Expected Tensor shape: [batch_size num_classes] but got {_shape_text(array)}")
    if tensors.enum_of(array) != _KINDS[alias]:
        name = types_pb2.DataType.Name
        raise invalid_argument(f"Expected {alias} Tensor of {name(_KINDS[alias])}. Got: {name(tensors.enum_of(array))}")
    if len(array) != count:
        raise invalid_argument(f"Expected {alias} output batch size of {count}. Got: {len(array)}")


def regression(signature: SignatureDef, count: int, outputs: Mapping[str, Array], result: RegressionResult) -> None:
    """Write the answer to ``count`` examples from the tensor of `regress_tensors`, by its name.

    Raises:
        ServingError: INVALID_ARGUMENT, a tensor of another type or shape than [count] or [count, 1].
    """
    array = outputs[signature.outputs["outputs"].name]
    if not (array.ndim == 1 or (array.ndim == 2 and array.shape[1] == 1)):
        raise invalid_argument(
            "Expected output Tensor shape to be either [batch_size] or [batch_size, 1] but got " + _shape_text(array)
        )
    if len(array) != count:
        raise invalid_argument(f"Input batch size did not match output batch size: {count} vs. {len(array)}")
    if tensors.enum_of(array) != types_pb2.DT_FLOAT:
        raise invalid_argument(
            f"Expected output Tensor of DT_FLOAT.  Got: {types_pb2.DataType.Name(tensors.enum_of(array))}"
        )
    for value in array.ravel().tolist():
        result.regressions.add(value=value)
