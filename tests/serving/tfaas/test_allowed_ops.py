"""Which ops an uploaded model may have: a walk through TensorFlow's registry, and models that use them."""

import keras
import pytest
import tensorflow as tf
from mlaas4hep_serving.errors import Code, ServingError
from mlaas4hep_serving.tfaas import graphscan
from mlaas4hep_serving.tfaas.allowed_ops import ALLOWED
from tensorflow.core.framework.node_def_pb2 import NodeDef

REGISTRY = graphscan._ops()  # noqa: SLF001  # TensorFlow's Python API has no such list
SAVER = {"SaveV2", "Save", "SaveSlices", "MergeV2Checkpoints", "RestoreV2"}
# attributes that are texts, each looked at: none is a file, a device, an address or the name of Python code
TEXTS = """
container shared_name debug_name tensor_array_name frame_name config config_proto executor_type row_partition_types
padding data_format mode equation method interpolation fill_mode set_operation align noise kernel_type input_order
separator encoding input_encoding output_encoding errors unit pattern rewrite template placeholder message field_delim
na_value dst_format src_format bad_indices_policy round_mode format density_unit xmp_metadata dct_method fill left_pad
right_pad sparse_keys dense_keys context_sparse_keys context_dense_keys feature_list_sparse_keys feature_list_dense_keys
feature_list_dense_missing_assumed_empty
"""
FUNCTIONS = {
    "PartitionedCall",
    "StatefulPartitionedCall",
    "If",
    "StatelessIf",
    "While",
    "StatelessWhile",
    "Case",
    "StatelessCase",
}


def refused(op: str) -> str:
    """Why a node is refused, or ""."""
    try:
        graphscan._check_op(NodeDef(op=op, name="n"))  # noqa: SLF001  # one op, without a graph around it
    except ServingError as error:
        return error.message if error.code is Code.PERMISSION_DENIED else ""
    return ""


def test_every_op_of_the_registry_is_allowed_by_name_or_refused():
    """What a new release brings is on no list, so it is refused until somebody has looked at it."""
    allowed = {op for op in REGISTRY if not refused(op)}
    assert allowed == ALLOWED & set(REGISTRY)
    assert not ALLOWED - set(REGISTRY), "an op that this TensorFlow has not"
    assert len(REGISTRY) - len(allowed) > 1000
    print(*sorted(allowed))


def test_no_allowed_op_names_a_file_a_device_or_code_of_the_host():
    named = {(op, attr.name, attr.type) for op in ALLOWED for attr in REGISTRY[op].attr}
    named.remove(("VarHandleOp", "allowed_devices", "list(string)"))  # of this process, where a variable may lie
    assert {name for _, name, kind in named if kind in ("string", "list(string)")} <= set(TEXTS.split())
    assert {op for op, _, kind in named if kind in ("func", "list(func)")} <= FUNCTIONS
    dangerous = ("file", "path", "device", "address", "target", "token", "memory", "library", "job", "graph")
    found = {name for _, name, _ in named if any(word in name.lower() for word in dangerous)}
    assert found == {"recall_target", "top_paths"}  # of a search, and of a beam


MORE = """
ImmutableConst Abort ReadFile WriteFile MatchingFiles PyFunc PyFuncStateless EagerPyFunc DecodeProtoV2 RemoteCall
RemoteFusedGraphExecute Print PrintV2 DebugIdentityV2 QueueDequeue BarrierTakeMany FIFOQueueV2 MutexLock Stage XlaLaunch
TextLineDataset InitializeTableFromTextFileV2 AudioSummary _Send _Recv _HostRecv Batch BatchFunction SymbolicGradient
ParseTensor TemporaryVariable SdcaOptimizer CollectiveReduceV2 LoadDataset ConsumeMutexLock Copy GetSessionHandle RpcCall
TPUExecute XlaCustomCall QuantizedConv2D _MklConv2D
"""


@pytest.mark.parametrize("op", MORE.split())
def test_ops_that_do_more_than_compute(op):
    assert op in refused(op)


# what models are made of


def every_layer() -> keras.Model:
    image = keras.Input((16, 16, 3), name="image")
    x = keras.layers.Rescaling(1 / 255)(image)
    x = keras.layers.Resizing(8, 8)(x)
    x = keras.layers.Conv2D(4, 3, padding="same", activation="relu")(x)
    x = keras.layers.SeparableConv2D(4, 3)(x)
    x = keras.layers.Conv2DTranspose(2, 3)(keras.layers.BatchNormalization()(x))
    x = keras.layers.MaxPooling2D()(keras.layers.DepthwiseConv2D(3)(x))
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.SpatialDropout2D(0.1)(x))
    jets = keras.Input((5, 4), name="jets")
    y = keras.layers.Masking(0.0)(jets)
    y = keras.layers.LSTM(3, return_sequences=True)(y)
    y = keras.layers.Bidirectional(keras.layers.GRU(2, return_sequences=True))(y)
    y = keras.layers.MultiHeadAttention(2, 2)(y, y)
    y = keras.layers.LayerNormalization()(keras.layers.TimeDistributed(keras.layers.Dense(3, "gelu"))(y))
    y = keras.layers.GlobalMaxPooling1D()(keras.layers.Conv1D(2, 2)(y))
    number = keras.Input((1,), dtype="int64", name="number")
    z = keras.layers.Flatten()(keras.layers.Embedding(7, 3)(keras.layers.IntegerLookup(vocabulary=[1, 2, 3])(number)))
    category = keras.layers.CategoryEncoding(8)(keras.layers.Discretization([0.5, 2.0])(number))
    word = keras.Input((1,), dtype="string", name="word")
    texts = keras.layers.TextVectorization(vocabulary=["higgs", "top"], output_sequence_length=4)(word)
    looked_up = keras.layers.StringLookup(vocabulary=["a", "b"], output_mode="one_hot")(word)
    hashed = keras.layers.Hashing(5, output_mode="one_hot")(word)
    parts = [x, y, z, category, keras.ops.cast(texts, "float32"), looked_up, hashed]
    joined = keras.layers.Concatenate()(parts)
    gates = [keras.layers.Activation(name)(joined) for name in ("elu", "selu", "softplus", "softmax", "swish", "tanh")]
    return keras.Model([image, jets, number, word], keras.layers.Dense(2, "sigmoid")(keras.layers.Add()(gates)))


@pytest.mark.slow
def test_keras_layers_pass(tmp_path):
    model = every_layer()
    model.export(str(tmp_path / "1"), verbose=False)
    graphscan.check(tmp_path / "1")


class Physics(tf.Module):
    """Ragged lists, strings, special functions, decompositions, loops."""

    @tf.function(
        input_signature=[
            tf.TensorSpec([None], tf.float32, name="pt"),
            tf.TensorSpec([None], tf.int64, name="splits"),
            tf.TensorSpec([None], tf.string, name="texts"),
        ]
    )
    def __call__(self, pt, splits, texts):
        jets = tf.RaggedTensor.from_row_splits(pt, splits)
        leading = tf.reduce_max(jets, axis=1)
        padded = tf.math.top_k(jets.to_tensor(-1.0, shape=[None, 4]), 2).values
        covariance = tf.linalg.inv(tf.matmul(padded, padded, transpose_a=True) + tf.eye(2))
        total = tf.while_loop(
            lambda i, _: i < 3, lambda i, t: (i + 1, t + tf.math.bessel_i0(t)), [0, tf.constant(0.1)]
        )[1]
        numbers = tf.strings.to_number(tf.strings.regex_replace(texts, "[^0-9.]", ""))
        chosen = tf.cond(total > 1, lambda: tf.sort(numbers), lambda: tf.math.lgamma(numbers))
        mapped = tf.map_fn(lambda row: tf.reduce_sum(tf.sqrt(tf.abs(row))), padded)
        edges = tf.searchsorted(tf.constant([0.0, 10.0, 20.0]), leading)
        return {"y": leading + mapped + tf.linalg.trace(covariance), "edges": edges, "chosen": chosen}


def test_what_analyses_use_passes(tmp_path):
    module = Physics()
    tf.saved_model.save(module, str(tmp_path / "1"), signatures=module.__call__)
    graphscan.check(tmp_path / "1")
