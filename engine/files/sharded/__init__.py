"""Modules that several ranks run together: one file a rank, and an index."""
