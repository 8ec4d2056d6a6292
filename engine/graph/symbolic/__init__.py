"""Symbolic sizes of a graph: nodes that compute them, functions of them, shapes inferred with them."""
