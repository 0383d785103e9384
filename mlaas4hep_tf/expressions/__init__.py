"""Expressions of branches: read, checked, and worked out by NumPy and by TensorFlow with one meaning."""
