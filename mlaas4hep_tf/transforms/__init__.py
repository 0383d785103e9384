"""Padding, masking, normalisation and the vector, as tf ops: the same graph in training and in serving."""
