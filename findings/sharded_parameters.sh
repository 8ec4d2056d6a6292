#!/bin/sh
# What torch 2.13.0 does with the parameters of a model that parallelize_module has sharded.  One process, with PyTorch's
# own stand-in for a process group of two.  Fails if that changes.
#
# 1. torch.export takes no such model, strict or not: the description of a DTensor is of a "non-fx-graphable type".
# 2. A write to a sharded parameter counts in the version of the DTensor, and not in that of the tensor that it holds:
#    who watches the versions of plain tensors for changes of weights sees none.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install -q torch==2.13.0 numpy
cat > "$folder/sharded_parameters.py" <<'PY'
import logging
import warnings

import torch
from torch import distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from torch.testing._internal.distributed.fake_pg import FakeStore

warnings.simplefilter("ignore")
logging.disable(logging.ERROR)
print("torch", torch.__version__)
distributed.init_process_group("fake", store=FakeStore(), rank=0, world_size=2)
model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 8)).eval()
plan = {"0": ColwiseParallel(), "2": RowwiseParallel()}
model = parallelize_module(model, init_device_mesh("cpu", (2,)), plan)
for strict in (False, True):
    try:
        torch.export.export(model, (torch.randn(3, 8),), strict=strict)
        said = "exported"
    except RuntimeError as error:
        said = str(error).partition("\n")[0]
    print(f"strict={strict}: {said[:170]}")
    assert "non-fx-graphable type" in said
weight = model[0].weight
held = weight.to_local()._version, weight._local_tensor._version
before = weight._version
with torch.no_grad():
    weight.mul_(2)
print("version of the DTensor", before, "->", weight._version, "and of what it holds", held[1], "->", weight._local_tensor._version)
assert weight._version == before + 1
assert weight._local_tensor._version == held[1]
distributed.destroy_process_group()
PY
"$folder/venv/bin/python" "$folder/sharded_parameters.py"
