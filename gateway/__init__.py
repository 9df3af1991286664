"""Duet's gateway: one front door for TensorFlow Serving and TorchServe."""

__version__ = "0.1.0"
