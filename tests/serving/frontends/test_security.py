"""Tokens and scopes, rates, TLS, limits of size, depth and time."""

import asyncio
import base64
import datetime
import gzip
import hashlib
import hmac
import http.client
import json
import socket
import ssl
import string
import threading
import time
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import grpc
import jwt
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mlaas4hep_serving.errors import Code, ServingError
from mlaas4hep_serving.frontends import http_limits
from mlaas4hep_serving.frontends.guard import Guard, models_of, scope_of, scope_of_rpc
from mlaas4hep_serving.frontends.http import Request
from mlaas4hep_serving.frontends.rates import Rates
from mlaas4hep_serving.frontends.tls import Tls
from mlaas4hep_serving.frontends.tokens import Client, Limits, Scope, Tokens
from mlaas4hep_serving.messages import SSLConfig
from mlaas4hep_serving.wire import paths
from tensorflow_serving.apis import model_service_pb2_grpc, prediction_service_pb2_grpc
from tensorflow_serving.apis.get_model_status_pb2 import GetModelStatusRequest
from tensorflow_serving.apis.inference_pb2 import MultiInferenceRequest
from tensorflow_serving.apis.model_management_pb2 import ReloadConfigRequest
from tensorflow_serving.apis.predict_pb2 import PredictRequest

PREDICT = "/v1/models/default:predict"
BODY = b'{"instances": [2.0]}'


def ask(server, path, body=None, method=None, headers=None, context=None):
    """(status, headers, body) of one request."""
    kind = http.client.HTTPSConnection if context else http.client.HTTPConnection
    connection = kind(
        "localhost" if context else "127.0.0.1",
        server.rest_port,
        timeout=30,
        **({"context": context} if context else {}),
    )
    connection.request(method or ("POST" if body is not None else "GET"), path, body, headers or {})
    reply = connection.getresponse()
    result = reply.status, dict(reply.getheaders()), reply.read()
    connection.close()
    return result


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def key_lines(**tokens: str) -> str:
    return "\n".join(
        f'[[key]]\nname = "{name}"\nsha256 = "{hashlib.sha256(name.encode()).hexdigest()}"\nscopes = {json.dumps(scopes.split())}'
        for name, scopes in tokens.items()
    )


@pytest.fixture(scope="module")
def issuer():
    """A private key, and the JWKS of its public half."""
    private = ec.generate_private_key(ec.SECP256R1())
    public = jwt.algorithms.ECAlgorithm.to_jwk(private.public_key(), as_dict=True)
    return private, {"keys": [{**public, "kid": "k1", "alg": "ES256", "use": "sig"}]}


@pytest.fixture
def auth_file(tmp_path, issuer):
    (tmp_path / "keys.json").write_text(json.dumps(issuer[1]))
    path = tmp_path / "auth.toml"
    path.write_text(
        key_lines(alice="predict", bob="read", root="predict read write")
        + '\n[jwt]\nissuer = "https://iam.example"\naudience = "models"\njwks_file = "keys.json"\n'
    )
    return path


def hmac_token(claims: dict, secret: str) -> str:
    part = lambda value: base64.urlsafe_b64encode(value).rstrip(b"=")  # noqa: E731
    head = {"alg": "HS256", "typ": "JWT", "kid": "k1"}
    signed = b".".join(part(json.dumps(value).encode()) for value in (head, claims))
    return (signed + b"." + part(hmac.digest(secret.encode(), signed, "sha256"))).decode()


def token_of(issuer, **claims) -> str:
    now = int(time.time())
    given = {
        "iss": "https://iam.example",
        "aud": "models",
        "exp": now + 300,
        "sub": "carol",
        "scope": "predict",
        **claims,
    }
    given = {name: value for name, value in given.items() if value is not None}
    return jwt.encode(given, issuer[0], "ES256", headers={"kid": "k1"})


# decisions


@pytest.mark.parametrize(
    ("method", "path", "scope"),
    [
        ("POST", "/v1/models/a:predict", Scope.PREDICT),
        ("POST", "/v1/models/a/versions/3:classify", Scope.PREDICT),
        ("POST", "/json", Scope.PREDICT),
        ("POST", "/predict/proto", Scope.PREDICT),
        ("POST", "/upload", Scope.WRITE),
        ("POST", "/params", Scope.WRITE),
        ("DELETE", "/delete/a", Scope.WRITE),
        ("PUT", "/anything", Scope.WRITE),
        ("GET", "/v1/models/a/metadata", Scope.READ),
        ("GET", "/", Scope.READ),
        ("GET", "/monitoring/prometheus/metrics", Scope.READ),
        ("GET", "/healthz", None),
        ("GET", "/readyz?x", None),
        ("POST", "/healthz", Scope.WRITE),
    ],
)
def test_scopes_of_urls(method, path, scope):
    assert scope_of(method, path) is scope


def test_scopes_of_rpcs():
    assert scope_of_rpc("/tensorflow.serving.PredictionService/Predict") is Scope.PREDICT
    assert scope_of_rpc("/tensorflow.serving.ModelService/GetModelStatus") is Scope.READ
    assert scope_of_rpc("/tensorflow.serving.ModelService/HandleReloadConfigRequest") is Scope.WRITE
    assert scope_of_rpc("/some.Service/New") is Scope.WRITE
    assert scope_of_rpc("/grpc.health.v1.Health/Check") is None


@pytest.mark.parametrize(
    ("path", "models"),
    [
        ("/v1/models/tth:predict", ["tth"]),
        ("/V1/Models/tth/versions/2:predict", ["tth"]),
        ("/v1/models/a%2Fb/labels/x/metadata", ["a/b"]),
        ("/v1/models/a?b:predict", ["a?b"]),
        ("/params/tth", ["tth"]),
        ("/delete/tth?x", ["tth"]),
        ("/v1/models", []),
        ("/", []),
        ("/models", []),
        ("/json", None),
        ("/predict/proto", None),
        ("/upload", None),
        ("/delete?x", None),
    ],
)
def test_models_of_urls(path, models):
    assert models_of(path) == models


@given(st.text(alphabet=string.ascii_letters + "%2fF:/?.-_é ", max_size=12), st.sampled_from(["GET", "POST"]))
def test_the_model_that_is_looked_at_is_the_one_that_answers(name, method):
    path = f"/v1/models/{name}{':predict' * (method == 'POST')}"
    target = paths.parse(method, path)
    if target is not None and target.name:
        assert models_of(path) == [target.name]


def test_a_scope_of_one_model(auth_file, issuer):
    client = Tokens.read(auth_file).client(
        token_of(issuer, scope="model.predict:tth model.read:ww write:tth predict:x")
    )
    assert client.scopes == frozenset() and client.models == {(Scope.PREDICT, "tth"), (Scope.READ, "ww")}
    assert client.may(Scope.PREDICT, ["tth"]) and client.may(Scope.PREDICT, None)
    assert not client.may(Scope.PREDICT, ["ww"]) and not client.may(Scope.PREDICT, ["tth", "ww"])
    assert (
        not client.may(Scope.PREDICT, []) and not client.may(Scope.READ, ["tth"]) and not client.may(Scope.WRITE, None)
    )


def test_jwt(auth_file, issuer):
    tokens = Tokens.read(auth_file)
    assert tokens.client(token_of(issuer, scope="predict read other")).scopes == {Scope.PREDICT, Scope.READ}
    other = (ec.generate_private_key(ec.SECP256R1()), None)
    hmac_key = json.dumps(issuer[1]["keys"][0])  # the public key as the secret of an HMAC
    bad = {
        "expired": token_of(issuer, exp=int(time.time()) - 60),
        "without expiry": token_of(issuer, exp=None),
        "another issuer": token_of(issuer, iss="https://evil.example"),
        "another audience": token_of(issuer, aud="photos"),
        "another key": token_of(other),
        "alg none": jwt.encode({"iss": "https://iam.example", "aud": "models"}, "", "none", headers={"kid": "k1"}),
        "hmac": hmac_token({"iss": "https://iam.example", "aud": "models", "exp": 1 << 33}, hmac_key),
        "unknown kid": jwt.encode({"a": 1}, issuer[0], "ES256", headers={"kid": "k2"}),
        "no JWT": "a.b.c",
        "long": "x" * 100_000,
    }  # fmt: skip
    for what, token in bad.items():
        with pytest.raises(ServingError) as caught:
            tokens.client(token)
        assert caught.value.code is Code.UNAUTHENTICATED, what


ODD = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])  # of the keys, which are read only
@given(st.sampled_from(["exp", "iat", "nbf", "iss", "aud", "sub", "scope", "jti"]), ODD)
def test_claims_of_any_type_are_no_fault_of_the_server(issuer, auth_file, claim, value):
    body = {
        "iss": "https://iam.example",
        "aud": "models",
        "exp": int(time.time()) + 300,
        "scope": "predict",
        claim: value,
    }
    signed = jwt.api_jws.encode(json.dumps(body).encode(), issuer[0], "ES256", headers={"kid": "k1"})
    try:
        client = Tokens.read(auth_file).client(signed)
    except ServingError as error:
        assert error.code is Code.UNAUTHENTICATED  # noqa: PT017  # most are refused, some are not
    else:
        assert client.scopes <= {Scope.PREDICT, Scope.READ, Scope.WRITE}


def test_claims_that_are_no_object_or_nested_deep(issuer, auth_file):
    for body in (b"[]", b"1", b"null", b"\xff", b"[" * 5000, b'{"exp": 1e400}', b'{"exp": ' + b"[" * 3000):
        with pytest.raises(ServingError) as caught:
            Tokens.read(auth_file).client(jwt.api_jws.encode(body, issuer[0], "ES256", headers={"kid": "k1"}))
        assert caught.value.code is Code.UNAUTHENTICATED


def test_a_key_file_that_is_lost_is_no_fault_of_the_client_and_no_path_is_told(issuer, auth_file):
    tokens = Tokens.read(auth_file)
    (auth_file.parent / "keys.json").unlink()
    with pytest.raises(ServingError) as caught:
        tokens.client(token_of(issuer))
    assert caught.value.code is Code.UNAVAILABLE and "/" not in caught.value.message


@pytest.mark.parametrize(
    "header", ["Basic \xe9\xe9", "Basic ====", "Basic /w==", "Bearer \xff", "Bearer", "\xff", "Basic"]
)
def test_authorization_of_any_bytes(auth_file, header):
    guard = Guard(Tokens.read(auth_file), 0)
    reply = guard.http(Request("GET", "/v1/models/default", {"authorization": header}, b""))
    assert reply is not None and reply.status == 401


def test_new_keys_of_the_issuer_are_read(auth_file, issuer):
    tokens = Tokens.read(auth_file)
    fresh = ec.generate_private_key(ec.SECP256R1())
    public = jwt.algorithms.ECAlgorithm.to_jwk(fresh.public_key(), as_dict=True)
    replaced = auth_file.parent / "new"
    replaced.write_text(json.dumps({"keys": [{**public, "kid": "k1", "alg": "ES256"}]}))
    replaced.replace(auth_file.parent / "keys.json")
    assert tokens.client(token_of((fresh, None))).name == "carol"
    with pytest.raises(ServingError):
        tokens.client(token_of(issuer))


@pytest.fixture
def told(issuer, monkeypatch):
    """A URL that answers with the keys that are put into a list, and with an error while there are none."""
    monkeypatch.setattr("mlaas4hep_serving.frontends.jwks._PAUSE_S", 0.02)
    keys = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200 if keys else 500)
            self.end_headers()
            self.wfile.write(json.dumps({"keys": keys}).encode())

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/jwk", keys
        server.shutdown()


def test_keys_behind_a_url(tmp_path, issuer, told):
    url, keys = told
    path = tmp_path / "auth.toml"
    path.write_text(f'[jwt]\nissuer = "https://iam.example"\naudience = "models"\njwks_url = "{url}"\n')
    tokens = Tokens.read(path)

    def client(private, kid):
        """The client of a token, in time."""
        end, signed = time.monotonic() + 20, token_of(private)
        signed = jwt.encode(jwt.decode(signed, options={"verify_signature": False}), private[0], "ES256", {"kid": kid})
        while True:
            try:
                return tokens.client(signed).name
            except ServingError as error:
                if time.monotonic() > end:
                    raise
                seen.add(error.code)
                time.sleep(0.02)

    seen = set()
    with pytest.raises(ServingError, match="has not told its keys yet"):
        tokens.client(token_of(issuer))
    keys += issuer[1]["keys"]
    assert client(issuer, "k1") == "carol"
    assert seen <= {Code.UNAVAILABLE}
    fresh = ec.generate_private_key(ec.SECP256R1())
    keys[:] = [{**jwt.algorithms.ECAlgorithm.to_jwk(fresh.public_key(), as_dict=True), "kid": "k2", "alg": "ES256"}]
    assert client((fresh, None), "k2") == "carol"
    keys.clear()  # the issuer is away: its keys of before stay
    time.sleep(0.1)
    assert client((fresh, None), "k2") == "carol"


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("", "expected"),
        ("[[key]", "cannot be read"),
        ('[[keys]]\nname = "a"', "keys"),
        ('[[key]]\nname = "a"\nscopes = ["read"]', "sha256"),
        ('[[key]]\nname = "a"\nsha256 = "abc"\nscopes = ["read"]', "64 hex digits"),
        (f'[[key]]\nname = "a"\nsha256 = "{"0" * 64}"\nscopes = ["admin"]', "predict, read, write"),
        (f'[[key]]\nname = "a"\nsha256 = "{"0" * 64}"\nscopes = ["model.predict"]', "model.predict:NAME"),
        (f'[[key]]\nname = "a"\nsha256 = "{"0" * 64}"\nscopes = ["predict:m"]', "model.predict:NAME"),
        (f'[[key]]\nname = "a"\nsha256 = "{"0" * 64}"\nscopes = []\nbytes_per_second = "many"', "bytes_per_second"),
        (f'[[key]]\nname = "a"\nsha256 = "{"0" * 64}"\nscopes = []\nrequests_per_second = -1', "requests_per_second"),
        ('[jwt]\nissuer = "a"\naudience = "b"\njwks_file = "none.json"', "none.json cannot be read"),
        ('[jwt]\nissuer = "a"\naudience = "b"', "has one of jwks_file and jwks_url"),
        ('[jwt]\nissuer = "a"\naudience = "b"\njwks_url = "http://far.example/jwk"', "begins with https://"),
        ('[jwt]\nissuer = ""\naudience = "b"\njwks_file = "none.json"', "needs issuer"),
    ],
)
def test_mistakes_in_the_file_end_the_start(tmp_path, text, rule):
    path = tmp_path / "auth.toml"
    path.write_text(text)
    with pytest.raises(ServingError, match=rule):
        Tokens.read(path)


def test_rates():
    now = [0.0]
    rates = Rates(2.0, clock=lambda: now[0])
    assert [rates.take("a") for _ in range(4)] == [0.0] * 4  # a burst of twice the rate
    assert rates.take("a") == pytest.approx(0.5)
    assert rates.take("b") == 0.0
    now[0] = 0.5
    assert rates.take("a") == 0.0
    assert rates.take("a") > 0
    for i in range(20_000):  # more than are remembered: each new one has its burst
        assert rates.take(str(i)) == 0.0


def test_rates_of_several_processes_are_one(tmp_path):
    here, there = Rates(0.001, tmp_path / "requests"), Rates(0.001, tmp_path / "requests")
    assert (here.take("a"), there.take("b")) == (0.0, 0.0)
    assert there.take("a") > 0 and here.take("b") > 0


def test_limits_of_a_token():
    def guard_of(**limits) -> Guard:
        digests = {hashlib.sha256(name.encode()).hexdigest(): name for name in ("a", "b")}
        scopes = frozenset({Scope.PREDICT})
        return Guard(Tokens({key: Client(name, scopes, limits=Limits(**limits)) for key, name in digests.items()}), 0)

    def told(guard: Guard, token: str, size: int = 0) -> str:
        length = {"content-length": str(size)}
        reply = guard.http(Request("POST", PREDICT, {"authorization": f"Bearer {token}", **length}, b""))
        return "" if reply is None else f"{reply.status} {reply.body.decode()} {dict(reply.headers)['Retry-After']}"

    requests = guard_of(requests_per_second=1)
    assert [bool(told(requests, "a")) for _ in range(4)] == [False, False, True, True]
    assert told(requests, "a").startswith("429") and "has reached its limit" in told(requests, "a")
    assert told(requests, "b") == ""
    sizes = guard_of(bytes_per_second=1000)
    assert told(sizes, "a", 1500) == told(sizes, "a", 100_000) == ""  # what is left is enough for one more
    assert told(sizes, "a", 1).startswith("429") and told(sizes, "b", 1) == ""
    chunked = guard_of(bytes_per_second=1000)
    request = Request("POST", PREDICT, {"authorization": "Bearer a"}, b"")
    assert chunked.http(request) is None
    chunked.count(replace(request, body=b"x" * 5000))  # its length is known when it is in
    assert told(chunked, "a", 1).startswith("429")


def test_guessing_tokens_has_a_rate_too():
    guard = Guard(Tokens({}), 1.0)
    codes = []
    for i in range(4):
        with pytest.raises(ServingError) as caught:
            guard.check(Scope.READ, f"guess{i}", "10.0.0.1")
        codes.append(caught.value.code)
    assert codes == [Code.UNAUTHENTICATED] * 2 + [Code.RESOURCE_EXHAUSTED] * 2


# a server with tokens


def test_tokens_on_both_ports(half_plus_two, auth_file, issuer, start_server):
    server = start_server(model_base_path=str(half_plus_two.parent), auth_config_file=str(auth_file))
    assert ask(server, "/healthz")[0] == ask(server, "/readyz")[0] == 200
    status, headers, body = ask(server, PREDICT, BODY)
    assert status == 401 and headers["www-authenticate"].startswith(("Bearer", "Basic"))
    assert "token" in json.loads(body)["error"]
    assert ask(server, PREDICT, BODY, headers=bearer("nobody"))[0] == 401
    assert ask(server, PREDICT, BODY, headers=bearer("bob"))[0] == 403
    assert ask(server, PREDICT, BODY, headers=bearer("alice"))[0] == 200
    assert ask(server, PREDICT, BODY, headers=bearer(token_of(issuer)))[0] == 200
    assert ask(server, "/v1/models/default", headers=bearer("alice"))[0] == 403
    assert ask(server, "/v1/models/default", headers=bearer("bob"))[0] == 200
    assert ask(server, "/", headers={"Authorization": "Basic OmJvYg=="})[0] == 200  # the password of a browser
    assert ask(server, PREDICT, BODY, headers={"Authorization": "Basic OmFsaWNl"})[0] == 401  # which POST does not take

    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
        predict = prediction_service_pb2_grpc.PredictionServiceStub(channel).Predict
        models = model_service_pb2_grpc.ModelServiceStub(channel)
        request = PredictRequest()
        request.model_spec.name = "default"
        request.inputs["x"].dtype = 1
        request.inputs["x"].tensor_shape.dim.add(size=1)
        request.inputs["x"].float_val.append(2.0)

        def code(call, message, token=None):
            try:
                call(message, metadata=[("authorization", f"Bearer {token}")] if token else [], timeout=10)
            except grpc.RpcError as error:
                return error.code().name
            return "OK"

        status_of = GetModelStatusRequest()
        status_of.model_spec.name = "default"
        assert code(predict, request) == code(predict, request, "nobody") == "UNAUTHENTICATED"
        assert code(predict, request, "alice") == code(predict, request, token_of(issuer)) == "OK"
        assert code(predict, request, "bob") == "PERMISSION_DENIED"
        assert code(models.GetModelStatus, status_of, "bob") == "OK"
        assert code(models.HandleReloadConfigRequest, ReloadConfigRequest(), "bob") == "PERMISSION_DENIED"
        assert code(models.HandleReloadConfigRequest, ReloadConfigRequest(), "root") == "INVALID_ARGUMENT"


def test_scopes_of_one_model_on_both_ports(half_plus_two, issuer, start_server, tmp_path):
    (tmp_path / "keys.json").write_text(json.dumps(issuer[1]))
    models = " ".join(
        f'config {{ name: "{name}" base_path: "{half_plus_two.parent}" model_platform: "tensorflow" }}'
        for name in ("tth", "ww")
    )
    (tmp_path / "models").write_text(f"model_config_list {{ {models} }}")
    (tmp_path / "auth.toml").write_text(key_lines(alice="model.predict:tth model.read:tth", root="predict read write"))
    server = start_server(
        model_config_file=str(tmp_path / "models"),
        auth_config_file=str(tmp_path / "auth.toml"),
        enable_tfaas=True,
        tfaas_base_path=str(tmp_path / "uploads"),
        enable_model_list=True,
    )

    def status(path: str, body: bytes | None = None, method: str | None = None) -> int:
        return ask(server, path, body, method, bearer("alice"))[0]

    assert status("/v1/models/tth:predict", BODY) == status("/v1/models/tth/versions/123:predict", BODY) == 200
    assert status("/v1/models/ww:predict", BODY) == status("/v1/models/none:predict", BODY) == 403
    assert status("/v1/models/tth/metadata") == 200 and status("/v1/models/ww/metadata") == 403
    assert status("/v1/models") == status("/") == status("/models") == 403  # these tell of all models
    assert status("/json", b'{"model": "tth", "values": [2.0]}') == 200
    assert status("/json", b'{"model": "ww", "values": [2.0]}') == 403
    assert status("/delete/tth", None, "DELETE") == status("/upload", b"x") == 403
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)

        def code(call, request) -> str:
            return call.future(request, metadata=[("authorization", "Bearer alice")], timeout=10).code().name

        def predict(name: str) -> PredictRequest:
            request = PredictRequest(model_spec={"name": name})
            request.inputs["x"].dtype = 1
            return request

        def infer(*names: str) -> MultiInferenceRequest:
            return MultiInferenceRequest(tasks=[{"model_spec": {"name": name}} for name in names])

        assert code(stub.Predict, predict("tth")) == "OK"
        assert code(stub.Predict, predict("ww")) == code(stub.Predict, predict("")) == "PERMISSION_DENIED"
        assert code(stub.MultiInference, infer("tth")) == "UNIMPLEMENTED"  # it passes, with a task of no kind
        assert (
            code(stub.MultiInference, infer("tth", "ww")) == code(stub.MultiInference, infer()) == "PERMISSION_DENIED"
        )


def test_rate_on_both_ports(half_plus_two, start_server):
    server = start_server(model_base_path=str(half_plus_two.parent), requests_per_second_per_client=0.5)
    replies = [ask(server, "/v1/models/default") for _ in range(3)]
    assert [status for status, *_ in replies] == [200, 429, 429]
    assert "retry-after" in replies[1][1]
    assert ask(server, "/healthz")[0] == 200
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel, pytest.raises(grpc.RpcError) as caught:
        model_service_pb2_grpc.ModelServiceStub(channel).GetModelStatus(GetModelStatusRequest(), timeout=10)
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


# limits


def test_large_bodies_are_refused(half_plus_two, start_server):
    server = start_server(model_base_path=str(half_plus_two.parent), max_request_bytes=100_000)
    assert ask(server, PREDICT, BODY)[0] == 200
    status, _, body = ask(server, PREDICT, b" " * 200_000)
    assert status == 413 and "larger than 100000 bytes" in json.loads(body)["error"]
    chunks = iter([b" " * 60_000] * 3)
    assert ask(server, PREDICT, chunks)[0] == 413
    bomb = gzip.compress(b" " * 50_000_000)
    status, _, body = ask(server, PREDICT, bomb, headers={"Content-Encoding": "gzip"})
    assert status == 400 and "larger than 100000 bytes" in json.loads(body)["error"]
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel, pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary("/tensorflow.serving.PredictionService/Predict")(b"\x0a" * 200_000, timeout=10)
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


@pytest.mark.timeout(30)
@pytest.mark.parametrize(
    "body",
    [
        b'{"instances": [1.0], "x": ' + b"[" * 1025 + b"]" * 1025 + b"}",
        b'{"instances": ' + b'[{"a":' * 200_000,
        b"[" * 1_000_000,
    ],
)
def test_deep_json_is_refused_at_once(server, body):
    status, _, reply = ask(server, PREDICT, body)
    assert status == 400 and "nested deeper than 1024 levels" in json.loads(reply)["error"]
    fine = b'{"instances": [2.0], "note": "' + b"[{" * 5000 + b'\\"", "x": ' + b"[" * 500 + b"]" * 500 + b"}"
    assert ask(server, PREDICT, fine)[0] == 200


def raw(server, *parts, pause=0.0) -> bytes:
    with socket.create_connection(("127.0.0.1", server.rest_port), timeout=20) as connection:
        try:
            for part in parts:
                connection.sendall(part)
                time.sleep(pause)
        except (BrokenPipeError, ConnectionResetError):
            pass
        got = b""
        try:
            while data := connection.recv(65536):
                got += data
        except ConnectionResetError:
            pass
        return got


def test_endless_headers_are_refused(server):
    part = b"".join(b"X-%d: %s\r\n" % (i, b"a" * 1000) for i in range(60))
    got = raw(server, b"GET / HTTP/1.1\r\nHost: a\r\n", *[part] * 20, pause=0.02)
    assert got.startswith(b"HTTP/1.1 431") or got == b""  # the reply may be lost behind a reset
    assert ask(server, "/healthz")[0] == 200


CHUNKED = b"POST /v1/models/default:predict HTTP/1.1\r\nTransfer-Encoding: chunked\r\n"


def test_endless_trailers_are_refused(server):
    part = b"".join(b"X-%d: %s\r\n" % (i, b"a" * 1000) for i in range(60))
    got = raw(server, CHUNKED + b"\r\n1\r\n{\r\n0\r\n", *[part] * 20, pause=0.02)
    assert got.startswith(b"HTTP/1.1 431") or got == b""  # as above
    got = raw(server, CHUNKED + b"\r\n1;%s\r\n" % (b"a" * 200_000), pause=0.02)  # nor the extension of a chunk
    assert got.startswith(b"HTTP/1.1 431") or got == b""


def test_trailers_are_taken_and_forgotten(server):
    chunk = b"%x\r\n%s\r\n0\r\n" % (len(BODY), BODY)
    got = half_closed(server.rest_port, CHUNKED + b"\r\n" + chunk + b"Content-Encoding: gzip\r\n\r\n")
    assert got.startswith(b"HTTP/1.1 200")


def test_a_transfer_encoding_twice_is_refused(server):
    assert raw(server, CHUNKED + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n").startswith(b"HTTP/1.1 400")


def test_slow_requests_are_ended(server, monkeypatch):
    monkeypatch.setattr(http_limits, "SECONDS", 0.5)
    assert raw(server, b"POST /v1/models/default:predict HTTP/1.1\r\nContent-Length: 10\r\n\r\n{").startswith(
        b"HTTP/1.1 408"
    )
    assert raw(server, b"GET / HT").startswith(b"HTTP/1.1 408")


def test_the_time_limit_ends_with_the_request(server, monkeypatch):
    monkeypatch.setattr(http_limits, "SECONDS", 1.0)
    connection = http.client.HTTPConnection("127.0.0.1", server.rest_port, timeout=20)
    for _ in range(3):
        connection.request("POST", PREDICT, BODY)
        assert connection.getresponse().read()
        time.sleep(0.6)


def half_closed(port, *parts):
    """What comes back to a client that sends these parts and closes its half of the connection."""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        connection.sendall(b"".join(parts))
        connection.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: connection.recv(65536), b""))


def test_a_client_that_half_closes_gets_its_answers(server):
    head = b"POST %s HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % (PREDICT.encode(), len(BODY))
    assert half_closed(server.rest_port, head, BODY).endswith(b"]\n}")
    assert half_closed(server.rest_port, head, BODY, head, BODY).count(b"HTTP/1.1 200") == 2
    assert half_closed(server.rest_port, head, BODY[:5]) == b""


def test_binds_to_this_machine_unless_told_otherwise(server):
    address = next(iter(asyncio.run(_own_addresses())), None)
    if address is None:
        pytest.skip("this machine has no other address than 127.0.0.1")
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((address, server.rest_port), timeout=5)


async def _own_addresses() -> list[str]:
    found = await asyncio.get_running_loop().getaddrinfo(socket.gethostname(), None, family=socket.AF_INET)
    return [address for address in (str(info[4][0]) for info in found) if not address.startswith("127.")]


# TLS


def certificate(name: str, ca=None):
    """(PEM key, PEM certificate, (key, certificate)), signed by ``ca`` or by itself."""
    key = rsa.generate_private_key(65537, 2048)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    signer, issuer = (ca[0], ca[1].subject) if ca else (key, subject)
    now = datetime.datetime.now(datetime.UTC)
    built = (
        x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(key.public_key())
        .serial_number(x509.random_serial_number()).not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=ca is None, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
        .add_extension(x509.KeyUsage(True, False, True, False, False, ca is None, False, False, False), critical=True)
        .sign(signer, hashes.SHA256())
    )  # fmt: skip
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return pem.decode(), built.public_bytes(serialization.Encoding.PEM).decode(), (key, built)


@pytest.fixture(scope="module")
def certificates():
    _, ca_pem, ca = certificate("test CA")
    return {"ca": ca_pem, "server": certificate("localhost", ca)[:2], "client": certificate("client", ca)[:2]}


@pytest.mark.parametrize("mutual", [False, True])
def test_tls_on_both_ports(half_plus_two, certificates, tmp_path, start_server, mutual):
    config = SSLConfig(
        server_key=certificates["server"][0], server_cert=certificates["server"][1],
        custom_ca=certificates["ca"] if mutual else "", client_verify=mutual,
    )  # fmt: skip
    path = tmp_path / "ssl.txt"
    path.write_text(str(config))
    server = start_server(model_base_path=str(half_plus_two.parent), ssl_config_file=str(path))

    def over_http(identified: bool) -> int:
        context = ssl.create_default_context(cadata=certificates["ca"])
        if identified:
            pem = tmp_path / "client.pem"
            pem.write_text("\n".join(certificates["client"]))
            context.load_cert_chain(pem)
        return ask(server, PREDICT, BODY, context=context)[0]

    def over_grpc(identified: bool) -> None:
        pair = [part.encode() for part in certificates["client"]] if identified else [None, None]
        credentials = grpc.ssl_channel_credentials(certificates["ca"].encode(), *pair)
        with grpc.secure_channel(f"localhost:{server.grpc_port}", credentials) as channel:
            request = GetModelStatusRequest()
            request.model_spec.name = "default"
            model_service_pb2_grpc.ModelServiceStub(channel).GetModelStatus(request, timeout=10)

    assert over_http(True) == 200
    over_grpc(True)
    with pytest.raises((ssl.SSLError, OSError, http.client.HTTPException)):
        ask(server, PREDICT, BODY, context=ssl.create_default_context())  # a certificate of an unknown CA
    if mutual:
        with pytest.raises((ssl.SSLError, OSError)):
            over_http(False)
        with pytest.raises(grpc.RpcError):
            over_grpc(False)
    else:
        assert over_http(False) == 200
        over_grpc(False)


def test_tls_needs_its_parts():
    with pytest.raises(ServingError, match="server_key and server_cert"):
        Tls.of(SSLConfig(server_key="a"))
    with pytest.raises(ServingError, match="custom_ca"):
        Tls.of(SSLConfig(server_key="a", server_cert="b", client_verify=True))
    with pytest.raises(ServingError, match="--ssl_config_file"):
        Tls.of(SSLConfig(server_key="a", server_cert="b")).context()
