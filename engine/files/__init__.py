"""Saving compiled modules to files, and loading them: nothing in a file is run or unpickled."""

from engine.files.saving import inspect, load, save

__all__ = ["inspect", "load", "save"]
