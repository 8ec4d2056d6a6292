#!/bin/sh
# What makes plans of small models large: TensorRT-RTX 1.6.1.120 puts the CUDA C++ source text of each kernel that it
# generates for elementwise layers into the plan, about 130 kB a kernel, and again for kernels that differ in a constant.
# Eight convolutions of 16 channels (37 kB of weights) are a plan of 0.28 MB; with a sine and a product behind each of
# them 1.2 MB, of which nearly all is text that zlib makes 12 times smaller.  Without a GPU (it builds for other
# GPUs there).  Fails if that changes.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install -q tensorrt-rtx==1.6.1.120 numpy
cat > "$folder/plan_source_text.py" <<'PY'
import zlib

import numpy as np
import tensorrt_rtx as trt


def plan(count, elementwise):
    """The plan of some convolutions, with two elementwise layers behind each or without."""
    builder = trt.Builder(trt.Logger(trt.Logger.ERROR))
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    held = []  # TensorRT reads the memory of arrays while it builds

    def weights(shape, value):
        held.append(np.full(shape, value, np.float16))
        return held[-1]

    x = network.add_input("x", trt.float16, (1, 16, 32, 32))
    for number in range(count):
        layer = network.add_convolution_nd(
            x, 16, (3, 3), trt.Weights(weights((16, 16, 3, 3), 0.01)), trt.Weights(weights(16, 0))
        )
        layer.padding_nd = (1, 1)
        x = layer.get_output(0)
        if elementwise:
            factor = network.add_constant((1, 1, 1, 1), trt.Weights(weights((1, 1, 1, 1), 1.0 + number)))
            sine = network.add_unary(x, trt.UnaryOperation.SIN)
            product = network.add_elementwise(sine.get_output(0), factor.get_output(0), trt.ElementWiseOperation.PROD)
            x = product.get_output(0)
    network.mark_output(x)
    return bytes(builder.build_serialized_network(network, builder.create_builder_config()))


print("TensorRT-RTX", trt.__version__)
found = {}
for count in (1, 4, 8):
    for elementwise in (False, True):
        made = plan(count, elementwise)
        found[count, elementwise] = made.count(b"__global__"), len(made)
        print(
            f"{count} convolutions{', each with a sine and a product' if elementwise else ''}: {len(made)} bytes, "
            f"{made.count(b'__global__')} kernels as text, {len(zlib.compress(made))} bytes compressed"
        )
assert found[8, False][1] < 400_000 and found[8, True][1] > 1_000_000
assert found[8, True][0] - found[8, False][0] == 7 and found[4, True][0] - found[4, False][0] == 3
each = (found[8, True][1] - found[4, True][1]) / (found[8, True][0] - found[4, True][0])
print(f"{each / 1000:.0f} kB a kernel")
assert 100_000 < each < 160_000
assert len(made) > 10 * len(zlib.compress(made))
PY
"$folder/venv/bin/python" "$folder/plan_source_text.py"
