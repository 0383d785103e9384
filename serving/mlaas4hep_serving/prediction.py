"""The operations of PredictionService and ModelService, free of any transport; REST and gRPC both call them.

An operation takes a request message and a deadline (`time.monotonic`, or None) and returns the response message, or
raises `ServingError`.  `Handlers.start_predict_arrays` is Predict without the detour over TensorProto, for JSON.  The
``start_`` forms return before the run has ended, so that no thread need wait for a batch.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future
from concurrent.futures import TimeoutError as FutureTimeout
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from tensorflow.core.protobuf.meta_graph_pb2 import SignatureDef
from tensorflow_serving.apis.classification_pb2 import ClassificationRequest, ClassificationResponse
from tensorflow_serving.apis.get_model_metadata_pb2 import (
    GetModelMetadataRequest,
    GetModelMetadataResponse,
    SignatureDefMap,
)
from tensorflow_serving.apis.get_model_status_pb2 import GetModelStatusRequest, GetModelStatusResponse
from tensorflow_serving.apis.inference_pb2 import MultiInferenceRequest, MultiInferenceResponse
from tensorflow_serving.apis.model_management_pb2 import ReloadConfigRequest, ReloadConfigResponse
from tensorflow_serving.apis.model_pb2 import ModelSpec
from tensorflow_serving.apis.predict_pb2 import PredictRequest, PredictResponse
from tensorflow_serving.apis.regression_pb2 import RegressionRequest, RegressionResponse
from tensorflow_serving.config.model_server_config_pb2 import ModelServerConfig

from mlaas4hep_serving.errors import (
    Code,
    ServingError,
    as_serving_error,
    failed_precondition,
    invalid_argument,
    shown,
)
from mlaas4hep_serving.metrics import Registry
from mlaas4hep_serving.models.model import Model, late
from mlaas4hep_serving.models.repository import Repository
from mlaas4hep_serving.models.versions import Version
from mlaas4hep_serving.wire import examples, sizes, tensors
from mlaas4hep_serving.wire.apart import Signatures
from mlaas4hep_serving.wire.ragged import RowShape
from mlaas4hep_serving.wire.tensors import DEFAULT_SIGNATURE, Array

access = logging.getLogger("mlaas4hep_serving.access")
T = TypeVar("T")
Deadline = float | None


@dataclass(frozen=True)
class Started(Generic[T]):
    """A run under way, and how its tensors become an answer."""

    running: Future[Any]
    answer: Callable[[Any], T]

    def then(self, act: Callable[[], object]) -> None:
        """Call ``act`` when the run has ended, in the thread that ended it, or now."""
        self.running.add_done_callback(lambda _: act())

    def result(self, deadline: Deadline = None) -> T:
        """Wait for the answer.

        Raises:
            ServingError: the run's own, or DEADLINE_EXCEEDED.
        """
        try:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            return self.answer(self.running.result(left))
        except FutureTimeout:
            raise late(self.running) from None


class Claim:
    """The version that a request means: resolved once, and kept loaded until the block ``with claim:`` ends.

    A request for a version that is not there fails when the version is first needed, not before: TF-Serving tells what
    is wrong with the JSON first.
    """

    def __init__(self, repository: Repository, spec: ModelSpec) -> None:
        self._repository = repository
        self._found: Version | ServingError
        try:
            self._found = repository.acquire(spec)
        except ServingError as error:
            self._found = error

    def __enter__(self) -> Claim:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def release(self) -> None:
        """End the claim, where no block does."""
        if isinstance(self._found, Version):
            self._repository.release(self._found)

    @property
    def version(self) -> Version:
        """The version.

        Raises:
            ServingError: NOT_FOUND, INVALID_ARGUMENT: there is none.
        """
        if isinstance(self._found, ServingError):
            raise self._found
        return self._found

    @property
    def batches(self) -> bool:
        """Whether the ``start_`` operations return before the run has ended; False where there is no version."""
        return isinstance(self._found, Version) and bool(self._found.servable.batches)

    def signatures(self, most: int) -> Signatures:
        """What the codec asks about the version, all at once, for a body that is read elsewhere."""
        servable = self.version.servable
        return Signatures(servable.input_dtypes, servable.open_inputs, DEFAULT_SIGNATURE, most)

    def input_dtypes(self, signature_name: str) -> dict[str, int]:
        """Input alias -> DataType of a signature, as the JSON codec asks for it."""
        name = signature_name or DEFAULT_SIGNATURE
        dtypes: dict[str, int] | None = self.version.servable.input_dtypes.get(name)
        if dtypes is None:
            raise invalid_argument(f'Serving signature name: "{shown(name)}" not found in signature def')
        return dtypes

    def open_inputs(self, signature_name: str) -> Mapping[str, RowShape]:
        """Input alias -> row shape of the inputs of a signature that take ragged rows."""
        shapes: Mapping[str, RowShape] = self.version.servable.open_inputs.get(signature_name or DEFAULT_SIGNATURE, {})
        return shapes


class Handlers:
    """The operations on one repository.

    Each resolves the version that its request means once, and works with that one to the end.
    """

    def __init__(
        self,
        repository: Repository,
        metrics: Registry,
        *,
        configure: Callable[[ModelServerConfig], None] | None = None,
        access_log: bool = False,
        max_tensor_bytes: int = sizes.NO_LIMIT,
        check_method_names: bool = False,
        tensor_content: bool = False,
    ) -> None:
        self.repository = repository
        self.metrics = metrics
        self.max_tensor_bytes = max_tensor_bytes
        self._configure = configure or repository.configure
        self._access_log = access_log
        self._check_method_names, self._tensor_content = check_method_names, tensor_content

    @contextmanager
    def measured(self, model: str, api: str, entrypoint: str) -> Iterator[None]:
        """Count a request and its latency, by status; anything but a `ServingError` becomes INTERNAL."""
        done = self.measure(model, api, entrypoint)
        try:
            yield
        except Exception as error:
            known = as_serving_error(error)
            done(known.code)
            raise known from error
        done(Code.OK)

    def measure(self, model: str, api: str, entrypoint: str) -> Callable[[Code], None]:
        """`measured` for a request that ends elsewhere: call what this returns with its status."""
        start = time.perf_counter()

        def done(code: Code) -> None:
            # labels are of configured models only: names that clients make up must not fill the memory
            known = model if self.repository.knows(model) else ""
            self.metrics.add("/tensorflow/serving/request_count", {"model_name": known, "status": code.name})
            elapsed = time.perf_counter() - start
            if self._access_log:
                line = {"model": shown(model), "api": api, "entrypoint": entrypoint, "status": code.name}
                access.info(json.dumps({**line, "ms": round(elapsed * 1e3, 3)}))
            if code is Code.OK:
                labels = {"model_name": known, "API": api, "entrypoint": entrypoint}
                self.metrics.observe("/tensorflow/serving/request_latency", labels, elapsed * 1e6)

        return done

    def predict(self, request: PredictRequest, deadline: Deadline = None) -> PredictResponse:
        """PredictionService.Predict."""
        return self.start_predict(request, deadline).result(deadline)

    def start_predict(
        self, request: PredictRequest, deadline: Deadline = None, pool: Executor | None = None
    ) -> Started[PredictResponse]:
        """`predict` that does not wait for the batch.

        Args:
            pool: where models run that do not batch; None runs them here and now.
        """
        _need_spec(request)
        spec = request.model_spec
        name = spec.signature_name or DEFAULT_SIGNATURE
        with self.repository.use(spec) as version:
            signature = self._predict_signature(version.servable, name)
            outputs, *call = self._call(signature, self._inputs_of(request, signature), request.output_filter)

            def response(found: Sequence[Array]) -> PredictResponse:
                answer = PredictResponse()
                _fill_spec(answer.model_spec, spec.name, name, version.number)
                for alias, array in zip(outputs, found, strict=True):
                    tensors.to_proto(array, answer.outputs[alias], content=self._tensor_content)
                return answer

            return self._started(version, call, deadline, response, pool)

    def _inputs_of(self, request: PredictRequest, signature: SignatureDef) -> dict[str, Array]:
        _check_aliases(signature, request.inputs)
        arrays, taken = {}, 0
        for alias in sorted(signature.inputs):
            proto = _given(signature, request, alias)
            arrays[alias] = array = tensors.from_proto(proto, alias, taken, self.max_tensor_bytes)
            taken += sizes.of_proto(proto) if array.dtype.hasobject else array.nbytes
        return arrays

    def _call(
        self, signature: SignatureDef, inputs: Mapping[str, Array], output_filter: Sequence[str]
    ) -> tuple[list[str], list[str], list[Array], list[str]]:
        """Output aliases, names of the tensors to feed, their values, names of those to fetch."""
        _check_filter(signature, output_filter)
        aliases = sorted(inputs)
        outputs = list(output_filter) or sorted(signature.outputs)
        values = [inputs[alias] for alias in aliases]
        tensors.check_dtypes([signature.inputs[alias].dtype for alias in aliases], values)
        feeds = [signature.inputs[alias].name for alias in aliases]
        return outputs, feeds, values, [signature.outputs[alias].name for alias in outputs]

    def claim(self, spec: ModelSpec) -> Claim:
        """The version that a request means, resolved now and kept until the end of the request."""
        return Claim(self.repository, spec)

    def start_predict_arrays(
        self, version: Version, signature_name: str, inputs: Mapping[str, Array], deadline: Deadline = None
    ) -> Started[tuple[dict[str, Array], int]]:
        """Start Predict from arrays by input alias: (arrays by output alias, version that answered).

        Args:
            version: one that the caller holds, see `claim`.
            signature_name: ``""`` is the default.
        """
        name = signature_name or DEFAULT_SIGNATURE
        outputs, *call = self._call(self._predict_signature(version.servable, name), inputs, ())
        return self._started(version, call, deadline, lambda found: (_named(outputs, found), version.number))

    def _predict_signature(self, model: Model, name: str) -> SignatureDef:
        signature = model.signatures.get(name)
        if signature is None:
            raise failed_precondition(f'Serving signature key "{shown(name)}" not found.')
        if self._check_method_names:
            examples.check_predict(signature)
        return signature

    def _started(
        self,
        version: Version,
        call: Sequence[Any],
        deadline: Deadline,
        answer: Callable[[Sequence[Array]], T],
        pool: Executor | None = None,
    ) -> Started[T]:
        """Start a run of a version that the caller holds; it stays loaded until the run has ended."""
        self.repository.hold(version)
        try:
            running = version.servable.submit(*call, deadline, pool=pool)
        except BaseException:
            self.repository.release(version)
            raise
        running.add_done_callback(lambda _: self.repository.release(version))
        return Started(running, answer)

    def classify(self, request: ClassificationRequest, deadline: Deadline = None) -> ClassificationResponse:
        """PredictionService.Classify."""
        response = ClassificationResponse()
        with self._examples(request, response, examples.classify_tensors, deadline, "Classify") as found:
            examples.classification(*found, response.result)
        return response

    def regress(self, request: RegressionRequest, deadline: Deadline = None) -> RegressionResponse:
        """PredictionService.Regress."""
        response = RegressionResponse()
        with self._examples(request, response, examples.regress_tensors, deadline, "Regress") as found:
            examples.regression(*found, response.result)
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
                raise invalid_argument(f"No signature was found with the name: {shown(name)}")
            if self._check_method_names:
                examples.check_method(signature, api)
            feed, fetches = tensors_of(signature)
            rows = examples.serialized(request.input, self.max_tensor_bytes)
            tensors.check_dtypes([signature.inputs["inputs"].dtype], [rows])
            values = version.servable.run([feed], [rows], fetches, deadline, api)
            _fill_spec(response.model_spec, request.model_spec.name, name, version.number)
            yield signature, len(rows), _named(fetches, values)

    def multi_inference(self, request: MultiInferenceRequest, deadline: Deadline = None) -> MultiInferenceResponse:
        """PredictionService.MultiInference: classify and regress signatures of one model in one run."""
        if not request.tasks or not request.tasks[0].HasField("model_spec"):
            raise invalid_argument("Missing ModelSpec")
        response = MultiInferenceResponse()
        with self.repository.use(request.tasks[0].model_spec) as version:
            feed, fetches = examples.plan(request, version.servable.signatures)
            rows = examples.serialized(request.input, self.max_tensor_bytes)
            values = version.servable.run([feed], [rows], fetches, deadline, "MultiInference")
            outputs = _named(fetches, values)
            for task in request.tasks:
                name = task.model_spec.signature_name or DEFAULT_SIGNATURE
                signature, result = version.servable.signatures[name], response.results.add()
                if task.method_name == examples.CLASSIFY:
                    examples.classification(signature, len(rows), outputs, result.classification_result)
                else:
                    examples.regression(signature, len(rows), outputs, result.regression_result)
                _fill_spec(result.model_spec, task.model_spec.name, task.model_spec.signature_name, version.number)
        return response

    def get_model_metadata(self, request: GetModelMetadataRequest, _: Deadline = None) -> GetModelMetadataResponse:
        """PredictionService.GetModelMetadata."""
        _need_spec(request)
        if not request.metadata_field:
            raise invalid_argument("GetModelMetadataRequest must specify at least one metadata_field")
        for field in request.metadata_field:
            if field != "signature_def":
                raise invalid_argument(f"Metadata field {shown(field)} is not supported")
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


def _given(signature: SignatureDef, request: PredictRequest, alias: str) -> Any:
    return request.inputs[alias] if alias in request.inputs else signature.defaults[alias]


def _check_aliases(signature: SignatureDef, inputs: Mapping[str, Any]) -> None:
    given, wanted = set(inputs), set(signature.inputs)
    if given == wanted:
        return
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
    return shown(",".join(sorted(names)))


def _named(aliases: Sequence[str], found: Sequence[Array]) -> dict[str, Array]:
    return dict(zip(aliases, found, strict=True))


def _check_filter(signature: SignatureDef, output_filter: Sequence[str]) -> None:
    seen: set[str] = set()
    for alias in output_filter:
        if alias not in signature.outputs:
            raise invalid_argument(
                f"output tensor alias not found in signature: {shown(alias)} Outputs expected to be in the set "
                f"{{{_names(signature.outputs)}}}."
            )
        if alias in seen:
            raise invalid_argument(f"duplicate output tensor alias: {alias}")
        seen.add(alias)
