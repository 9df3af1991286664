"""A server that speaks TensorFlow Serving's wire, on the tensorflow wheel: for machines without the real binary."""
