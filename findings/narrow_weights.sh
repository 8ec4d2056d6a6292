#!/bin/sh
# Which spellings of narrow weights TensorRT-RTX 1.6.1.120 keeps narrow in an engine, on a machine without a GPU (it
# builds for other GPUs there).  A weight of 1024 x 1024 that is quantized from a constant, dequantized by groups of 128
# and used in a float16 matrix product.  Fails if that changes.
#
# 1. int8: a reshape before the quantize layer, and the plan is 1.15 bytes an element; after it, 2.1: the weight is a
#    float16 one.  For int4 the place of the reshape does not matter (0.65).
# 2. Scales in float32 beside a float16 result: taken for int8, and for int4 an error of the compiler about types that
#    it cannot infer.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install -q tensorrt-rtx==1.6.1.120 numpy
cat > "$folder/narrow_weights.py" <<'PY'
import numpy as np
import tensorrt_rtx as trt


class Log(trt.ILogger):
    def __init__(self):
        super().__init__()
        self.errors = []

    def log(self, severity, message):
        if severity <= trt.ILogger.ERROR:
            self.errors.append(message)


def size(data_type, reshape_first, scale_type=np.float16):
    """Bytes of the plan for each element of the weight; None where it is not built."""
    log = Log()
    builder = trt.Builder(log)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    codes = np.random.default_rng(0).integers(-8, 8, (1024, 8, 128)).astype(np.float16)
    scales, one = np.full(8192, 0.01, scale_type), np.array(1.0, np.float16)

    def constant(array):
        return network.add_constant(array.shape, trt.Weights(array)).get_output(0)

    def reshaped(tensor, shape):
        layer = network.add_shuffle(tensor)
        layer.reshape_dims = shape
        return layer.get_output(0)

    def quantized(tensor):
        return network.add_quantize(tensor, constant(one), data_type).get_output(0)

    x, weight = network.add_input("x", trt.float16, (4, 1024)), constant(codes)
    weight = quantized(reshaped(weight, (8192, 128))) if reshape_first else reshaped(quantized(weight), (8192, 128))
    floats = network.add_dequantize(weight, constant(scales), trt.float16)
    floats.axis = 0
    weight = reshaped(floats.get_output(0), (1024, 1024))
    product = network.add_matrix_multiply(x, trt.MatrixOperation.NONE, weight, trt.MatrixOperation.TRANSPOSE)
    network.mark_output(product.get_output(0))
    plan = builder.build_serialized_network(network, builder.create_builder_config())
    return (None, log.errors) if plan is None else (round(plan.nbytes / codes.size, 2), log.errors)


print("TensorRT-RTX", trt.__version__)
found = {(name, first): size(getattr(trt, name), first)[0] for name in ("int8", "int4") for first in (True, False)}
for (name, first), each in found.items():
    print(f"{name}, reshaped {'before' if first else 'after'} it is quantized: {each} bytes an element")
assert found["int8", True] < 1.3 and found["int8", False] > 1.9
assert found["int4", True] < 0.8 and found["int4", False] < 0.8
narrow, (wide, errors) = size(trt.int8, True, np.float32)[0], size(trt.int4, True, np.float32)
print(f"float32 scales: int8 {narrow} bytes an element; int4 {wide}, {errors[-1][:120] if errors else ''}")
assert narrow < 1.3 and wide is None and any("infer output types" in error for error in errors)
PY
"$folder/venv/bin/python" "$folder/narrow_weights.py"
