"""What has to agree before a release is built."""

import subprocess

import pytest

from tests.packaging.conftest import ROOT
from tests.packaging.release import NotReady, check_git, check_version, copy_sources


@pytest.fixture
def checkout(tmp_path):
    """Make a checkout of git with a version and a change log."""

    def checkout(version="1.2.3", heading="1.2.3 (2026-01-31)"):
        (tmp_path / "engine").mkdir(exist_ok=True)
        (tmp_path / "engine" / "__init__.py").write_text(f'import os\n\n__version__ = "{version}"\n__all__ = []\n')
        (tmp_path / "CHANGELOG.md").write_text(f"# Changelog\n\n## {heading}\n\nText.\n\n## 1.2.2 (2025-12-31)\n")
        git("init", "-q")
        commit()
        return tmp_path

    def git(*arguments):
        own = ["-c", "user.name=someone", "-c", "user.email=someone@example.invalid"]
        subprocess.run(["git", *own, *arguments], cwd=tmp_path, check=True, capture_output=True)

    def commit():
        git("add", "-A")
        git("commit", "-q", "--allow-empty", "-m", "a change")

    checkout.git, checkout.commit = git, commit
    return checkout


def test_version_and_change_log_agree(checkout):
    assert check_version(checkout(), draft=False) == "1.2.3"
    assert check_version(checkout("2.0.0rc1", "2.0.0rc1 (2026-02-01)"), draft=False) == "2.0.0rc1"
    assert check_version(checkout("1.3.0", "1.3.0 (unreleased)"), draft=True) == "1.3.0"


@pytest.mark.parametrize(
    ("version", "heading", "said"),
    [
        ("1.2", "1.2 (2026-01-31)", "'1.2' is no semantic version"),
        ("1.02.3", "1.02.3 (2026-01-31)", "no semantic version"),
        ("1.2.3+local", "1.2.3+local (2026-01-31)", "no semantic version"),
        ("1.2.3", "1.2.4 (2026-01-31)", "says 1.2.3, and CHANGELOG.md begins with 1.2.4"),
        ("1.2.3", "news", r"begins with 1\.2\.2"),
        ("1.2.3", "1.2.3 (unreleased)", "has no day yet"),
    ],
)
def test_what_does_not_agree_is_said(checkout, version, heading, said):
    with pytest.raises(NotReady, match=said):
        check_version(checkout(version, heading), draft=False)


def test_nothing_may_be_uncommitted(checkout):
    root = checkout()
    check_git(root, "1.2.3")
    (root / "left.txt").write_text("not added")
    with pytest.raises(NotReady, match=r"1 files are not committed \(left.txt\): commit them"):
        check_git(root, "1.2.3")


def test_a_version_is_released_once(checkout):
    root = checkout()
    checkout.git("tag", "v1.2.3")
    check_git(root, "1.2.3")  # the same commit again
    checkout.commit()
    with pytest.raises(NotReady, match=r"the tag v1\.2\.3 is on another commit"):
        check_git(root, "1.2.3")
    check_git(root, "1.2.4")


def test_a_release_is_built_from_the_commit(checkout, tmp_path_factory):
    root = checkout()
    (root / "later.txt").write_text("later")
    committed, all_of_it = (tmp_path_factory.mktemp(name) for name in ("committed", "all"))
    copy_sources(root, committed, committed=True)
    copy_sources(root, all_of_it, committed=False)
    names = {path.name for path in committed.rglob("*") if path.is_file()}
    assert names == {"__init__.py", "CHANGELOG.md"}
    assert {path.name for path in all_of_it.rglob("*") if path.is_file()} == {*names, "later.txt"}


def test_this_checkout_could_be_released():
    check_version(ROOT, draft=True)
