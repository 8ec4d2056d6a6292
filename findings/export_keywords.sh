#!/bin/sh
# torch 2.13.0: a model whose forward takes *args and **kwargs, called with a keyword, is exported with static sizes, and
# not with sizes that may change, which are named by the signature: "Must provide a tree_name when there might be a
# mismatch".  The same forward with its operands in the signature is exported.  Fails if that changes.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install -q torch==2.13.0 numpy
cat > "$folder/export_keywords.py" <<'PY'
import logging
import warnings

import torch
from torch.export import Dim, export

warnings.simplefilter("ignore")
logging.disable(logging.ERROR)
print("torch", torch.__version__)


class Collected(torch.nn.Module):
    def forward(self, *args, **kwargs):
        return args[0] + kwargs["y"]


class Named(torch.nn.Module):
    def forward(self, x, y):
        return x + y


def exported(model, dynamic_shapes):
    try:
        program = export(model, (torch.randn(4, 2),), {"y": torch.randn(4, 2)}, dynamic_shapes=dynamic_shapes)
    except Exception as error:
        return f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
    return f"exported, {len(program.range_constraints)} size(s) that may change"


n = Dim("n")
found = {
    "collected, static": exported(Collected(), None),
    "collected, dynamic": exported(Collected(), {"args": ({0: n},), "kwargs": {"y": {0: n}}}),
    "named, dynamic": exported(Named(), {"x": {0: n}, "y": {0: n}}),
}
for name, said in found.items():
    print(f"{name}: {said}")
assert found["collected, static"].startswith("exported, 0")
assert "Must provide a tree_name" in found["collected, dynamic"]
assert found["named, dynamic"].startswith("exported, 1")
PY
"$folder/venv/bin/python" "$folder/export_keywords.py"
