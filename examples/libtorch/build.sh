#!/usr/bin/env bash
# Build run_module against the LibTorch inside an installed PyTorch: build.sh [OUTPUT]
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
out=${1:-run_module}
torch=$("${PYTHON:-python3}" -c 'import os, torch; print(os.path.dirname(torch.__file__))')
cuda=()
# Linked without need: they register CUDA with PyTorch when they are loaded.
if [ -e "$torch/lib/libtorch_cuda.so" ]; then cuda=(-ltorch_cuda -lc10_cuda); fi
"${CXX:-c++}" -std=c++20 -O2 "$here/run_module.cpp" -o "$out" \
  -I"$torch/include" -I"$torch/include/torch/csrc/api/include" \
  -L"$torch/lib" -Wl,-rpath,"$torch/lib" -Wl,--no-as-needed -ltorch -ltorch_cpu -lc10 "${cuda[@]}" -ldl
