"""The results that are written down, what follows from them, and the parts of the runner."""

import dataclasses
import os
import re
import subprocess
import sys
import tomllib
import warnings

import pytest

import engine
from engine.tensorrt import load, releases
from tests.matrix import installations, installing, page, results
from tests.matrix.cells import CHOSEN, PYTHON, ROOT, TENSORRT_RTX, TORCH, Cell, cells, digest
from tests.matrix.environments import Unavailable, find_python
from tests.matrix.results import Result
from tests.matrix.running import read

KNOWN = results.load()


def minor(version: str) -> tuple[int, int]:
    first, second = version.split(".")[:2]
    return int(first), int(second)


def test_the_page_is_current():
    assert page.PAGE.read_text() == page.page(KNOWN), "python -m tests.matrix --docs"


def test_the_file_is_as_it_is_written(tmp_path):
    results.save(KNOWN, tmp_path / "results.json")
    assert (tmp_path / "results.json").read_text() == results.RESULTS.read_text()
    assert results.load(tmp_path / "results.json") == KNOWN


@pytest.mark.parametrize("package", ["torch", "tensorrt_rtx"])
def test_bounds_are_what_the_table_shows(package):
    """The oldest and the newest release of which a cell has run without a failure."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    fine = [minor(getattr(cell, package)) for cell, result in KNOWN.items() if result.fine]
    name = package.replace("_", "-")
    (wanted,) = (text for text in project["dependencies"] if re.match(rf"{name}\b[^-]", text))
    low, high = re.fullmatch(rf"{name}>=(\S+),<(\S+)", wanted).groups()
    assert minor(low) == min(fine)
    assert minor(high) == (max(fine)[0], max(fine)[1] + 1)
    assert releases.NEWEST[package] == max(fine)
    if package == "torch":
        lines = [line for line in (ROOT / "README.md").read_text().splitlines() if "pip install" in line]
        assert {found for line in lines for found in re.findall(r'"torch[^"]*"', line)} == {f'"torch<{high}"'}


def test_each_python_that_has_run_is_in_the_metadata():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    named = {text.rpartition(" ")[2] for text in project["classifiers"] if re.search(r"Python :: \d\.\d", text)}
    assert named == set(PYTHON)
    assert {cell.python for cell, result in KNOWN.items() if result.fine} <= named


def test_bounds_are_tried_first_and_then_each_release_beside_the_newest():
    order = list(cells())
    assert len(order) == len(set(order)) == len(TORCH) * len(TENSORRT_RTX) * len(PYTHON)
    newest = Cell(TORCH[-1], TENSORRT_RTX[-1], PYTHON[0])
    assert order[:2] == [newest, Cell(TORCH[0], TENSORRT_RTX[0], PYTHON[0])]
    next_to = order[2 : len(TORCH) + len(TENSORRT_RTX) + len(PYTHON) - 1]
    assert all(sum(one != other for one, other in zip(cell, newest, strict=True)) == 1 for cell in next_to)


def test_the_chosen_tests_exist():
    assert [name for name in CHOSEN if not (ROOT / name).exists()] == []


def test_the_digest_is_of_the_sources(tmp_path):
    for name in ("engine/a.py", "rules/b.rules", "setup.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    before = digest(tmp_path)
    (tmp_path / "engine" / "native.json").write_text("{}")  # what is built is no source
    assert digest(tmp_path) == before
    (tmp_path / "engine" / "a.py").write_text("else")
    assert digest(tmp_path) != before


def test_a_report_of_pytest_is_read(tmp_path):
    (tmp_path / "test_some.py").write_text(
        "import pytest\n"
        "def test_right(): pass\n"
        "def test_wrong(): assert False\n"
        "@pytest.fixture\n"
        "def broken(): raise OSError\n"
        "def test_broken(broken): pass\n"
        "@pytest.mark.skip\n"
        "def test_skipped(): pass\n"
    )
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--junitxml=out.xml", "test_some.py"]
    subprocess.run(command, cwd=tmp_path, capture_output=True, check=False)
    found = read(tmp_path / "out.xml")
    assert (found["passed"], found["failed"], found["skipped"]) == (1, 2, 1)
    assert found["failures"] == ("test_some::test_broken", "test_some::test_wrong")
    assert not Result("2026-01-31", "0", **found).fine


def test_pythons_are_found_or_said_to_be_missing():
    version = "{}.{}".format(*sys.version_info)
    asked = [find_python(version), "-c", "import sys; print('{}.{}'.format(*sys.version_info))"]
    assert subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip() == version
    with pytest.raises(Unavailable, match=r"there is no Python 3\.1 here"):
        find_python("3.1")


def test_the_page_shows_what_failed():
    cell = Cell(TORCH[0], TENSORRT_RTX[0], PYTHON[0])
    broken = Result("2026-01-31", "0", passed=3, failed=1, failures=("tests.test_some::test_wrong",), cpp="one")
    text = page.page({cell: broken})
    assert "| **1 failed**, 3 passed, 2026-01-31 | not run |" in text
    assert f"- {cell}: `tests.test_some::test_wrong`" in text
    problem = Result("2026-01-31", "0", problem="ImportError: nothing")
    assert f"- {cell}: `ImportError: nothing`" in page.page({cell: problem})


def test_ways_to_install_are_those_of_the_readme():
    found = installing.lines()
    assert set(installations.WAYS) < set(found)
    pinned = next(line for line in (ROOT / "requirements-test.txt").read_text().splitlines() if line[:7] == "torch==")
    cpu = installing.command("CPU", found["CPU"], None)
    assert cpu == f'pip install {pinned} "setuptools>=77" && pip install --no-build-isolation .'
    assert installing.command("CPU", "pip install torch && pip install .", None) == (
        f"pip install {pinned} && pip install ."
    )
    assert "--extra-index-url https://one" in installing.command("CPU", found["CPU"], "https://one")
    assert installing.command("CUDA", found["CUDA"], None) == found["CUDA"]


def test_sizes_are_of_what_lies_on_the_disk(tmp_path):
    (tmp_path / "one").write_bytes(b"x" * 100_000)
    os.link(tmp_path / "one", tmp_path / "another")
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "link").symlink_to(tmp_path / "one")
    assert 100_000 <= installing.size(tmp_path) < 120_000


def test_installations_are_written_as_they_are_and_shown(tmp_path):
    now = installations.Installation(
        "CUDA", "", "pip install .", "2.14.1+cu130", "1.7.1.116", "2026-01-31", True, 150, 1234, 7890
    )
    before = dataclasses.replace(now, commit="abc1234", cpp=False)
    installations.save([now, before], tmp_path / "some.json")
    assert installations.load(tmp_path / "some.json") == [before, now]
    text = page.page({}, [before, now])
    assert "| CUDA | `abc1234` | left out | 2.14.1+cu130 | 1.7.1.116 | 150 | 1,234 | 7,890 | 2026-01-31 |" in text
    assert "| CUDA | now | built |" in text
    assert "Not measured." in page.page({}, [])


def test_a_newer_release_is_named_with_what_to_do():
    assert releases.newer("2.14.1+cu130", "tensorrt_rtx", "1.7.1.116") == ""
    assert releases.newer("2.9.0", "tensorrt", "99.0.0.1") == ""
    said = releases.newer("2.15.0a0+git1234", "tensorrt_rtx", "1.7.1.116")
    assert said.startswith("engine was not run with torch 2.15.0a0+git1234, ")
    assert said.endswith('pip install "torch<2.15"')
    assert "torch 3.0.0 and tensorrt_rtx 2.1.0.5" in releases.newer("3.0.0", "tensorrt_rtx", "2.1.0.5")


def test_a_newer_release_is_warned_of_once(monkeypatch):
    monkeypatch.setitem(releases.NEWEST, "torch", (2, 0))
    releases.warn_of_new_releases.cache_clear()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(2):
            releases.warn_of_new_releases(load())
    (warning,) = caught
    assert warning.category is engine.NewReleaseWarning
    assert warning.filename == __file__
