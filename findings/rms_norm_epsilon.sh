#!/bin/sh
# PyTorch's RMSNorm without an epsilon, in half precision.  Its documentation gives torch.finfo(x.dtype).eps as default
# (0.0078 in bfloat16); PyTorch 2.13.0 adds the epsilon of float32 (1.2e-7), in eager mode and in its decomposition.  For
# activations of about 0.01 a reimplementation that follows the documentation is 10 times smaller than PyTorch.  Fails
# if that changes.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install -q torch==2.13.0 numpy
cat > "$folder/rms_norm_epsilon.py" <<'PY'
import torch

torch.manual_seed(0)
print("torch", torch.__version__)
for dtype in (torch.float16, torch.bfloat16):
    x = (torch.randn(64, 16) * 0.01).to(dtype)
    wide = x.float()
    mean = (wide * wide).mean(-1, keepdim=True)
    result = torch.nn.RMSNorm(16, dtype=dtype)(x).float()
    documented, wider = (wide / torch.sqrt(mean + torch.finfo(kind).eps) for kind in (dtype, torch.float32))
    ratio = (result.abs().mean() / documented.abs().mean()).item()
    near = (result - wider).abs().max().item()
    print(f"{dtype}: {ratio:.1f} times what the documented epsilon gives, within {near:.4f} of float32's")
    assert ratio > 3 and near < 0.02
module = torch.export.export(torch.nn.RMSNorm(16, dtype=torch.bfloat16), (x,)).run_decompositions()
added = [node.args[1] for node in module.graph.nodes if "add" in str(node.target)]
print("the decomposition adds", added)
assert added == [torch.finfo(torch.float32).eps]
PY
"$folder/venv/bin/python" -W ignore "$folder/rms_norm_epsilon.py"
