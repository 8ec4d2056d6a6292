"""Limits of the two runtimes, Python and C++: `setup.py` hands these numbers to the C++ compiler.

This file imports nothing, so that `setup.py` can run it alone.
"""

MAX_SHAPE_BINDINGS = 1024
"""Most shape signatures that an engine remembers; what is kept for one is some hundred bytes."""

MAX_CONTEXTS_PER_STREAM = 4
"""Most execution contexts for one stream, where shapes take turns and workspaces are small."""

SMALL_WORKSPACE = 64 << 20
"""Workspace in bytes up to which one more execution context is cheap."""

MAX_REBINDS = 1024
"""How often a context is set up for other shapes before it is replaced.

TensorRT-RTX takes some host memory for every run with other shapes than the one before (1.6.1: 7 KiB for 8 layers,
41 KiB for 48), and frees it with the context.  A new one takes it 4 to 10 ms, with the kernels in its cache.
"""

MISSES_BEFORE_EXTRA = 64
"""How many calls have to find contexts set up for other shapes before one more is made, if contexts for all of their
shapes are few enough to be kept.

A context costs memory, and time to make; setting one up for another shape costs some microseconds a call.
"""

ALIGNMENT = 16
"""Bytes that an input's address has to be a multiple of, or else it is copied.

Kernels read vectors of up to 16 bytes; a slice of a tensor may start anywhere.
"""
