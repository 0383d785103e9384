"""Requests close to valid ones, each decided by a seed: JSON bodies and protobuf bytes."""

import json
from collections.abc import Callable
from random import Random

from tensorflow_serving.apis.classification_pb2 import ClassificationRequest
from tensorflow_serving.apis.inference_pb2 import MultiInferenceRequest
from tensorflow_serving.apis.predict_pb2 import PredictRequest

MODELS = ("half_plus_two", "two_inputs", "matrix_half_plus_two", "saved_model_counter")
NUMBERS = [
    0,
    1,
    -1,
    2.5,
    2**24 + 1,
    2**31,
    2**53 + 1,
    2**63,
    2**64,
    -(2**70),
    1e308,
    5e-324,
    float("nan"),
    float("inf"),
]
WORDS = ["", "a", "é", "\u0000", "\ud800", "\U0001f600", "NaN", "../", "x" * 300]
KEYS = ["x", "a", "b", "x2", "inputs", "delta", "", "y", "b64"]
SIGNATURES = ["serving_default", "regress_x_to_y", "classify_x_to_y", "regress_x2_to_y3", "incr_counter_by", "", "none"]
SCRAPS = [
    b"",
    b"NaN",
    b"-Inf",
    b"1e999",
    b"\\ud800",
    b"[",
    b"{",
    b'"',
    b",",
    b"\x00",
    b"\xff",
    b"9" * 400,
    b'{"b64":',
    b"[" * 1100,
]


def value(rng: Random, depth: int = 0) -> object:
    match rng.randrange(10 if depth < 5 else 7):
        case 0:
            return rng.choice([None, True, False])
        case 1 | 2 | 3:
            return rng.choice(NUMBERS)
        case 4:
            return rng.randint(-(10**6), 10**6)
        case 5:
            return rng.choice(WORDS)
        case 6:
            return {"b64": rng.choice(["aGVsbG8=", "*", "", "a", "_-8="])}
        case 7 | 8:
            return [value(rng, depth + 1) for _ in range(rng.randrange(4))]
        case _:
            return {rng.choice(KEYS): value(rng, depth + 1) for _ in range(rng.randrange(4))}


def rows(rng: Random) -> list[object]:
    if rng.random() < 0.3:  # rows that a model takes, most of the time
        return [
            {key: rng.choice(NUMBERS) for key in rng.choice([("x",), ("a", "b"), ("delta",)])}
            for _ in range(rng.randrange(4))
        ]
    return [value(rng) for _ in range(rng.randrange(4))]


def body_of(seed: int) -> bytes:
    """JSON close to a request, with bytes cut out, doubled, put in; or no JSON at all."""
    rng = Random(seed)
    if rng.random() < 0.05:
        return rng.randbytes(rng.randrange(200))
    parts: dict[str, Callable[[], object]] = {
        "signature_name": lambda: rng.choice([*SIGNATURES, 3, None]),
        "instances": lambda: rows(rng) if rng.random() < 0.8 else value(rng),
        "inputs": lambda: value(rng) if rng.random() < 0.5 else {key: rows(rng) for key in rng.sample(KEYS, 2)},
        "examples": lambda: rows(rng),
        "context": lambda: {rng.choice(KEYS): value(rng)},
        "keys": lambda: rng.choices(KEYS, k=rng.randrange(3)),
        "values": lambda: rng.choices(NUMBERS, k=rng.randrange(3)),
        "model": lambda: rng.choice([*MODELS, None, 1]),
    }
    chosen = [name for name in parts if rng.random() < 0.4]
    text = json.dumps({name: parts[name]() for name in chosen}, ensure_ascii=rng.random() < 0.5)
    return damaged(text.encode("utf-8", "surrogatepass"), rng)


def damaged(body: bytes, rng: Random) -> bytes:
    for _ in range(rng.choice([0, 0, 1, 2, 4])):
        at = rng.randint(0, len(body))
        body = body[:at] + rng.choice(SCRAPS) + body[at + rng.choice([0, 1, 5, 20]) :]
    return body


def valid_messages() -> list[bytes]:
    predict = PredictRequest()
    predict.model_spec.name = "half_plus_two"
    predict.inputs["x"].dtype = 1
    predict.inputs["x"].tensor_shape.dim.add(size=2)
    predict.inputs["x"].float_val.extend([1.0, 2.0])
    content = PredictRequest()
    content.CopyFrom(predict)
    content.inputs["x"].ClearField("float_val")
    content.inputs["x"].tensor_content = b"\0" * 8
    classify = ClassificationRequest()
    classify.model_spec.name, classify.model_spec.signature_name = "half_plus_two", "classify_x_to_y"
    classify.input.example_list.examples.add().features.feature["x"].float_list.value.append(1.0)
    multi = MultiInferenceRequest(input=classify.input)
    multi.tasks.add(model_spec=classify.model_spec, method_name="tensorflow/serving/classify")
    return [message.SerializeToString() for message in (predict, content, classify, multi)]


VALID = valid_messages()


def wire_of(seed: int) -> bytes:
    """A valid message with some bytes changed, cut out or put in; or bytes."""
    rng = Random(seed)
    if rng.random() < 0.1:
        return rng.randbytes(rng.randrange(100))
    message = bytearray(rng.choice(VALID))
    for _ in range(rng.randrange(4)):
        at = rng.randint(0, max(len(message) - 1, 0))
        match rng.randrange(3):
            case 0 if message:
                message[at] = rng.randrange(256)
            case 1:
                del message[at : at + rng.randint(1, 6)]
            case _:
                message[at:at] = rng.randbytes(rng.randrange(6))
    return bytes(message)
