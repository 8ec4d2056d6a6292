"""Packaging: rules travel inside the package, and the C++ path of the runtime is built where PyTorch is installed.

The rules of the checkout's top folder become ``engine/_rules``.  ``pip install --no-build-isolation .`` compiles
``engine/runtime/csrc`` against the installed PyTorch into a LibTorch library and a Python extension over it.
Without PyTorch or a C++ compiler, or with ``PYTHON_ONLY=1``, the package is built without them and says so in
``engine/runtime/native.json``.

A wheel with the C++ path is tagged for its Python and platform; one without it runs everywhere, and is
``py3-none-any``.  ``python -m tests.packaging.release`` builds both.
"""

import json
import os
import runpy
import shlex
import shutil
import subprocess
import sys
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from setuptools import Extension, find_packages, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

RULES = [path.parent for path in sorted(Path("rules").rglob("*.rules"))]
FOLDERS = {"engine._rules" + ".".join(["", *folder.parts[1:]]): str(folder) for folder in RULES}

RUNTIME = Path("engine/runtime")
SOURCES = RUNTIME / "csrc"
LIBRARY = "libengine_runtime.so"
EXTENSION = "_native" + (sysconfig.get_config_var("EXT_SUFFIX") or ".so")
NOTE = "native.json"
BINDING = SOURCES / "python" / "python.cpp"
LIMITS = RUNTIME / "engines" / "limits.py"


class Skipped(Exception):
    """The C++ path is not built; the text says why."""


class BuildNative(build_ext):
    """Builds the C++ path, or notes why not: the package works without it.

    Attributes:
        built: whether the C++ path was built; None before it was tried.
    """

    built = None

    def run(self):
        # An editable install has no folder of its own: the files go beside the sources.
        inplace = self.inplace or self.editable_mode
        folder = RUNTIME if inplace else Path(self.build_lib) / RUNTIME
        folder.mkdir(parents=True, exist_ok=True)
        try:
            note = {"built": True, **self.build(folder)}
        except Skipped as reason:
            for name in (LIBRARY, EXTENSION):
                (folder / name).unlink(missing_ok=True)
            note = {"built": False, "reason": str(reason)}
            print(f"engine: without the C++ path of the runtime: {reason}", file=sys.stderr)
        names = [NOTE, *((LIBRARY, EXTENSION) if note["built"] else ())]
        self.written = [str(folder / name) for name in names]
        self.built = note["built"]
        (folder / NOTE).write_text(json.dumps(note, indent=2, sort_keys=True) + "\n", encoding="utf-8")

    def get_outputs(self):
        return [] if self.editable_mode else getattr(self, "written", [])

    def get_output_mapping(self):
        return {}

    def get_source_files(self):
        return [str(path) for path in sorted(SOURCES.rglob("*.*"))]

    def build(self, folder):
        if os.environ.get("PYTHON_ONLY") == "1":
            raise Skipped("it was built with PYTHON_ONLY=1")
        if not sys.platform.startswith("linux"):
            raise Skipped(f"it is built on Linux only, not on {sys.platform}")
        try:
            import torch
            from torch.utils import cpp_extension
        except ImportError:
            raise Skipped(
                "PyTorch was not there when it was installed: `pip install --no-build-isolation` lets the build see it"
            ) from None
        compiler = shlex.split(os.environ.get("CXX", ""))
        compiler = compiler or [next(filter(None, map(shutil.which, ("c++", "g++", "clang++"))), "")]
        if not shutil.which(compiler[0]):
            raise Skipped("no C++ compiler was found when it was installed (CXX, c++, g++, clang++)")
        abi = int(torch.compiled_with_cxx11_abi())
        flags = ["-std=c++20", "-O2", "-fPIC", "-Wall", f"-D_GLIBCXX_USE_CXX11_ABI={abi}"]
        flags += [f"-I{path}" for path in (SOURCES, *cpp_extension.include_paths(), sysconfig.get_paths()["include"])]
        flags += [f"-DENGINE_{name}={value}" for name, value in runpy.run_path(str(LIMITS)).items() if name.isupper()]
        objects = Path(self.build_temp) / f"native-{torch.__version__}"
        objects.mkdir(parents=True, exist_ok=True)

        def compile_one(source):
            # What LibTorch alone decides is the same for every Python: several may share `build_ext --build-temp`.
            target = objects / (f"{source.stem}.o" if source != BINDING else f"{EXTENSION}.o")
            if self.force or _outdated(target):
                self.call([*compiler, *flags, "-MMD", "-c", str(source), "-o", str(target)])
            return target

        # The slowest first, so that no core is left with one at the end.
        order = sorted(SOURCES.rglob("*.cpp"), key=lambda path: (path.name not in _SLOW, path.name))
        with ThreadPoolExecutor(max_workers=max(1, min(os.cpu_count() or 1, 8))) as pool:
            made = dict(zip(order, pool.map(compile_one, order), strict=True))
        torch_libraries = [f"-L{path}" for path in cpp_extension.library_paths()]
        link = [*compiler, "-shared", "-Wl,-rpath,$ORIGIN", "-Wl,--as-needed"]
        library, extension = objects / LIBRARY, objects / EXTENSION
        ours = [str(path) for source, path in made.items() if source != BINDING]
        torch_names = ["-ltorch_cpu", "-lc10"]
        self.call([*link, f"-Wl,-soname,{LIBRARY}", *ours, *torch_libraries, *torch_names, "-ldl", "-o", str(library)])
        here = [str(made[BINDING]), str(library)]
        self.call([*link, *here, *torch_libraries, "-ltorch_python", *torch_names, "-o", str(extension)])
        for path in (library, extension):
            # Copied beside its place and renamed: another process may have the old one loaded.
            new = shutil.copy(path, folder / f".{path.name}.new")
            os.replace(new, folder / path.name)
        return {"torch": torch.__version__}

    def call(self, command):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            sys.stderr.write(done.stdout + done.stderr)
            raise Skipped(f"it did not compile (the build's output says more): {' '.join(command[-3:])}")


class Wheel(bdist_wheel):
    """Tags a wheel for what is in it, which is known when the C++ path was built or not."""

    def get_tag(self):
        if self.get_finalized_command("build_ext").built is False:
            self.root_is_pure = True
        return super().get_tag()


def _outdated(target):
    """Whether an object file is older than this file, the limits, or what the compiler listed beside it."""
    try:
        listed = target.with_suffix(".d").read_text(encoding="utf-8").replace("\\\n", " ").partition(":")[2]
        made = target.stat().st_mtime
        return any(os.stat(path).st_mtime > made for path in (__file__, LIMITS, *listed.split()))
    except OSError:
        return True


_SLOW = {"bind_shapes.cpp", "python.cpp", "operators.cpp", "run.cpp", "engine.cpp", "loaded_engine.cpp", "inputs.cpp"}

# An editable install takes the rules from the checkout.  Without other folders it is one line in a .pth file, which
# type checkers and editors follow; of several folders setuptools makes an import hook, which they do not.
if "editable_wheel" in sys.argv:
    FOLDERS = {}

setup(
    packages=[*find_packages(include=["engine", "engine.*"]), *FOLDERS],
    package_dir=FOLDERS or {"": "."},
    include_package_data=False,  # the sdist has the sources of the C++ path, which a wheel does not need
    package_data={
        "engine": ["py.typed", "dsl/syntax/*.lark", "report/picture/*.*"],
        **{name: ["*.rules"] for name in FOLDERS},
    },
    ext_modules=[Extension("engine.runtime._native", [str(BINDING)])],
    cmdclass={"build_ext": BuildNative, "bdist_wheel": Wheel},
)
