"""A TensorFlow Serving-compatible server on the tensorflow wheel: `python -m serving.embedded --port=8500 ...`."""
