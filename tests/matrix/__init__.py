"""Releases of PyTorch, TensorRT-RTX and Python are run against each other; ``docs/releases.md`` has the results."""
