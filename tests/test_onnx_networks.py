"""Networks that come as ONNX: each op against onnxruntime, and whole networks behind our preprocessing."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from onnx import TensorProto, helper, numpy_helper, save_model

from mlaas4hep_tf import export, scan
from mlaas4hep_tf.errors import ModelError
from mlaas4hep_tf.models import build
from mlaas4hep_tf.onnx_files import session
from mlaas4hep_tf.onnx_networks import from_onnx
from mlaas4hep_tf.onnx_ops import OPS
from mlaas4hep_tf.testing import make_events, write_tree
from mlaas4hep_tf.transforms.vector import Preprocessor
from mlaas4hep_tf.trial_events import trial_events

RNG = np.random.default_rng(6)
A, B = (RNG.normal(size=(4, 6)).astype("f4") for _ in range(2))
W, C = RNG.normal(size=(6, 3)).astype("f4"), RNG.normal(size=3).astype("f4")
P, S = np.abs(A) + 0.1, [np.abs(RNG.normal(size=6)).astype("f4") + 0.1 for _ in range(4)]
CUBE, TRUE = A.reshape(4, 2, 3), A > 0


def ints(*values):
    return np.array(values, np.int64)


CASES = [
    ("Gemm", [A, W, C], {"alpha": 0.5, "beta": 2.0}), ("Gemm", [A, W.T.copy()], {"transB": 1}), ("MatMul", [A, W], {}),
    ("MatMul", [CUBE, W[:3]], {}), ("Einsum", [A, W], {"equation": "bi,ij->bj"}),
    *((op, [A, B], {}) for op in ("Add", "Sub", "Mul", "Div", "Min", "Max", "Equal", "Greater", "Less", "GreaterOrEqual", "LessOrEqual")),
    ("Pow", [P, np.float32(1.7)], {}), ("Min", [A, B, B[:1]], {}), ("Max", [A, B, B[:1]], {}),
    *((op, [A], {}) for op in ("Neg", "Abs", "Exp", "Erf", "Sin", "Cos", "Sinh", "Asinh", "Floor", "Relu", "Sigmoid", "Tanh", "Softplus", "Elu", "Selu", "LeakyRelu",
                              "Identity", "Softmax", "LogSoftmax", "Flatten", "Transpose", "Shape", "IsNaN")),
    *((op, [P], {}) for op in ("Sqrt", "Log", "Reciprocal")), ("PRelu", [A, C[:1]], {}),
    ("LeakyRelu", [A], {"alpha": 0.3}), ("Elu", [A], {"alpha": 0.3}), ("Gelu", [A], {}), ("Gelu", [A], {"approximate": "tanh"}),
    ("Softmax", [CUBE], {"axis": 1}), ("BatchNormalization", [A, *S], {"epsilon": 1e-3}),
    ("LayerNormalization", [A, S[0], S[1]], {}), ("LayerNormalization", [CUBE, S[0][:3]], {"axis": -1}), ("Dropout", [A], {}),
    ("Cast", [TRUE], {"to": TensorProto.FLOAT}), ("Clip", [A, np.float32(-0.5), np.float32(0.5)], {}), ("Clip", [A, np.float32(0)], {}),
    ("Flatten", [CUBE], {}), ("Reshape", [A, ints(0, 2, -1)], {}), ("Unsqueeze", [A, ints(1, -1)], {}),
    ("Squeeze", [A[:, None], ints(1)], {}), ("Transpose", [CUBE], {"perm": [0, 2, 1]}), ("Concat", [A, B], {"axis": 1}),
    ("Split", [A], {"axis": 1, "num_outputs": 2}), ("Split", [A, ints(2, 4)], {"axis": 1}), ("Slice", [A, ints(1), ints(-1), ints(1)], {}),
    ("Slice", [A, ints(0), ints(2**62), ints(1), ints(2)], {}), ("Gather", [A, ints(0, -1)], {"axis": 1}),
    ("Expand", [A[:, :1], ints(1, 6)], {}), ("Where", [TRUE, A, B], {}), ("Not", [TRUE], {}), ("And", [TRUE, ~TRUE], {}),
    ("TopK", [A, ints(2)], {}), ("TopK", [CUBE, ints(2)], {"axis": 2, "largest": 0}), ("ConstantOfShape", [ints(2, 3)], {}),
    ("ConstantOfShape", [ints(3)], {"value": numpy_helper.from_array(ints(7))}),
    ("Or", [TRUE, ~TRUE], {}), ("ReduceSum", [A, ints(1)], {}), ("ReduceSum", [A], {"keepdims": 0}),
    ("ReduceMean", [CUBE, ints(1, 2)], {"keepdims": 0}), ("ReduceMax", [A, ints(-1)], {}), ("ReduceMin", [A, ints(0)], {}),
]  # fmt: skip


def runtime_answer(op, inputs, attributes):
    node = helper.make_node(op, [f"x{n}" for n in range(len(inputs))], ["y"], **attributes)
    given = [helper.make_tensor_value_info(f"x{n}", helper.np_dtype_to_tensor_dtype(x.dtype), x.shape) for n, x in
             enumerate(map(np.asarray, inputs))]  # fmt: skip
    if op in ("Split", "TopK"):
        node.output.append("z")
    outputs = [helper.make_empty_tensor_value_info(name) for name in node.output]
    graph = helper.make_graph([node], "g", given, outputs)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    return session(model).run(None, {f"x{n}": x for n, x in enumerate(map(np.asarray, inputs))})


@pytest.mark.parametrize(("op", "inputs", "attributes"), CASES, ids=lambda case: case if isinstance(case, str) else "")
def test_each_op_gives_what_onnxruntime_gives(op, inputs, attributes):
    given = {name: value.encode() if isinstance(value, str) else value for name, value in attributes.items()}
    found = OPS[op]([tf.constant(x) for x in inputs], given)
    for got, wanted in zip(
        found if isinstance(found, list) else [found], runtime_answer(op, inputs, attributes), strict=True
    ):
        assert got.shape == wanted.shape
        assert np.allclose(got, wanted, atol=2e-6, rtol=2e-6)


def test_every_op_has_a_case():
    assert {op for op, _, _ in CASES} == {*OPS}


@pytest.fixture(scope="module")
def specs(tmp_path_factory):
    path = write_tree(tmp_path_factory.mktemp("onnx") / "t.root", make_events(300, groups={"Jet": 3, "Mu": 1}))
    return scan(path, progress=False)


def network(path, width, nodes, weights, inputs=("vector",), opset=20):
    """An ONNX file of nodes (op, inputs, attributes), each of which gives what the next one takes as ``@``."""
    made = []
    for number, (op, names, attributes) in enumerate(nodes):
        names = [f"h{number - 1}" if name == "@" else name for name in names]
        made.append(helper.make_node(op, names, [f"h{number}"], **attributes))
    given = [
        helper.make_tensor_value_info(name, TensorProto.BOOL if name == "mask" else TensorProto.FLOAT, ["B", width])
        for name in inputs
    ]
    out = [helper.make_tensor_value_info(f"h{len(nodes) - 1}", TensorProto.FLOAT, ["B", "K"])]
    graph = helper.make_graph(made, "g", given, out, [numpy_helper.from_array(w, name) for name, w in weights.items()])
    save_model(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9), str(path))
    return path


def test_a_network_of_another_framework_is_served_on_raw_branches(specs, tmp_path):
    rng, width = np.random.default_rng(1), len(specs.vector_names)
    w, v = rng.normal(size=(8, width)).astype("f4") / 9, rng.normal(size=(2, 8)).astype("f4")
    path = network(tmp_path / "n.onnx", width, [
        ("Gemm", ["vector", "w"], {"transB": 1}), ("Relu", ["@"], {}), ("Gemm", ["@", "v"], {"transB": 1}), ("Softmax", ["@"], {"axis": 1}),
    ], {"w": w, "v": v})  # fmt: skip
    preprocessor = Preprocessor(specs, "standard")
    model = from_onnx(path, preprocessor)
    events = trial_events(specs, 50, seed=3)
    raw = preprocessor.from_branches({n: tf.constant(x) for n, x in events.padded().items()})
    ready = np.asarray(preprocessor.model_input(raw, mask=False))
    hidden = np.maximum(ready @ w.T, 0) @ v.T
    wanted = np.exp(hidden) / np.exp(hidden).sum(axis=1, keepdims=True)
    served = tf.saved_model.load(export(model, preprocessor, tmp_path / "m" / "1")).signatures
    for signature, request in (("serving_default", events.padded()), ("ragged", events.ragged())):
        got = served[signature](**{n: tf.constant(x) for n, x in request.items()})["score"]
        assert np.abs(got - wanted).max() < 1e-5
    model.save(tmp_path / "m.keras")
    assert np.abs(keras.models.load_model(tmp_path / "m.keras")(ready) - wanted).max() < 1e-5


@pytest.mark.parametrize("name", ["mlp", "set"])
def test_our_own_networks_come_back(name, specs, tmp_path):
    keras.utils.set_random_seed(1)
    preprocessor = Preprocessor(specs, "minmax")
    model = build(name, specs, preprocessor=preprocessor)
    folder = export(model, preprocessor, tmp_path / "onnx", format="onnx")
    again = from_onnx(folder / "network.onnx", preprocessor)
    events = trial_events(specs, 50, seed=3)
    raw = preprocessor.from_branches({n: tf.constant(x) for n, x in events.padded().items()})
    ready = preprocessor.model_input(raw, mask=name != "mlp")
    assert np.abs(model(ready, training=False) - again(ready)).max() < 1e-5


def test_what_is_refused(specs, tmp_path):
    width, preprocessor = len(specs.vector_names), Preprocessor(specs, "minmax")
    w = {"w": np.ones((width, 1), "f4")}
    product = ("MatMul", ["vector", "w"], {})
    with pytest.raises(ModelError, match=rf"takes .*5.*, but the data give a vector float32 \[B, {width}\]"):
        from_onnx(network(tmp_path / "a.onnx", 5, [product], w), preprocessor)
    with pytest.raises(ModelError, match="takes"):
        from_onnx(network(tmp_path / "b.onnx", width, [product], w, ("vector", "other")), preprocessor)
    with pytest.raises(ModelError, match="no counterpart here: Hardmax"):
        from_onnx(network(tmp_path / "c.onnx", width, [product, ("Hardmax", ["@"], {})], w), preprocessor)
    with pytest.raises(ModelError, match="its opset is 11"):
        from_onnx(network(tmp_path / "d.onnx", width, [product], w, opset=11), preprocessor)
    (tmp_path / "e.onnx").write_bytes(b"no network")
    with pytest.raises(ModelError, match="cannot read the ONNX network"):
        from_onnx(tmp_path / "e.onnx", preprocessor)
    with pytest.raises(ModelError, match="cannot read the ONNX network"):
        from_onnx(tmp_path / "none.onnx", preprocessor)


def test_a_network_that_answers_otherwise_than_onnxruntime_is_refused(specs, tmp_path, monkeypatch):
    width, preprocessor = len(specs.vector_names), Preprocessor(specs, "minmax")
    path = network(
        tmp_path / "n.onnx",
        width,
        [("MatMul", ["vector", "w"], {}), ("Tanh", ["@"], {})],
        {"w": np.ones((width, 1), "f4") / width},
    )
    assert from_onnx(path, preprocessor).output_shape == (None, 1)
    monkeypatch.setitem(OPS, "Tanh", lambda x, _: tf.tanh(x[0]) * 1.0001)
    with pytest.raises(ModelError, match="answers differ from onnxruntime's by"):
        from_onnx(path, preprocessor)
