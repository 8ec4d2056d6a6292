"""Run by the Python of a cell: prints a line of JSON with its releases and two times of CPU."""

import json
import sys
import time

begin = time.process_time()

import torch  # noqa: E402 - timed

import engine  # noqa: E402 - timed

imported = time.process_time() - begin

begin = time.process_time()
layers = torch.nn.Conv2d(3, 16, 3, padding=1), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(16384, 10)
model = torch.nn.Sequential(*layers).eval()
image = engine.Input(min_shape=(1, 3, 32, 32), opt_shape=(4, 3, 32, 32), max_shape=(8, 3, 32, 32))
compiled = engine.compile(model, [image])
done = time.process_time() - begin
assert compiled.report.coverage == 1.0, compiled.report

from engine.runtime.engines.cpp_engine import cpp_problem, open_tensorrt  # noqa: E402
from engine.tensorrt import load  # noqa: E402

print(
    json.dumps(
        {
            "torch": torch.__version__.partition("+")[0],
            "tensorrt_rtx": load().__version__,
            "python": "{}.{}".format(*sys.version_info),
            "cpp": cpp_problem() or open_tensorrt(),
            "import_seconds": round(imported, 2),
            "compile_seconds": round(done, 2),
        }
    )
)
