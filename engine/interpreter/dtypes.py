"""TensorRT data types as PyTorch dtypes, by name, so that evaluators need no TensorRT."""

from __future__ import annotations

import torch

from engine.dtypes import DATA_TYPES

# INT4 and FP4 have no element of their own on the CPU.  They are held unpacked, one value per
# element, in the narrowest dtype that represents every one of their values exactly.
TORCH_DTYPES: dict[str, torch.dtype] = {**DATA_TYPES, "INT4": torch.int8, "FP4": torch.float8_e4m3fn}

PACKED = frozenset({"INT4", "FP4"})

NARROW_FLOATS = frozenset({torch.float8_e4m3fn, torch.float8_e8m0fnu})
HALF_FLOATS = frozenset({torch.float16, torch.bfloat16})

FP4_VALUES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
