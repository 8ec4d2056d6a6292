"""Engines: one loaded TensorRT engine, run from Python, from C++ or by the interpreter."""
