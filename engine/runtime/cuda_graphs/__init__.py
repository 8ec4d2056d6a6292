"""CUDA graphs of calls, kept by shape, and the streams that they are recorded on."""
