"""The sdist has the whole repository, and the wheel that is built from it is the pure one, with rules and licence."""

import email
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

import engine
from tests.packaging.conftest import ROOT
from tests.packaging.release import copy_sources

# What runs the repository in the place where it is kept.
LEFT_OUT = (".ci/", ".gitignore")
# setuptools' own
ADDED = ("PKG-INFO", "setup.cfg", "engine.egg-info/")


def hook(name: str, source: Path, target: Path, **environment: str) -> Path:
    """Call setuptools as pip and build do; returns the file that it made."""
    target.mkdir(exist_ok=True)
    code = f"import setuptools.build_meta as b; print(b.{name}({str(target)!r}))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=source,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Package would be ignored" not in done.stdout + done.stderr
    return target / done.stdout.splitlines()[-1]


@pytest.fixture(scope="module")
def sources(tmp_path_factory) -> Path:
    """The files of the repository in a folder that is no checkout."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a checkout of git")
    place = tmp_path_factory.mktemp("sources")
    copy_sources(ROOT, place, committed=False)
    return place


@pytest.fixture(scope="module")
def sdist(sources, tmp_path_factory) -> Path:
    return hook("build_sdist", sources, tmp_path_factory.mktemp("sdist"))


@pytest.fixture(scope="module")
def unpacked(sdist, tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("unpacked")
    shutil.unpack_archive(sdist, place, filter="data")
    return place / f"engine-{engine.__version__}"


@pytest.fixture(scope="module")
def pure(unpacked, tmp_path_factory) -> Path:
    return hook("build_wheel", unpacked, tmp_path_factory.mktemp("wheel"), PYTHON_ONLY="1")


def test_the_sdist_is_complete(sdist, sources):
    with tarfile.open(sdist) as archive:
        names = {member.name.partition("/")[2] for member in archive.getmembers() if member.isfile()}
    ours = {path.relative_to(sources).as_posix() for path in sources.rglob("*") if path.is_file()}
    # What building it left in the sources.
    ours = {name for name in ours if not name.startswith("engine.egg-info/")}
    assert {name for name in ours if not name.startswith(LEFT_OUT)} - names == set()
    assert {name for name in names - ours if not name.startswith(ADDED)} == set()


def test_the_pure_wheel_runs_everywhere(pure):
    assert pure.name == f"engine-{engine.__version__}-py3-none-any.whl"
    with zipfile.ZipFile(pure) as archive:
        names = set(archive.namelist())
        info = f"engine-{engine.__version__}.dist-info"
        wheel = email.message_from_bytes(archive.read(f"{info}/WHEEL"))
        about = email.message_from_bytes(archive.read(f"{info}/METADATA"))
        assert archive.read(f"{info}/licenses/LICENSE") == (ROOT / "LICENSE").read_bytes()
        assert b"PYTHON_ONLY=1" in archive.read("engine/runtime/native.json")
    assert (wheel["Root-Is-Purelib"], wheel.get_all("Tag")) == ("true", ["py3-none-any"])
    assert (about["License-Expression"], about.get_all("License-File")) == ("Apache-2.0", ["LICENSE"])
    assert about["Version"] == engine.__version__
    packed = {name for name in names if name.startswith("engine/_rules/")}
    assert packed == {f"engine/_{path.relative_to(ROOT).as_posix()}" for path in (ROOT / "rules").rglob("*.rules")}
    assert {Path(name).parts[0] for name in names} == {"engine", info}
    assert [name for name in names if Path(name).suffix in (".so", ".cpp", ".h")] == []


def test_a_wheel_that_could_not_be_compiled_is_pure_too(unpacked, tmp_path):
    wheel = hook("build_wheel", unpacked, tmp_path, CXX="/nonexistent/c++", PYTHON_ONLY="")
    assert wheel.name.endswith("-py3-none-any.whl")
    with zipfile.ZipFile(wheel) as archive:
        assert b"no C++ compiler" in archive.read("engine/runtime/native.json")


@pytest.mark.slow
def test_the_wheel_with_the_cpp_path_is_for_one_python_and_platform(unpacked, tmp_path):
    wheel = hook("build_wheel", unpacked, tmp_path, PYTHON_ONLY="")
    tag = f"cp{sys.version_info.major}{sys.version_info.minor}"
    assert f"-{tag}-{tag}-linux_" in wheel.name
    with zipfile.ZipFile(wheel) as archive:
        shared = {Path(name).name.partition(".")[0] for name in archive.namelist() if name.endswith(".so")}
        (info,) = (name for name in archive.namelist() if name.endswith(".dist-info/WHEEL"))
        assert email.message_from_bytes(archive.read(info))["Root-Is-Purelib"] == "false"
    assert shared == {"libengine_runtime", "_native"}
