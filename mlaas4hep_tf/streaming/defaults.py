"""Sizes for training where nobody says another."""

BATCH_SIZE = 256  # events of one training step
CHUNK_SIZE = 100_000  # events mixed at a time
