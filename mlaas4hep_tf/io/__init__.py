"""ROOT files: names, bytes, baskets, and the processes that read them.  Knows no TensorFlow."""
