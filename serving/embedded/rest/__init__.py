"""TensorFlow Serving's REST API: HTTP, its own dialect of JSON, and the layout of its answers."""
