"""Runs and models that are kept to be found again, on MLflow: who trained what, on which data, and which is served."""

from mlaas4hep_tf.registry.registry import Registry

__all__ = ["Registry"]
