"""What a wheel has to do where it is installed: run by Python there, in a folder with the README and nothing else.

``python installed_wheel.py pure|native``; it prints what it found, and ends with an error where something is wrong.
"""

import re
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path

kind = sys.argv[1]
begin = time.perf_counter()

import engine  # noqa: E402 - timed

imported = time.perf_counter() - begin
assert Path(engine.__file__).is_relative_to(sys.prefix), engine.__file__
assert engine.__version__ == metadata.version("engine")
assert metadata.metadata("engine")["License-Expression"] == "Apache-2.0"
assert "Apache License" in metadata.distribution("engine").read_text("licenses/LICENSE")


def command(*arguments):
    done = subprocess.run([sys.executable, "-m", "engine", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


assert command("--version").strip() == f"engine, version {engine.__version__}"
assert "activation.relu" in command("rules", "list", "--op", "aten.relu")

begin = time.perf_counter()
names = {}
exec(re.search(r"```python\n(.*?)```", Path("README.md").read_text(encoding="utf-8"), re.DOTALL).group(1), names)
compiled = time.perf_counter() - begin

import torch  # noqa: E402

assert names["compiled"].report.coverage == 1.0
image = torch.randn(3, 3, 32, 32)
engine.save(names["compiled"], "model.pt2", program=True)
with torch.no_grad():
    wanted = names["model"](image)
    torch.testing.assert_close(names["compiled"](image), wanted, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(engine.load("model.pt2", runtime="interpreter")(image), wanted, rtol=1e-3, atol=1e-4)

from engine.runtime.engines.cpp_engine import library_problem, open_tensorrt  # noqa: E402

if kind == "native":
    assert library_problem() == "", library_problem()
    path = f"C++ path for {open_tensorrt()}"
else:
    assert "PYTHON_ONLY=1" in library_problem(), library_problem()
    path = "no C++ path"
size = sum(file.stat().st_size for file in Path(sys.prefix).rglob("*") if file.is_file() and not file.is_symlink())
print(
    f"Python {sys.version.split()[0]}, torch {torch.__version__}, {path}; environment of {size / 1e6:.0f} MB, "
    f"import engine {imported:.2f} s, first example {compiled:.1f} s"
)
