"""What travels: JSON, tensors, ragged rows and tf.Examples, to and from numpy."""
