#!/bin/sh
# What torch 2.13.0 makes of state, empty batches and mixtures of experts when it exports, and of streams when it
# compares them.  Fails if that changes.
#
# 1. A buffer that forward assigns (self.h = self.h * 0.5 + x) keeps its first value in a strict export: the new value
#    is dropped with a warning, and buffers_to_mutate is empty.  The other mode keeps it.
# 2. torch.sym_max(n, 1) of a size is n, without a guard, where the Dim begins at 0: an empty batch gets no row.
# 3. torch.nn.functional.grouped_mm takes float32 on a CPU, and its fake kernel refuses it: it runs and is not exported.
# 4. A torch.Stream is neither equal to None nor unlike it: == and != both give False.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install -q torch==2.13.0 numpy
cat > "$folder/exported_state.py" <<'PY'
import logging
import warnings

import torch
from torch.export import Dim, export

warnings.simplefilter("ignore")
logging.disable(logging.ERROR)
print("torch", torch.__version__)


class Decay(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("h", torch.zeros(3))

    def forward(self, x):
        self.h = self.h * 0.5 + x
        return self.h.clone()


def thrice(model):
    return [model(torch.ones(3))[0].item() for _ in range(3)]


strict, other = (export(Decay(), (torch.ones(3),), strict=mode) for mode in (True, False))
found = thrice(Decay()), thrice(strict.module()), thrice(other.module())
print("an assigned buffer, three calls: eager, strict, not strict:", *found)
print("buffers that the strict program writes to:", strict.graph_signature.buffers_to_mutate)
assert found == ([1.0, 1.5, 1.75], [1.0, 1.0, 1.0], [1.0, 1.5, 1.75])
assert strict.graph_signature.buffers_to_mutate == {}


class AtLeastOne(torch.nn.Module):
    def forward(self, x):
        return torch.cat((x, x.new_ones(torch.sym_max(x.shape[0], 1), 3)))


program = export(AtLeastOne(), (torch.ones(4, 3),), dynamic_shapes=({0: Dim("n", min=0, max=9)},)).module()
rows = [len(model(torch.ones(0, 3))) for model in (AtLeastOne(), program)]
print("rows of cat(x, ones(max(0, 1))) for no rows: eager, exported:", rows)
assert rows == [1, 0]


class Experts(torch.nn.Module):
    def forward(self, x, w, ends):
        return torch.nn.functional.grouped_mm(x, w, offs=ends)


inputs = torch.randn(4, 8), torch.randn(2, 8, 8), torch.tensor([1, 4], dtype=torch.int32)
assert Experts()(*inputs).dtype == torch.float32
try:
    export(Experts(), inputs)
except RuntimeError as error:
    print("grouped_mm of float32 runs, and export says:", error)
    assert "Expected inputs of BF16 type" in str(error)
else:
    raise AssertionError("grouped_mm of float32 is exported")

stream = torch.Stream("cpu")
print("a stream == None, != None:", stream == None, stream != None)  # noqa: E711
assert not (stream == None) and not (stream != None)  # noqa: E711
PY
"$folder/venv/bin/python" "$folder/exported_state.py"
