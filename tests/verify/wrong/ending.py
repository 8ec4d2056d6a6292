"""A host function that ends the process, as a kernel does that reads where it must not."""

import multiprocessing
import os

import engine


@engine.rules.host("ending")
def ending(size: int, step: int) -> int:
    """``size``, unless ``step`` divides it and this is a worker process: that ends at once."""
    if size % step == 0 and multiprocessing.parent_process() is not None:
        os._exit(1)
    return size
