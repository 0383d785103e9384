"""A server for SavedModels with the interfaces of TensorFlow Serving, REST and gRPC, that needs no Docker.

Independent of the rest: it imports neither uproot nor mlaas4hep_tf, but the client, `mlaas4hep_client`.  A request's
way, each module importing only from those above it:

    errors         Code and ServingError(code, message), those of the client: all that it may be told
    metrics        Registry: add (counter), observe (histogram), text (Prometheus), one view over all processes
    options        Options: every flag with its default; parse(argv)
    config_files   the text-proto files: ModelServerConfig, BatchingParameters, SSLConfig, MonitoringConfig
    wire/          what travels
      tensors          TensorProto <-> numpy by TensorFlow's rules; names of dtypes
      jsonreader       parse(body) -> dict: orjson, then Python's json, then an exact reader with rapidjson's errors
      ragged           rows of different lengths, padded with NaN where a signature leaves a dimension open
      json_requests    requests from JSON to numpy: predict_request, examples_request
      json_responses   answers from numpy to JSON: predict_response, classify_response, error_response ...
      examples         Classify, Regress and MultiInference between their messages and tensors
      paths            URL -> Target(name, version, label, method, subresource)
    models/        what is loaded
      cards            the model card of a version folder
      savedmodel       SavedModel: run(feeds, values, fetches) by tensor name; missing_parts(folder)
      batcher          Batcher.submit -> Future; BatchingOptions
      warmup           recorded requests of a version folder
      model            Model: one loaded version = SavedModel + Batcher; run(..., deadline)
      versions         which versions there are and which are wanted: State, Policy, Version, pure functions
      repository       Repository: configure, poll, use(spec) -> Version, status, labels
    prediction     Handlers: predict, classify, regress, multi_inference, get_model_metadata, get_model_status,
                   reload_config: (request message, deadline) -> response message; predict_arrays for JSON;
                   start_... return before the batch has run
    frontends/     who may ask, and how
      rest             Rest: respond(Request) -> Reply, and the ASGI application around it; RestOptions.routes takes
                       functions Request -> Reply | None that are asked before the v1 URLs
      grpc_later       unary gRPC methods without a thread that waits
      grpc_server      GrpcServer: the same handlers as services; GrpcOptions takes credentials and interceptors
      pages            Pages: /healthz, /readyz, GET /v1/models, the index page; a route of Rest
      security         Guard, GrpcGuard: tokens with scopes, rates; Tls
      http_limits      uvicorn's protocol with limits of header size and time
    tfaas/         TFaaS's endpoints
      archives, graphscan, sandbox    unpack, look through and try a stranger's model
      uploads          Uploads: models that clients bring, on disk and in the repository
      endpoints        Tfaas: the endpoints; a route of Rest
    server         Server(options): everything wired, started, drained
    supervisor     --processes N
    cli            mlaas4hep-serve
    client, predict    Client and mlaas4hep-predict, which are mlaas4hep_client's
    conformance/   the models and the replay of the conformance cases

Deadlines are `time.monotonic` floats or None.  Whatever fails on purpose is a `ServingError`; both front ends turn it
into their status.  Extension points: `RestOptions.routes`, `GrpcOptions.credentials` and `.interceptors`, a new
function beside `json_requests.predict_request`.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlaas4hep_serving.client import Client

__all__ = ["Client"]


def __getattr__(name: str) -> Any:
    """`Client`, when it is asked for: the server does without it."""
    if name == "Client":
        from mlaas4hep_serving.client import Client

        return Client
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
