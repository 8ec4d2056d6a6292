"""What rules may write, described: layers, macros, ops and functions."""
