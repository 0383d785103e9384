"""Warm-up: requests recorded in ``assets.extra/tf_serving_warmup_requests``, run before a version is available."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import tensorflow as tf
from google.protobuf.message import DecodeError
from tensorflow_serving.apis.prediction_log_pb2 import PredictionLog

from mlaas4hep_serving.errors import invalid_argument

FILE = Path("assets.extra") / "tf_serving_warmup_requests"
MOST = 1000


def requests(folder: Path) -> Iterator[PredictionLog]:
    """The recorded requests of a version folder; none without the file.

    Raises:
        ServingError: INVALID_ARGUMENT, more than 1000 records, or something that is no record.
    """
    path = folder / FILE
    if not path.is_file():
        return
    try:
        for count, record in enumerate(tf.compat.v1.io.tf_record_iterator(str(path))):
            if count >= MOST:
                raise invalid_argument(f"Number of warmup records exceeds the maximum ({MOST}) at {path}")
            yield PredictionLog.FromString(record)
    except (tf.errors.OpError, DecodeError) as error:
        raise invalid_argument(f"Failed to read warmup records of {path}: {error}") from None
