"""The FX graph, mirrored: values, arguments, constants, sizes, edits and structural questions."""
