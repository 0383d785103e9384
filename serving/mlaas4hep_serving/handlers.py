"""The operations of PredictionService and ModelService, free of any transport; REST and gRPC both call them.

An operation takes a request message and a deadline (`time.monotonic`, or None) and returns the response message, or
raises `ServingError`.  `predict_arrays` is Predict without the detour over TensorProto, for JSON.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from tensorflow.core.framework import types_pb2
from tensorflow.core.protobuf.meta_graph_pb2 import SignatureDef
from tensorflow_serving.apis.classification_pb2 import (
    ClassificationRequest,
    ClassificationResponse,
    ClassificationResult,
)
from tensorflow_serving.apis.get_model_metadata_pb2 import (
    GetModelMetadataRequest,
    GetModelMetadataResponse,
    SignatureDefMap,
)
from tensorflow_serving.apis.get_model_status_pb2 import GetModelStatusRequest, GetModelStatusResponse
from tensorflow_serving.apis.inference_pb2 import MultiInferenceRequest, MultiInferenceResponse
from tensorflow_serving.apis.input_pb2 import Input
from tensorflow_serving.apis.model_management_pb2 import ReloadConfigRequest, ReloadConfigResponse
from tensorflow_serving.apis.model_pb2 import ModelSpec
from tensorflow_serving.apis.predict_pb2 import PredictRequest, PredictResponse
from tensorflow_serving.apis.regression_pb2 import RegressionRequest, RegressionResponse, RegressionResult
from tensorflow_serving.config.model_server_config_pb2 import ModelServerConfig

from mlaas4hep_serving import tensors
from mlaas4hep_serving.errors import (
    Code,
    ServingError,
    failed_precondition,
    internal,
    invalid_argument,
    unimplemented,
)
from mlaas4hep_serving.metrics import Registry
from mlaas4hep_serving.model import Model
from mlaas4hep_serving.ragged import RowShape
from mlaas4hep_serving.repository import Repository
from mlaas4hep_serving.savedmodel import DEFAULT_SIGNATURE
from mlaas4hep_serving.tensors import Array

access = logging.getLogger("mlaas4hep_serving.access")
CLASSIFY = "tensorflow/serving/classify"
REGRESS = "tensorflow/serving/regress"
Deadline = float | None


class Handlers:
    """The operations on one repository."""

    def __init__(
        self,
        repository: Repository,
        metrics: Registry,
        *,
        configure: Callable[[ModelServerConfig], None] | None = None,
        access_log: bool = False,
    ) -> None:
        self.repository = repository
        self.metrics = metrics
        self._configure = configure or repository.configure
        self._access_log = access_log

    @contextmanager
    def measured(self, model: str, api: str, entrypoint: str) -> Iterator[None]:
        """Count a request and its latency, by status; anything but a `ServingError` becomes INTERNAL."""
        start, code = time.perf_counter(), Code.OK
        try:
            yield
        except ServingError as error:
            code = error.code
            raise
        except Exception as error:
            code = Code.INTERNAL
            raise internal(f"{type(error).__name__}: {error}") from error
        finally:
            # labels are of configured models only: names that clients make up must not fill the memory
            known = model if model in self.repository.models() else ""
            self.metrics.add("/tensorflow/serving/request_count", {"model_name": known, "status": code.name})
            if self._access_log:
                line = {"model": model, "api": api, "entrypoint": entrypoint, "status": code.name}
                access.info(json.dumps({**line, "ms": round((time.perf_counter() - start) * 1e3, 3)}))
            if code is Code.OK:
                labels = {"model_name": known, "API": api, "entrypoint": entrypoint}
                elapsed = (time.perf_counter() - start) * 1e6
                self.metrics.observe("/tensorflow/serving/request_latency", labels, elapsed)

    def predict(self, request: PredictRequest, deadline: Deadline = None) -> PredictResponse:
        """PredictionService.Predict."""
        _need_spec(request)
        response = PredictResponse()
        with self.repository.use(request.model_spec) as version:
            model: Model = version.servable
            name = request.model_spec.signature_name or DEFAULT_SIGNATURE
            outputs = predict_proto(model, name, request, deadline)
            _fill_spec(response.model_spec, request.model_spec.name, name, version.number)
        for alias, array in outputs.items():
            tensors.to_proto(array, response.outputs[alias])
        return response

    def predict_arrays(
        self, spec: ModelSpec, inputs: Mapping[str, Array], deadline: Deadline = None
    ) -> tuple[dict[str, Array], int]:
        """Predict from arrays by input alias: (arrays by output alias, version that answered)."""
        with self.repository.use(spec) as version:
            signature = _predict_signature(version.servable, spec.signature_name or DEFAULT_SIGNATURE)
            outputs = predict_with(version.servable, signature, inputs, (), deadline)
            return outputs, version.number

    def batches(self, spec: ModelSpec) -> bool:
        """Whether `predict_arrays_soon` may be used; False for a model that is not there."""
        try:
            with self.repository.use(spec) as version:
                return bool(version.servable.batches)
        except ServingError:
            return False

    async def predict_arrays_soon(
        self, spec: ModelSpec, inputs: Mapping[str, Array], deadline: Deadline = None
    ) -> tuple[dict[str, Array], int]:
        """`predict_arrays` of a model that batches, in an event loop."""
        with self.repository.use(spec) as version:
            signature = _predict_signature(version.servable, spec.signature_name or DEFAULT_SIGNATURE)
            outputs, feeds, values, fetches = _call(signature, inputs, ())
            found = await version.servable.run_soon(feeds, values, fetches, deadline)
            return dict(zip(outputs, found, strict=True)), version.number

    def input_dtypes(self, spec: ModelSpec, signature_name: str) -> dict[str, int]:
        """Input alias -> DataType of a signature, as the JSON codec asks for it."""
        with self.repository.use(spec) as version:
            name = signature_name or DEFAULT_SIGNATURE
            dtypes: dict[str, int] | None = version.servable.input_dtypes.get(name)
            if dtypes is None:
                raise invalid_argument(f'Serving signature name: "{name}" not found in signature def')
            return dtypes

    def open_inputs(self, spec: ModelSpec, signature_name: str) -> Mapping[str, RowShape]:
        """Input alias -> row shape of the inputs of a signature that take ragged rows."""
        with self.repository.use(spec) as version:
            shapes: Mapping[str, RowShape] = version.servable.open_inputs.get(signature_name or DEFAULT_SIGNATURE, {})
            return shapes

    def classify(self, request: ClassificationRequest, deadline: Deadline = None) -> ClassificationResponse:
        """PredictionService.Classify."""
        response = ClassificationResponse()
        with self._examples(request, response, _classify_tensors, deadline, "Classify") as (signature, count, outputs):
            _classification(signature, count, outputs, response.result)
        return response

    def regress(self, request: RegressionRequest, deadline: Deadline = None) -> RegressionResponse:
        """PredictionService.Regress."""
        response = RegressionResponse()
        with self._examples(request, response, _regress_tensors, deadline, "Regress") as (signature, count, outputs):
            _regression(signature, count, outputs, response.result)
        return response

    @contextmanager
    def _examples(
        self,
        request: Any,
        response: Any,
        tensors_of: Callable[[SignatureDef], tuple[str, list[str]]],
        deadline: Deadline,
        api: str,
    ) -> Iterator[tuple[SignatureDef, int, dict[str, Array]]]:
        _need_spec(request)
        with self.repository.use(request.model_spec) as version:
            name = request.model_spec.signature_name or DEFAULT_SIGNATURE
            signature = version.servable.signatures.get(name)
            if signature is None:
                raise invalid_argument(f"No signature was found with the name: {name}")
            feed, fetches = tensors_of(signature)
            examples = serialized_examples(request.input)
            _check_dtypes([signature.inputs["inputs"].dtype], [examples])
            values = version.servable.run([feed], [examples], fetches, deadline, api)
            _fill_spec(response.model_spec, request.model_spec.name, name, version.number)
            yield signature, len(examples), dict(zip(fetches, values, strict=True))

    def multi_inference(self, request: MultiInferenceRequest, deadline: Deadline = None) -> MultiInferenceResponse:
        """PredictionService.MultiInference: classify and regress signatures of one model in one run."""
        if not request.tasks or not request.tasks[0].HasField("model_spec"):
            raise invalid_argument("Missing ModelSpec")
        response = MultiInferenceResponse()
        with self.repository.use(request.tasks[0].model_spec) as version:
            feed, fetches = _plan(request, version.servable)
            examples = serialized_examples(request.input)
            values = version.servable.run([feed], [examples], fetches, deadline, "MultiInference")
            outputs = dict(zip(fetches, values, strict=True))
            for task in request.tasks:
                name = task.model_spec.signature_name or DEFAULT_SIGNATURE
                signature, result = version.servable.signatures[name], response.results.add()
                if task.method_name == CLASSIFY:
                    _classification(signature, len(examples), outputs, result.classification_result)
                else:
                    _regression(signature, len(examples), outputs, result.regression_result)
                _fill_spec(result.model_spec, task.model_spec.name, task.model_spec.signature_name, version.number)
        return response

    def get_model_metadata(self, request: GetModelMetadataRequest, _: Deadline = None) -> GetModelMetadataResponse:
        """PredictionService.GetModelMetadata."""
        _need_spec(request)
        if not request.metadata_field:
            raise invalid_argument("GetModelMetadataRequest must specify at least one metadata_field")
        for field in request.metadata_field:
            if field != "signature_def":
                raise invalid_argument(f"Metadata field {field} is not supported")
        response = GetModelMetadataResponse()
        with self.repository.use(request.model_spec) as version:
            definitions = SignatureDefMap()
            for name, signature in version.servable.signatures.items():
                definitions.signature_def[name].CopyFrom(signature)
            response.metadata["signature_def"].Pack(definitions)
            _fill_spec(response.model_spec, request.model_spec.name, "", version.number)
        return response

    def get_model_status(self, request: GetModelStatusRequest, _: Deadline = None) -> GetModelStatusResponse:
        """ModelService.GetModelStatus; a label in the request is ignored, as in TF-Serving."""
        _need_spec(request)
        spec = request.model_spec
        if not spec.name:
            raise invalid_argument("ModelSpec has no name specified.")
        response = GetModelStatusResponse()
        for number, state, error in self.repository.status(
            spec.name, spec.version.value if spec.HasField("version") else None
        ):
            status = response.model_version_status.add(version=number, state=int(state))
            status.status.error_code = int(error.code) if error else 0
            status.status.error_message = error.message if error else ""
        return response

    def reload_config(self, request: ReloadConfigRequest, _: Deadline = None) -> ReloadConfigResponse:
        """ModelService.HandleReloadConfigRequest; errors of the config are raised, not packed."""
        if request.config.WhichOneof("config") != "model_config_list":
            raise invalid_argument(
                "ServerModelConfig type not supported by HandleReloadConfigRequest. Only ModelConfigList is currently "
                "supported"
            )
        self._configure(request.config)
        return ReloadConfigResponse()


def _need_spec(request: Any) -> None:
    if not request.HasField("model_spec"):
        raise invalid_argument("Missing ModelSpec")


def _fill_spec(spec: ModelSpec, name: str, signature: str, version: int) -> None:
    spec.name, spec.signature_name = name, signature
    spec.version.value = version


# Predict


def _predict_signature(model: Model, name: str) -> SignatureDef:
    signature = model.signatures.get(name)
    if signature is None:
        raise failed_precondition(f'Serving signature key "{name}" not found.')
    return signature


def predict_proto(model: Model, name: str, request: PredictRequest, deadline: Deadline) -> dict[str, Array]:
    """Run a PredictRequest on a loaded model."""
    signature = _predict_signature(model, name)
    _check_aliases(signature, request.inputs)
    inputs = {alias: tensors.from_proto(_given(signature, request, alias), alias) for alias in sorted(signature.inputs)}
    return predict_with(model, signature, inputs, request.output_filter, deadline)


def _given(signature: SignatureDef, request: PredictRequest, alias: str) -> Any:
    return request.inputs[alias] if alias in request.inputs else signature.defaults[alias]


def _check_aliases(signature: SignatureDef, inputs: Mapping[str, Any]) -> None:
    given, wanted = set(inputs), set(signature.inputs)
    if len(given) > len(wanted) or (len(given) < len(wanted) and not signature.defaults):
        raise invalid_argument(
            f"input size does not match signature: {len(given)}!={len(wanted)} len({{{_names(given)}}}) != "
            f"len({{{_names(wanted)}}}). Sent extra: {{{_names(given - wanted)}}}. Missing but required: "
            f"{{{_names(wanted - given)}}}."
        )
    for alias in sorted(wanted - given - set(signature.defaults)):
        raise invalid_argument(
            f"Signature input alias: {alias}(feed name: {signature.inputs[alias].name}) not found in request and no "
            f"default value provided. Inputs expected to be in the request {{{_names(given)}}}, or default input alias "
            f"set: {_names(signature.defaults)}"
        )
    if given - wanted:
        raise invalid_argument(
            f"Inputs contains invalid name. Used request inputs: {_names(given & wanted)}, "
            f"request input: {_names(given)}"
        )


def _names(names: Any) -> str:
    return ",".join(sorted(names))


def predict_with(
    model: Model, signature: SignatureDef, inputs: Mapping[str, Array], output_filter: Sequence[str], deadline: Deadline
) -> dict[str, Array]:
    """Run a signature on arrays by alias; all outputs, or those of the filter, by alias."""
    outputs, feeds, values, fetches = _call(signature, inputs, output_filter)
    return dict(zip(outputs, model.run(feeds, values, fetches, deadline), strict=True))


def _call(
    signature: SignatureDef, inputs: Mapping[str, Array], output_filter: Sequence[str]
) -> tuple[list[str], list[str], list[Array], list[str]]:
    """Output aliases, names of the tensors to feed, their values, names of those to fetch."""
    _check_filter(signature, output_filter)
    aliases = sorted(inputs)
    outputs = list(output_filter) or sorted(signature.outputs)
    values = [inputs[alias] for alias in aliases]
    _check_dtypes([signature.inputs[alias].dtype for alias in aliases], values)
    feeds = [signature.inputs[alias].name for alias in aliases]
    return outputs, feeds, values, [signature.outputs[alias].name for alias in outputs]


def _check_filter(signature: SignatureDef, output_filter: Sequence[str]) -> None:
    seen: set[str] = set()
    for alias in output_filter:
        if alias not in signature.outputs:
            raise invalid_argument(
                f"output tensor alias not found in signature: {alias} Outputs expected to be in the set "
                f"{{{_names(signature.outputs)}}}."
            )
        if alias in seen:
            raise invalid_argument(f"duplicate output tensor alias: {alias}")
        seen.add(alias)


def _check_dtypes(wanted: Sequence[int], values: Sequence[Array]) -> None:
    for i, (enum, value) in enumerate(zip(wanted, values, strict=True)):
        given = tensors.enum_of(value)
        if given != enum:
            raise invalid_argument(
                f"Expects arg[{i}] to be {tensors.dtype_name(enum)} but {tensors.dtype_name(given)} is provided"
            )


# Classify, Regress, MultiInference


def serialized_examples(given: Input) -> Array:
    """The tf.Examples of a request, serialized, [n] ``object``; a context comes before each of them.

    Raises:
        ServingError: INVALID_ARGUMENT, no examples.
    """
    kind = given.WhichOneof("kind")
    listed = getattr(given, kind).examples if kind else ()
    if not listed:
        raise invalid_argument("Input is empty.")
    context = given.example_list_with_context.context.SerializeToString() if kind != "example_list" else b""
    array = np.empty(len(listed), object)
    array[:] = [context + example.SerializeToString() for example in listed]
    return array


def _classify_tensors(signature: SignatureDef) -> tuple[str, list[str]]:
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


def _regress_tensors(signature: SignatureDef) -> tuple[str, list[str]]:
    if len(signature.inputs) != 1:
        raise invalid_argument("Expected one input Tensor.")
    if len(signature.outputs) != 1:
        raise invalid_argument("Expected one output Tensor.")
    if "inputs" not in signature.inputs:
        raise failed_precondition(f"No regression inputs found in SignatureDef: {signature}")
    if "outputs" not in signature.outputs:
        raise failed_precondition(f"No regression outputs found in SignatureDef: {signature}")
    return signature.inputs["inputs"].name, [signature.outputs["outputs"].name]


def _plan(request: MultiInferenceRequest, model: Model) -> tuple[str, list[str]]:
    """The one input tensor of all tasks, and all their outputs."""
    name, feed = request.tasks[0].model_spec.name, ""
    seen: set[str] = set()
    fetches: set[str] = set()
    for task in request.tasks:
        if not task.model_spec.name:
            raise invalid_argument("Found ModelSpec with an empty model name.")
        if task.model_spec.name != name:
            raise invalid_argument("All ModelSpecs in a MultiInferenceRequest must access the same model name.")
        signature_name = task.model_spec.signature_name or DEFAULT_SIGNATURE
        if signature_name in seen:
            raise invalid_argument(f"Duplicate evaluation of signature: {signature_name}")
        seen.add(signature_name)
        signature = model.signatures.get(signature_name)
        if signature is None:
            raise invalid_argument(f"Requested signature not found in model graph: {signature_name}")
        tensors_of = {CLASSIFY: _classify_tensors, REGRESS: _regress_tensors}.get(task.method_name)
        if tensors_of is None:
            raise unimplemented(f"Unsupported signature method_name: {task.method_name}")
        task_feed, task_fetches = tensors_of(signature)
        if feed not in ("", task_feed):
            raise invalid_argument("Input tensor must be the same for all Signatures.")
        feed = task_feed
        fetches.update(task_fetches)
    return feed, sorted(fetches)


def _shape_text(array: Array) -> str:
    return "[" + ",".join(map(str, array.shape)) + "]"


def _classification(
    signature: SignatureDef, count: int, outputs: Mapping[str, Array], result: ClassificationResult
) -> None:
    found: dict[str, Array] = {}
    for alias, enum in (("classes", types_pb2.DT_STRING), ("scores", types_pb2.DT_FLOAT)):
        if alias not in signature.outputs:
            continue
        array = found[alias] = outputs[signature.outputs[alias].name]
        if array.ndim != 2:
            raise invalid_argument(f"Expected Tensor shape: [batch_size num_classes] but got {_shape_text(array)}")
        if tensors.enum_of(array) != enum:
            name = types_pb2.DataType.Name
            raise invalid_argument(f"Expected {alias} Tensor of {name(enum)}. Got: {name(tensors.enum_of(array))}")
        if len(array) != count:
            raise invalid_argument(f"Expected {alias} output batch size of {count}. Got: {len(array)}")
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


def _regression(signature: SignatureDef, count: int, outputs: Mapping[str, Array], result: RegressionResult) -> None:
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
