"""The pipeline of a compilation, from a captured model to a module whose segments are TensorRT engines."""
