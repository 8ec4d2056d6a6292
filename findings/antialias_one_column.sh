#!/bin/sh
# PyTorch 2.13.0, CPU: interpolate(antialias=True) to an image of one column.  The result should be the filtered rows of
# the filtered column; every row is the first one, in float32 and float64, for bilinear and bicubic.  The same picture
# turned by a quarter (one row) is right, and so is one column of a channels-last picture of several channels.  Heat maps
# and pooled strips of narrow pictures are such images.  Fails if that changes.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install -q torch==2.13.0 numpy
cat > "$folder/antialias_one_column.py" <<'PY'
import torch
from torch.nn.functional import interpolate

print("torch", torch.__version__)
torch.manual_seed(0)


def resized(x, mode, size):
    return interpolate(x, size, mode=mode, antialias=True)


for dtype in (torch.float32, torch.float64):
    x = torch.randn(1, 2, 9, 8, dtype=dtype)
    for mode in ("bilinear", "bicubic"):
        column = resized(x, mode, (3, 1))
        turned = resized(x.transpose(2, 3).contiguous(), mode, (1, 3)).transpose(2, 3)
        last = resized(x.contiguous(memory_format=torch.channels_last), mode, (3, 1))
        wider = resized(x, mode, (3, 2)) - resized(x.transpose(2, 3).contiguous(), mode, (2, 3)).transpose(2, 3)
        same = bool((column == column[:, :, :1]).all())
        near = (last - turned).abs().max().item() < 1e-5, wider.abs().max().item() < 1e-5
        off = (column - turned).abs().max().item()
        print(f"{dtype} {mode}: all rows equal: {same}; off by {off:.2f}; channels last, two columns right: {near}")
        assert same and off > 0.1 and near == (True, True)
PY
"$folder/venv/bin/python" -W ignore "$folder/antialias_one_column.py"
