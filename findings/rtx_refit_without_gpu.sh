#!/bin/sh
# TensorRT-RTX builds engines on machines without a GPU ("CPU-only ahead-of-time builds"), but none that can be refitted or
# stripped of its weights: with REFIT, REFIT_IDENTICAL or STRIP_PLAN builder 1.6.1.120 and 1.7.1.116 give no plan and log
# "CHECK(status == CUDA_SUCCESS) failed".  So 1.7's weights manager, which is for engines without weights, cannot be had
# from such builds either.  To be run where there is no GPU.  Fails if that changes.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
cat > "$folder/refit.py" <<'PY'
import numpy
import tensorrt_rtx as trt

logger = trt.Logger(trt.Logger.INTERNAL_ERROR)
found = {}
for flag in ("", "REFIT", "REFIT_IDENTICAL", "STRIP_PLAN"):
    builder = trt.Builder(logger)
    network = builder.create_network(0)
    x = network.add_input("x", trt.float32, (4, 8))
    w = network.add_constant((8, 8), trt.Weights(numpy.ones((8, 8), numpy.float32))).get_output(0)
    none = trt.MatrixOperation.NONE
    network.mark_output(network.add_matrix_multiply(x, none, w, none).get_output(0))
    config = builder.create_builder_config()
    if flag:
        config.set_flag(getattr(trt.BuilderFlag, flag))
    found[flag or "no flag"] = builder.build_serialized_network(network, config) is not None
print(trt.__version__, found)
assert found == {"no flag": True, "REFIT": False, "REFIT_IDENTICAL": False, "STRIP_PLAN": False}
PY
for version in 1.6.1.120 1.7.1.116; do
  "$folder/venv/bin/python" -m pip install -q numpy "tensorrt-rtx==$version"
  "$folder/venv/bin/python" "$folder/refit.py"
done
