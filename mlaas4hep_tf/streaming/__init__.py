"""Which events are read when, and their way into one `tf.data.Dataset`."""
