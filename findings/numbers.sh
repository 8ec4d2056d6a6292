#!/bin/sh
# torch 2.13.0 on x86-64: torch.fmod and torch.remainder of float tensors give NaN for finite operands whose quotient is
# beyond the range of the dtype, in the elements that its vector kernel computes; the last elements, and tensors of one
# element, are exact, as C's fmod and CUDA are.  Documentation: "computes C++'s std::fmod entrywise".
# Seen: fmod(3e38, 0.1) in a tensor of 17 elements: 16 times nan, and 0.0796 in the last.  floor_divide gives inf there.
# Exits 0 while that is so.
set -e
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q "torch==2.13.0" numpy
"$folder/venv/bin/python" - <<'PY'
import math
import torch

print(torch.__version__, torch.backends.cpu.get_cpu_capability())
x = torch.full((17,), 3e38)
alone, many = torch.fmod(x[:1], 0.1), torch.fmod(x, 0.1)
print("fmod", many.tolist(), "alone", alone.item(), "C", math.fmod(x[0].item(), torch.tensor(0.1).item()))
print("remainder", torch.remainder(x, 0.1)[[0, -1]].tolist(), "float64", torch.fmod(x.double() * 1e270, 1e-20)[[0, -1]].tolist())
assert many[0].isnan() and not many[-1].isnan() and not alone.isnan(), "changed"
PY
