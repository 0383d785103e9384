"""How tf.data runs our datasets."""

from __future__ import annotations

import tensorflow as tf

from mlaas4hep_tf.io.workers import default_workers
from mlaas4hep_tf.streaming.forks import NAME


def data_options() -> tf.data.Options:
    """In order, not tuned, with threads of their own, and never sharded by TensorFlow."""
    options = tf.data.Options()
    options.deterministic = True
    options.dataset_name = NAME
    options.autotune.enabled = False  # there is nothing to tune, and the end of an iterator would wait for the tuner
    options.threading.private_threadpool_size = 1 + default_workers()  # one more, as one thread waits for the readers
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
    return options
