"""What it costs to install the package as the README says: time, and space on the disk, in a fresh environment.

    python -m tests.matrix.installing                          the README's ways for CPU and CUDA, of the work tree
    python -m tests.matrix.installing --way CPU
    python -m tests.matrix.installing --way CPU --commit COMMIT --line "pip install torch && pip install ."

The way for CPUs takes the PyTorch that requirements-test.txt pins, from wherever pip finds it; without a package index
of CPU builds (``--cpu-index``) that has to be one of pip's own places. Nothing comes from pip's cache.
"""

from __future__ import annotations

import argparse
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path

from tests.matrix import page
from tests.matrix.cells import ROOT
from tests.matrix.installations import WAYS, Installation, load, save
from tests.matrix.results import load as load_results
from tests.packaging.release import copy_sources

_ASKED = "import torch, tensorrt_rtx; print(torch.__version__, tensorrt_rtx.__version__)"


def main() -> None:
    """Run the command; results go into ``installations.json`` and docs/releases.md."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.matrix.installing",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--way", action="append", choices=WAYS, help="only these")
    parser.add_argument("--cpu-index", help="a package index of PyTorch for CPUs")
    parser.add_argument("--commit", help="the sources of this commit; with --line")
    parser.add_argument("--line", help="the commands of that commit's README")
    options = parser.parse_args()
    if (options.commit is None) != (options.line is None):
        parser.error("--commit and --line belong together: an older README has another line")
    for way in options.way or WAYS:
        found = install(way, options.line or lines()[way], options.commit or "", options.cpu_index)
        known = [one for one in load() if (one.way, one.commit) != (found.way, found.commit)]
        save([*known, found])
        print(found, flush=True)
    page.write(load_results())


def lines(readme: Path = ROOT / "README.md") -> dict[str, str]:
    """Way -> commands, from the table in the README."""
    rows = re.findall(r"^\| ([^|]+) \| `(pip install [^`]+)` \|$", readme.read_text(encoding="utf-8"), re.MULTILINE)
    return dict(rows)


def command(way: str, line: str, cpu_index: str | None) -> str:
    """The shell command of a way: its placeholder filled in, or the pinned PyTorch where there is no such index."""
    if way != "CPU":
        return line
    if cpu_index is not None and "CPU_INDEX" in line:
        return line.replace("CPU_INDEX", cpu_index)
    line = line.replace(" --extra-index-url CPU_INDEX", "")
    pinned = re.search(r"^torch==\S+", (ROOT / "requirements-test.txt").read_text(encoding="utf-8"), re.MULTILINE)
    assert pinned is not None
    return re.sub(r'(?<= )("torch<[^"]*"|torch)(?= |$)', pinned[0], line)


def install(way: str, line: str, commit: str, cpu_index: str | None) -> Installation:
    """Install once, in a folder that is removed afterwards.

    Raises:
        subprocess.CalledProcessError: the commands fail; what they said was printed.
    """
    with tempfile.TemporaryDirectory(prefix="engine-install-") as folder:
        sources, place = Path(folder) / "sources", Path(folder) / "venv"
        _sources(commit, sources)
        subprocess.run([sys.executable, "-m", "venv", str(place)], check=True)
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "ENGINE_", "VIRTUAL_ENV"))}
        environment |= {"PATH": f"{place / 'bin'}{os.pathsep}{os.environ['PATH']}", "PIP_NO_CACHE_DIR": "1"}
        before, begun = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
        # One that fails in the middle fails as a whole: a line joins its commands by &&.
        run = command(way, line, cpu_index)
        subprocess.run(run, shell=True, check=True, cwd=sources, env=environment)
        seconds, after = time.monotonic() - begun, resource.getrusage(resource.RUSAGE_CHILDREN)
        asked = [str(place / "bin" / "python"), "-c", _ASKED]
        said = subprocess.run(asked, check=True, cwd=folder, env=environment, capture_output=True, text=True).stdout
        torch, rtx = said.split()
        return Installation(
            way=way,
            commit=commit,
            line=run,
            torch=torch,
            tensorrt_rtx=rtx,
            day=date.today().isoformat(),
            cpp=any(place.rglob("engine/runtime/libengine_runtime.so")),
            cpu_seconds=round(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime),
            seconds=round(seconds),
            megabytes=round(size(place) / 1e6),
        )


def _sources(commit: str, place: Path) -> None:
    place.mkdir()
    if not commit:
        copy_sources(ROOT, place, committed=False)
        return
    packed = subprocess.run(["git", "-C", str(ROOT), "archive", commit], check=True, capture_output=True).stdout
    subprocess.run(["tar", "-x", "-C", str(place)], input=packed, check=True)


def size(folder: Path) -> int:
    """Bytes on the disk, of files with several names once."""
    found = {(about.st_dev, about.st_ino): about.st_blocks * 512 for about in map(os.lstat, _files(folder))}
    return sum(found.values())


def _files(folder: Path) -> list[str]:
    return [os.path.join(top, name) for top, _, names in os.walk(folder) for name in names]


if __name__ == "__main__":
    main()
