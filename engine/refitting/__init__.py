"""Refit: new weights for a compiled module without compiling it again."""
