"""TFaaS's endpoints, and each hole of that server as a test of ours; uploads that attack."""

import http.client
import io
import json
import tarfile
import threading
import time
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import tensorflow as tf
from helpers.savedmodels import Aborts, Dense, Maps, form, packed, saved
from mlaas4hep_serving import messages
from mlaas4hep_serving.errors import Code, ServingError
from mlaas4hep_serving.models.savedmodel import read_proto
from mlaas4hep_serving.tfaas import archives, endpoints, graphscan, sandbox, trial, uploads
from mlaas4hep_serving.tfaas.archives import Caps
from mlaas4hep_serving.tfaas.confine import Limits
from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

KEY = "secret-of-the-tests"
CAPS = Caps(members=20, size=1 << 20, ratio=100)


@pytest.fixture(scope="session")
def dense(tmp_path_factory) -> Path:
    return saved(tmp_path_factory.mktemp("dense") / "1", Dense())


@pytest.fixture(scope="session")
def dense_doubled(tmp_path_factory) -> Path:
    return saved(tmp_path_factory.mktemp("dense2") / "1", Dense(2.0))


class Asker:
    def __init__(self, server, base: Path) -> None:
        self.server, self.base = server, base

    def __call__(self, method: str, path: str, body=None, headers=None, token: str | None = KEY):
        connection = http.client.HTTPConnection("127.0.0.1", self.server.rest_port, timeout=120)
        auth = {"Authorization": f"Bearer {token}"} if token else {}
        connection.request(method, path, body, {**auth, **(headers or {})})
        reply = connection.getresponse()
        text = reply.read()
        connection.close()
        assert b"Traceback" not in text
        return reply.status, text

    def json(self, *args, **kwargs):
        status, text = self(*args, **kwargs)
        return status, json.loads(text)

    def row(self, values, model="m", keys=("a", "b", "c")):
        return self.json("POST", "/json", json.dumps({"keys": keys, "values": values, "model": model}))


@pytest.fixture(scope="module")
def asker(tmp_path_factory, dense):
    """A server with the model ``m`` uploaded."""
    import hashlib

    from mlaas4hep_serving.options import Options
    from mlaas4hep_serving.server import Server

    base = tmp_path_factory.mktemp("tfaas")
    auth = base / "auth.toml"
    digest = hashlib.sha256(KEY.encode()).hexdigest()
    reader = hashlib.sha256(b"reader").hexdigest()
    auth.write_text(
        f'[[key]]\nname = "root"\nsha256 = "{digest}"\nscopes = ["predict", "read", "write"]\n'
        f'[[key]]\nname = "reader"\nsha256 = "{reader}"\nscopes = ["predict", "read"]\n'
    )
    server = Server(
        Options(
            port=-1,
            rest_api_port=-1,
            enable_tfaas=True,
            tfaas_base_path=str(base / "models"),
            auth_config_file=str(auth),
            trust_uploads=True,  # test_confined.py has the models that run apart, whose start takes seconds
        )
    )
    asked = Asker(server, base / "models")
    body, headers = form(
        name="m",
        params=json.dumps({"name": "m", "description": "d"}).encode(),
        labels=b"up\ndown\n",
        model=packed(dense),
    )
    assert asked.json("POST", "/upload", body, headers) == (200, {"name": "m", "version": 1})
    yield asked
    server.stop()


@pytest.fixture
def untried(monkeypatch):
    """Uploads without the sandbox, a process that takes seconds and has its own tests."""
    monkeypatch.setattr(sandbox, "run", lambda folder, _: trial.signatures_of(read_proto(folder).meta_graphs[0]))


# the endpoints


def test_json(asker):
    assert asker.row([1, 2.5, 3]) == (200, [6.5, -6.5])
    assert asker.json("POST", "/predict/json", '{"values": [1, 2, 3], "model": "m"}') == (200, [6.0, -6.0])
    assert asker.json("POST", "/json", '{"values": [1, 2, 3]}') == (200, [6.0, -6.0])  # one model, no name needed


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ("", 400),
        ("{}", 400),
        ('{"values": "abc", "model": "m"}', 400),
        ('{"values": [1, 2], "keys": ["a"], "model": "m"}', 400),
        ('{"values": [1, true, 2], "model": "m"}', 400),
        ('{"values": [1, 2], "model": "m"}', 400),
        ('{"values": [1, 2, 3], "model": "none"}', 404),
        ('{"values": [1, 2, 3], "model": ["m"]}', 400),
        ('{"values": [1, 2, 3], "model": "../m"}', 404),
    ],
)
def test_rows_that_are_refused(asker, body, status):
    got, answer = asker.json("POST", "/json", body)
    assert got == status and answer["error"]


def test_rows_that_would_take_long_to_read(asker):
    values = json.dumps({"values": [1.0] * 1_000_000, "model": "m"})
    status, answer = asker.json("POST", "/json", values)
    assert status == 400 and "larger than" in answer["error"]
    row = messages.Row(value=[1.0] * (2 << 20), model="m").SerializeToString()
    assert asker("POST", "/proto", row)[0] == 400


def test_proto(asker):
    row = messages.Row(key=["a", "b", "c"], value=[1, 2, 3], model="m")
    status, body = asker("POST", "/proto", row.SerializeToString())
    classes = [(c.label, c.probability) for c in messages.Predictions.FromString(body).prediction]
    assert (status, classes) == (200, [("up", 6.0), ("down", -6.0)])
    # the wire format of Row: field 1 keys, 2 packed floats, 3 model
    assert (
        row.SerializeToString()
        == b"\n\x01a\n\x01b\n\x01c\x12\x0c" + np.array([1, 2, 3], np.float32).tobytes() + b"\x1a\x01m"
    )
    assert asker("POST", "/proto", b"\xff\xff")[0] == 400


def test_models_params_status(asker):
    assert asker.json("GET", "/models") == (200, [{"name": "m", "description": "d"}])
    assert asker.json("GET", "/params/m") == (200, {"name": "m", "description": "d"})
    assert asker("GET", "/params/none")[0] == 404
    assert asker("POST", "/params", '{"name": "m", "description": "new"}')[0] == 200
    assert asker.json("GET", "/params/m")[1]["description"] == "new"
    assert asker("POST", "/params", '{"name": "m", "description": "d"}')[0] == 200
    assert asker("POST", "/params", '{"name": "../../x"}')[0] == 400
    assert asker("POST", "/params", "[" * 5000)[0] == 400
    status, told = asker.json("GET", "/status")
    assert status == 200 and told["getRequests"] > 0 and told["Memory"]["Virtual"]["total"] > 0


def test_values_by_key_with_jagged_inputs():
    from tensorflow.core.protobuf.meta_graph_pb2 import SignatureDef

    signature = SignatureDef()
    for name, sizes in {"met": [-1], "Jet_pt": [-1, -1]}.items():
        signature.inputs[name].dtype = 1
        for size in sizes:
            signature.inputs[name].tensor_shape.dim.add(size=size)
    inputs = endpoints.row_inputs(signature, ["Jet_pt_1", "met", "Jet_pt_0"], [30.0, 1.5, 40.0])
    np.testing.assert_array_equal(inputs["met"], np.array([1.5], np.float32))
    np.testing.assert_array_equal(inputs["Jet_pt"], np.array([[40, 30]], np.float32))
    assert endpoints.row_inputs(signature, ["met"], [1.0])["Jet_pt"].shape == (1, 0)
    for keys in (["Jet_pt_0"], ["met", "other"], ["met", "Jet_pt_999999"], ["met", "Jet_pt"]):
        with pytest.raises(ServingError) as caught:
            endpoints.row_inputs(signature, keys, [1.0] * len(keys))
        assert caught.value.code is Code.INVALID_ARGUMENT


class Bright(tf.Module):
    @tf.function(input_signature=[tf.TensorSpec([None, 4, 4, 1], tf.float32, name="image")])
    def __call__(self, image):
        mean = tf.reduce_mean(image, axis=[1, 2])
        return {"scores": tf.concat([mean / 255, 1 - mean / 255, mean * 0, mean * 0, mean * 0, mean * 0], axis=1)}


@pytest.mark.usefixtures("untried")
def test_image(asker, tmp_path):
    body, headers = form(
        name="bright", model=packed(saved(tmp_path / "1", Bright())), labels=b"light\ndark\na\nb\nc\nd\n"
    )
    assert asker("POST", "/upload", body, headers)[0] == 200
    try:
        for kind in ("png", "jpeg"):
            out = io.BytesIO()
            PIL.Image.new("RGB", (8, 6), (255, 255, 255)).save(out, kind)
            body, headers = form(image=out.getvalue(), model="bright")
            status, answer = asker.json("POST", "/image", body, headers)
            assert status == 200 and answer["filename"] == "image.bin"
            assert len(answer["labels"]) == 5
            assert answer["labels"][0] == {"label": "light", "probability": pytest.approx(1.0)}
        for image in (b"", b"GIF89a", out.getvalue()[:60], _png_bomb()):
            body, headers = form(image=image, model="bright")
            assert asker("POST", "/image", body, headers)[0] == 400
        body, headers = form(image=out.getvalue(), model="m")
        assert asker("POST", "/image", body, headers)[0] == 400  # no model of images
    finally:
        assert asker("DELETE", "/delete/bright")[0] == 200


def _png_bomb() -> bytes:
    """A PNG of a few bytes whose header claims 60 000 x 60 000 pixels."""
    import struct
    import zlib

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")
    )


# holes of TFaaS


def test_no_file_of_the_machine_is_given_out(asker):
    for path in (
        "/data?model=/etc/passwd",
        "/data?model=../../../../etc/passwd",
        "/params/..%2f..%2fetc",
        "/params/../../etc/passwd",
        "/netron/?file=/etc/passwd",
    ):
        status, body = asker("GET", path)
        assert b"root:" not in body
        assert status in (400, 404) or path.startswith("/netron")  # the list of models


@pytest.mark.parametrize(
    "name", ["../evil", "/tmp/evil", "a/b", "..", ".", ".hidden", "", "a\x00b", "x" * 200, "ü", "a\nb"]
)
def test_names_that_are_paths_are_refused(asker, dense, name):
    before = sorted(asker.base.parent.rglob("*"))
    body, headers = form(name=name, model=packed(dense))
    assert asker("POST", "/upload", body, headers)[0] == 400
    assert asker("DELETE", f"/delete/{name.encode().hex() if '/' in name else 'none'}")[0] in (400, 404)
    assert sorted(asker.base.parent.rglob("*")) == before


def test_uploads_need_a_token_with_its_scope(asker, dense, half_plus_two, start_server, tmp_path):
    body, headers = form(name="x", model=packed(dense))
    assert asker("POST", "/upload", body, headers, token=None)[0] == 401
    assert asker("POST", "/upload", body, headers, token="reader")[0] == 403
    assert asker("DELETE", "/delete/m", token="reader")[0] == 403
    assert asker("POST", "/params", '{"name": "m"}', token="reader")[0] == 403
    assert asker.row([1, 2, 3])[0] == 200
    # a server without tokens takes no uploads at all
    server = start_server(
        model_base_path=str(half_plus_two.parent), enable_tfaas=True, tfaas_base_path=str(tmp_path / "up")
    )
    bare = Asker(server, tmp_path / "up")
    assert bare("POST", "/upload", body, headers, token=None)[0] == 403
    assert bare("DELETE", "/delete/default", token=None)[0] == 403
    assert bare("POST", "/params", "{}", token=None)[0] == 403
    assert bare.json("POST", "/json", '{"values": [2.0], "model": "default"}', token=None) == (200, [3.0])


def test_a_folder_without_params_does_not_break_the_list(asker):
    (asker.base / "empty").mkdir()
    (asker.base / "file").write_text("x")
    try:
        assert asker.json("GET", "/models") == (200, [{"name": "m", "description": "d"}])
    finally:
        (asker.base / "empty").rmdir()
        (asker.base / "file").unlink()


@pytest.mark.usefixtures("untried")
def test_a_replaced_model_stops_answering_at_once(asker, dense, dense_doubled):
    body, headers = form(name="r", model=packed(dense))
    assert asker("POST", "/upload", body, headers)[0] == 200
    stop, seen, failed = threading.Event(), [], []

    def constantly() -> None:
        while not stop.is_set():
            time.sleep(0.005)
            status, answer = asker.row([1, 2, 3], "r")
            (seen if status == 200 else failed).append(answer[0] if status == 200 else (status, answer))

    def until(answer: float) -> None:
        deadline = time.monotonic() + 60
        while answer not in seen and not failed and time.monotonic() < deadline:
            time.sleep(0.005)

    thread = threading.Thread(target=constantly)
    thread.start()
    try:
        until(6.0)
        body, headers = form(name="r", model=packed(dense_doubled))
        assert asker.json("POST", "/upload", body, headers) == (200, {"name": "r", "version": 2})
        assert asker.row([1, 2, 3], "r") == (200, [12.0, -12.0])
        until(12.0)
    finally:
        stop.set()
        thread.join()
    assert not failed and seen == sorted(seen) and set(seen) == {6.0, 12.0}  # no request lost, none went back
    assert [p.name for p in (asker.base / "r").iterdir()] == ["2"]

    assert asker.json("DELETE", "/delete/r") == (200, {"deleted": "r"})
    assert asker.row([1, 2, 3], "r")[0] == 404
    assert asker("POST", "/v1/models/r:predict", '{"instances": [[1, 2, 3]]}')[0] == 404
    assert not (asker.base / "r").exists()
    assert asker("DELETE", "/delete/r")[0] == 404
    body, headers = form(name="r", model=packed(dense))  # the name is free again
    assert asker("POST", "/upload", body, headers)[0] == 200
    assert asker.row([1, 2, 3], "r") == (200, [6.0, -6.0])
    body, headers = form(model="r")
    assert asker("DELETE", "/delete", body, headers)[0] == 200


@pytest.mark.usefixtures("untried")
def test_uploads_at_the_same_time_do_not_share_a_file(asker, dense, dense_doubled):
    """TFaaS unpacks every upload from /tmp/bundle.tar."""
    results = {}

    def upload(name: str, folder: Path) -> None:
        results[name] = asker("POST", "/upload", packed(folder, {"name": name}, root="bundle"))[0]

    threads = [threading.Thread(target=upload, args=(f"t{i}", [dense, dense_doubled][i % 2])) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == {"t0": 200, "t1": 200}
    assert asker.row([1, 1, 1], "t0")[1][0] == 3.0 and asker.row([1, 1, 1], "t1")[1][0] == 6.0
    for name in results:
        assert asker("DELETE", f"/delete/{name}")[0] == 200
    assert not list(asker.base.glob(".upload-*"))


def test_uploaded_models_are_there_after_a_restart(asker, start_server):
    server = start_server(enable_tfaas=True, tfaas_base_path=str(asker.base), trust_uploads=True)
    assert Asker(server, asker.base).row([1, 2, 3])[1] == [6.0, -6.0]


# archives that attack


def tar_of(*members, compress=False) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz" if compress else "w") as tar:
        for member in members:
            info, content = member if isinstance(member, tuple) else (member, b"")
            info = tarfile.TarInfo(info) if isinstance(info, str) else info
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return out.getvalue()


def special(name: str, kind: bytes, target: str = "/etc/passwd") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def pax_bomb() -> bytes:
    info = tarfile.TarInfo("x")
    info.pax_headers = {"comment": "a" * 30_000_000}
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz", format=tarfile.PAX_FORMAT) as tar:
        tar.addfile(info)
    return out.getvalue()


ATTACKS = {
    "parent": (tar_of(("../evil", b"x")), Code.INVALID_ARGUMENT, "outside"),
    "parent inside": (tar_of(("a/../../evil", b"x")), Code.INVALID_ARGUMENT, "outside"),
    "absolute": (tar_of(("/tmp/evil", b"x")), Code.INVALID_ARGUMENT, "outside"),
    "symlink": (tar_of(special("link", tarfile.SYMTYPE)), Code.INVALID_ARGUMENT, "neither a plain file"),
    "through a symlink": (
        tar_of(special("d", tarfile.SYMTYPE, "/tmp"), ("d/evil", b"x")), Code.INVALID_ARGUMENT, "neither a plain file"),
    "hard link": (tar_of(special("link", tarfile.LNKTYPE)), Code.INVALID_ARGUMENT, "neither a plain file"),
    "device": (tar_of(special("null", tarfile.CHRTYPE)), Code.INVALID_ARGUMENT, "neither a plain file"),
    "block device": (tar_of(special("disk", tarfile.BLKTYPE)), Code.INVALID_ARGUMENT, "neither a plain file"),
    "pipe": (tar_of(special("pipe", tarfile.FIFOTYPE)), Code.INVALID_ARGUMENT, "neither a plain file"),
    "twice": (tar_of(("a", b"x"), ("./a", b"y")), Code.INVALID_ARGUMENT, "two members"),
    "file and folder": (tar_of(("a", b"x"), ("a/b", b"y")), Code.INVALID_ARGUMENT, "cannot be unpacked"),
    "odd name": (tar_of(("a\x1b[31m", b"x")), Code.INVALID_ARGUMENT, "odd characters"),
    "backslash": (tar_of(("..\\evil", b"x")), Code.INVALID_ARGUMENT, "odd characters"),
    "deep": (tar_of(("a/" * 40 + "b", b"x")), Code.INVALID_ARGUMENT, "too long a name"),
    "long": (tar_of(("a" * 300, b"x")), Code.INVALID_ARGUMENT, "too long a name"),
    "many": (tar_of(*[(f"f{i}", b"") for i in range(30)]), Code.RESOURCE_EXHAUSTED, "more than 20 members"),
    "large": (tar_of(("a", b"\0" * 2_000_000)), Code.RESOURCE_EXHAUSTED, "caps of size"),
    "bomb": (tar_of(("a", b"\0" * 50_000_000), compress=True), Code.RESOURCE_EXHAUSTED, "caps of size"),
    "bomb of headers": (pax_bomb(), Code.RESOURCE_EXHAUSTED, "caps of size"),
    "cut off": (tar_of(("a", b"x" * 5000), compress=True)[:-30], Code.INVALID_ARGUMENT, "damaged"),
    "no archive": (b"hello", Code.INVALID_ARGUMENT, "no tar"),
    "empty": (b"", Code.INVALID_ARGUMENT, "no tar"),
}  # fmt: skip


@pytest.mark.parametrize("attack", ATTACKS)
def test_archives_that_are_refused(tmp_path, attack):
    archive, code, rule = ATTACKS[attack]
    target = tmp_path / "inside" / "target"
    target.mkdir(parents=True)
    with pytest.raises(ServingError, match=rule) as caught:
        archives.unpack(archive, target, CAPS)
    assert caught.value.code is code
    outside = [p for p in tmp_path.rglob("*") if target not in p.parents and p not in (target, target.parent)]
    assert not outside and not Path("/tmp/evil").exists()
    assert not any(p.is_symlink() for p in tmp_path.rglob("*"))
    assert sum(p.stat().st_size for p in target.rglob("*")) <= CAPS.size


def test_an_honest_archive_is_unpacked(tmp_path):
    for compress in (False, True):
        target = tmp_path / str(compress)
        target.mkdir()
        archives.unpack(tar_of(("a/b.txt", b"hello"), ("c", b""), compress=compress), target, CAPS)
        assert (target / "a" / "b.txt").read_bytes() == b"hello" and (target / "c").read_bytes() == b""


# models that attack


class Reads(tf.Module):
    @tf.function(input_signature=[tf.TensorSpec([], tf.string, name="x")])
    def __call__(self, x):
        return {"y": tf.io.read_file(x)}


class Writes(tf.Module):
    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, name="x")])
    def __call__(self, x):
        tf.io.write_file("/tmp/evil", "x")
        return {"y": x}


class Python(tf.Module):
    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, name="x")])
    def __call__(self, x):
        return {"y": tf.numpy_function(lambda v: v, [x], tf.float32)}


class Hidden(tf.Module):
    """In a branch of a conditional, which TensorFlow keeps as a function."""

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, name="x")])
    def __call__(self, x):
        read = lambda: tf.strings.to_number(tf.io.read_file("/etc/passwd"))  # noqa: E731
        return {"y": tf.cond(tf.reduce_sum(x) > 5, read, lambda: tf.constant(0.0)) + x}


class Saves(tf.Module):
    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, name="x")])
    def __call__(self, x):
        tf.raw_ops.SaveV2(prefix="/tmp/evil", tensor_names=["a"], shape_and_slices=[""], tensors=[x])
        return {"y": x}


class Restores(tf.Module):
    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, name="x")])
    def __call__(self, x):
        (found,) = tf.raw_ops.RestoreV2(
            prefix="/models/other", tensor_names=["a"], shape_and_slices=[""], dtypes=[tf.float32]
        )
        return {"y": x + found}


class Lists(tf.Module):
    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="x")])
    def __call__(self, x):
        return {"y": tf.raw_ops.MatchingFiles(pattern=x)}


class Dataset(tf.Module):
    @tf.function(input_signature=[tf.TensorSpec([], tf.string, name="x")])
    def __call__(self, x):
        return {"y": tf.data.TextLineDataset(x).take(1).get_single_element()}


class Describes(tf.Module):
    """An op whose attribute is a file."""

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="x")])
    def __call__(self, x):
        decoded = tf.raw_ops.DecodeProtoV2(
            bytes=x, message_type="a.B", field_names=["c"], output_types=[tf.float32], descriptor_source="/etc/passwd"
        )
        return {"y": decoded.values[0]}


class Prints(tf.Module):
    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, name="x")])
    def __call__(self, x):
        tf.print("x", output_stream="file:///tmp/evil")
        return {"y": x}


class Nested(tf.Module):
    """In a function in a loop in a branch."""

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, name="x")])
    def __call__(self, x):
        @tf.function
        def inner(v):
            tf.raw_ops.Abort(error_msg="inner")
            return v + 1

        loop = lambda: tf.while_loop(lambda v: tf.reduce_any(v > 5), lambda v: (inner(v),), [x])[0]  # noqa: E731
        return {"y": tf.cond(tf.reduce_any(x > 5), loop, lambda: x)}


REFUSED = [Reads, Writes, Python, Hidden, Saves, Restores, Lists, Dataset, Describes, Prints, Maps, Aborts, Nested]


@pytest.mark.parametrize("kind", REFUSED)
def test_ops_that_are_refused(tmp_path, kind):
    folder = saved(tmp_path / "1", kind())
    with pytest.raises(ServingError, match="the model is refused: op ") as caught:
        graphscan.check(folder)
    assert caught.value.code is Code.PERMISSION_DENIED


@pytest.mark.parametrize(("kind", "op"), [(Maps, "ImmutableConst"), (Aborts, "Abort")])
def test_what_is_refused_is_named_and_the_server_lives(asker, tmp_path, kind, op):
    body, headers = form(name="bad", model=packed(saved(tmp_path / "1", kind())))
    status, answer = asker.json("POST", "/upload", body, headers)
    assert status == 403 and f"op {op} " in answer["error"]
    assert asker.row([1, 2, 3])[0] == 200


@pytest.mark.slow
def test_messages_to_uploaders_have_no_paths_of_the_server(asker, dense, tmp_path):
    broken = packed(changed(dense, tmp_path / "n", lambda meta_graph: meta_graph.signature_def.clear()))
    damaged = tar_of(
        ("a/saved_model.pb", (dense / "saved_model.pb").read_bytes()),
        ("a/variables/variables.index", b"x"),
        ("a/variables/variables.data-00000-of-00001", b"y"),
    )
    for model in (tar_of(("a/saved_model.pb", b"\x00garbage")), broken, damaged):
        body, headers = form(name="bad", model=model)
        status, answer = asker.json("POST", "/upload", body, headers)
        assert status == 400 and answer["error"]
        assert "/tmp" not in answer["error"] and str(asker.base) not in answer["error"]


class Vocabulary(tf.Module):
    def __init__(self, path: Path) -> None:
        super().__init__()
        lines = tf.lookup.TextFileInitializer(
            str(path), tf.string, tf.lookup.TextFileIndex.WHOLE_LINE, tf.int64, tf.lookup.TextFileIndex.LINE_NUMBER
        )
        self.table = tf.lookup.StaticHashTable(lines, -1)

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="x")])
    def __call__(self, x):
        return {"y": self.table.lookup(x)}


def test_files_that_a_table_reads_are_refused(tmp_path):
    (tmp_path / "words.txt").write_text("a\nb\n")
    with pytest.raises(ServingError, match="asset file"):
        graphscan.check(saved(tmp_path / "1", Vocabulary(tmp_path / "words.txt")))


def changed(source: Path, target: Path, change) -> Path:
    """A copy of a model with its graph changed by hand, as no exporter would write it."""
    import shutil

    shutil.copytree(source, target)
    proto = SavedModel.FromString((target / "saved_model.pb").read_bytes())
    change(proto.meta_graphs[0])
    (target / "saved_model.pb").write_bytes(proto.SerializeToString())
    return target


def restore_from(path: str):
    """The restore reads a file of the attacker's choice."""

    def change(meta_graph):
        graph = meta_graph.graph_def
        constant = graph.node.add(name="evil", op="Const")
        constant.attr["dtype"].type = 7
        constant.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(path))
        restore = next(node for node in graph.node if node.name == meta_graph.saver_def.restore_op_name)
        restore.input[0] = "evil"

    return change


def signature_of_the_saver(meta_graph):
    meta_graph.signature_def["serving_default"].outputs["score"].name = meta_graph.saver_def.save_tensor_name


def unknown_op(meta_graph):
    meta_graph.graph_def.node.add(name="odd", op="MyCustomOp")


def main_op_that_saves(meta_graph):
    collection = meta_graph.collection_def["saved_model_main_op"].node_list.value
    collection.append(meta_graph.saver_def.save_tensor_name.partition(":")[0])


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        (restore_from("/models/other/1/variables/variables"), "another file"),
        (signature_of_the_saver, "a signature or the start-up reaches it"),
        (main_op_that_saves, "a signature or the start-up reaches it"),
        (unknown_op, "no such op"),
    ],
)
def test_graphs_changed_by_hand(dense, tmp_path, change, rule):
    with pytest.raises(ServingError, match=rule):
        graphscan.check(changed(dense, tmp_path / "1", change))


def test_honest_models_pass(dense, half_plus_two):
    graphscan.check(dense)  # a saver of TensorFlow 2
    graphscan.check(half_plus_two)  # and of TensorFlow 1


class Grows(tf.Module):
    """Fills the memory."""

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, name="x")])
    def __call__(self, x):
        return {"y": tf.reduce_sum(tf.fill([1 << 17, 1 << 17], tf.reduce_sum(x)))[None]}


class Endless(tf.Module):
    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, name="x")])
    def __call__(self, x):
        return {"y": tf.while_loop(lambda v: tf.reduce_sum(v) < 1, lambda v: (v * 1.0,), [x])[0]}


@pytest.mark.slow
def test_models_that_crash_or_hang_do_so_elsewhere(asker, dense, tmp_path):
    grows, endless = (packed(saved(tmp_path / kind.__name__, kind())) for kind in (Grows, Endless))
    body, headers = form(name="grows", model=grows)
    status, answer = asker.json("POST", "/upload", body, headers)
    assert status == 400 and "cannot be loaded and run" in answer["error"]
    with pytest.raises(ServingError, match="longer than 12 s|SIGXCPU|SIGKILL"):
        sandbox.run(tmp_path / "Endless", Limits(seconds=12, cpu_seconds=4))
    lost = packed(dense, None)
    broken = tar_of(("saved_model.pb", b"\x00garbage"), compress=True)
    no_default = packed(changed(dense, tmp_path / "n", lambda m: m.signature_def.pop("serving_default")))
    for model in (broken, tar_of(("readme", b"x"), compress=True), no_default, lost[: len(lost) // 2], b"", b"\n"):
        body, headers = form(name="bad", model=model)
        status, answer = asker.json("POST", "/upload", body, headers)
        assert status == 400 and answer["error"], answer
    assert endless and asker.row([1, 2, 3])[0] == 200
    assert not {"grows", "bad"} & {p.name for p in asker.base.iterdir()}


def test_names_of_the_configuration_are_not_replaced(dense, half_plus_two, tmp_path):
    from mlaas4hep_serving.options import Options
    from mlaas4hep_serving.server import Server

    server = Server(
        Options(
            port=-1,
            rest_api_port=-1,
            model_base_path=str(half_plus_two.parent),
            enable_tfaas=True,
            tfaas_base_path=str(tmp_path),
        )
    )
    kept = uploads.Uploads(tmp_path, server.repository)
    with pytest.raises(ServingError) as caught:
        kept._move_in("default", dense)  # noqa: SLF001 (a race: the name was free when it was asked)
    assert caught.value.code is Code.ALREADY_EXISTS
    server.stop()


def test_the_flag_needs_its_folder_and_one_process():
    from mlaas4hep_serving.options import Options

    with pytest.raises(ServingError, match="--tfaas_base_path"):
        Options(enable_tfaas=True)
    with pytest.raises(ServingError, match="one process"):
        Options(enable_tfaas=True, tfaas_base_path="/x", processes=2)


def test_without_the_flag_nothing_answers(server):
    asked = Asker(server, Path())
    for method, path in (
        ("POST", "/json"),
        ("POST", "/proto"),
        ("GET", "/models"),
        ("GET", "/status"),
        ("GET", "/params/m"),
    ):
        assert asked(method, path, b"" if method == "POST" else None, token=None)[0] == 404
