#!/bin/sh
# Sizes that torch 2.13.0, with sympy 1.14.0, computes otherwise than Python does while it traces.  Fails if that
# changes.
#
# 1. round(size, -1) of a symbolic size is the size itself: SymInt.__round__ leaves out the number of digits.
#    12 rows give 12 instead of 10, in torch.export and in torch.compile(dynamic=True).
# 2. math.trunc((m - n) / 4) is taken for (m - n) // 4 when guards are simplified (ShapeEnv.simplify), which is another
#    number below 0.  torch.compile(backend="aot_eager") makes a guard that does not hold of the sizes it was made for.
# 3. sympy takes half of any even number for a multiple of 3: (e / 6).is_integer is True of an even symbol e.  So
#    torch.export takes min(8 * n, 10) % 6 for 0, where it is 2 or 4, and the program fills nothing, without a guard.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install -q torch==2.13.0 sympy==1.14.0 numpy
cat > "$folder/sizes.py" <<'PY'
import math

import sympy
import torch
from torch.export import Dim


class Rounded(torch.nn.Module):
    def forward(self, x):
        return x.new_zeros(round(x.shape[0], -1))


class Padded(torch.nn.Module):
    def forward(self, x):
        return torch.nn.functional.pad(x, (0, min(8 * x.shape[0], 10) % 6))


def repeated(x):
    m, n = x.shape
    return torch.cat((x, x.narrow(1, 0, 1).expand(-1, math.trunc((m - n) / 4) % 5)), 1)


x = torch.ones(12)
exported = torch.export.export(Rounded(), (x,), dynamic_shapes=({0: Dim.DYNAMIC(min=2, max=20)},)).module()
compiled = torch.compile(Rounded(), backend="eager", dynamic=True)
found = [len(model(x)) for model in (Rounded(), exported, compiled)]
print("torch", torch.__version__)
print("round(12, -1): Python, torch.export, torch.compile:", found)
assert found == [10, 12, 12]

print("sympy", sympy.__version__, "(e / 6).is_integer:", (sympy.Symbol("e", even=True) / 6).is_integer)
assert (sympy.Symbol("e", even=True) / 6).is_integer is True
x = torch.ones(4, 5)
exported = torch.export.export(Padded(), (x,), dynamic_shapes=({0: Dim.DYNAMIC(min=2, max=20)},)).module()
found = [model(x).shape[1] for model in (Padded(), exported)]
print("5 + min(8 * 4, 10) % 6: Python, torch.export:", found)
assert found == [9, 5]

compiled = torch.compile(repeated, backend="aot_eager", dynamic=True)
compiled(torch.ones(12, 12))
compiled(torch.ones(9, 5))
try:
    compiled(torch.ones(2, 3))
except AssertionError as error:
    print("trunc(-1 / 4) % 5:", str(error).splitlines()[0])
    assert "Guard failed on the same frame it was created" in str(error)
else:
    raise SystemExit("trunc of a quotient below 0 is guarded as Python computes it")
PY
"$folder/venv/bin/python" "$folder/sizes.py"
