"""What every test shares: where snapshots lie, a cache of its own, and what is skipped without a GPU."""

import gc
import logging
import os
import shutil
import tempfile
from pathlib import Path

# Workers of xdist share the cores: threads beyond them wait for each other, and burn the others' time meanwhile.
if "PYTEST_XDIST_WORKER_COUNT" in os.environ:
    share = max(1, (os.cpu_count() or 1) // int(os.environ["PYTEST_XDIST_WORKER_COUNT"]))
    os.environ.setdefault("OMP_NUM_THREADS", str(share))

import pytest
import torch
from syrupy.extensions.amber import AmberSnapshotExtension

pytest_plugins = ["pytester"]

HERE = Path(__file__).resolve().parent

# Every rewrite of every test is checked against the shapes and dtypes that PyTorch infers.
os.environ.setdefault("ENGINE_CHECK", "1")


def pytest_configure(config):
    # The workers of xdist inherit the environment of the process that starts them: one cache for all of them.
    if "ENGINE_TEST_CACHE" not in os.environ:
        folder = tempfile.mkdtemp(prefix="engine-tests-")
        os.environ["ENGINE_TEST_CACHE"] = folder
        config.add_cleanup(lambda: shutil.rmtree(folder, ignore_errors=True))
    os.environ["ENGINE_CACHE_DIR"] = os.environ["ENGINE_TEST_CACHE"]
    # To loggers that do not propagate, pytest adds handlers of its own.  PyTorch takes a handler of this one to mean
    # that somebody reads its structured trace, and writes each tensor of each capture to it with the stack of the call.
    logging.getLogger("torch.__trace").propagate = True


def pytest_collection_finish():
    # A tenth of the time went into looking for garbage, most of it among modules, which stay.  They are not frozen:
    # what is frozen has no referrers, and capture looks for functions by those.
    gc.collect()
    gc.set_threshold(20_000, 20, 20)


def pytest_collection_modifyitems(items):
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="needs an NVIDIA GPU"))


class Snapshots(AmberSnapshotExtension):
    """Snapshots in ``tests/snapshots``, in folders like those of the tests."""

    @classmethod
    def dirname(cls, *, test_location):
        folder = Path(test_location.filepath).resolve().parent
        return str(HERE / "snapshots" / folder.relative_to(HERE))

    @classmethod
    def matches_test_location(cls, *, test_location, snapshot_location):
        # Files of one name in two folders are two files: updating one must not drop the other's snapshots.
        return str(Path(snapshot_location).parent) == cls.dirname(
            test_location=test_location
        ) and super().matches_test_location(test_location=test_location, snapshot_location=snapshot_location)


@pytest.fixture
def snapshot(snapshot):
    return snapshot.use_extension(Snapshots)


@pytest.fixture(autouse=True)
def seed():
    # `torch.manual_seed` notes for each kind of device that is not there where it was called from, a stack of frames.
    (torch.manual_seed if torch.cuda.is_available() else torch.default_generator.manual_seed)(0)
