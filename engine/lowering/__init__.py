"""Lowering: from a captured graph to segments, and from built segments to a module."""
