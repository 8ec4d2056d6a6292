"""Modules of several ranks on disk: one file a rank, an index, and checkpoints that refit what runs."""

import json
import shutil

import pytest
import torch
from torch.distributed import checkpoint

import engine
from tests.distributed.models import Exchange, batch, block, parallel, perceptron

CLOSE = {"rtol": 1e-4, "atol": 1e-5}
SETTINGS = {"runtime": "interpreter", "min_block_size": 1}


def run_saved(folder):
    x = batch()
    module = engine.compile(Exchange().eval(), (x,), **SETTINGS)
    engine.save(module, folder, program=True)
    loaded = engine.load(folder, runtime="interpreter")
    torch.testing.assert_close(loaded(x), module(x), rtol=0, atol=0)


def run_changed(folder):
    """The file of one rank is another one: all ranks are told."""
    try:
        engine.load(folder, runtime="interpreter")
    except Exception as error:
        return type(error).__name__, str(error)
    return "", ""


@pytest.fixture(scope="module")
def folder(ranks, tmp_path_factory):
    path = tmp_path_factory.mktemp("sharded") / "model"
    ranks.run(run_saved, str(path))
    return path


def test_a_folder_has_a_file_for_each_rank_and_an_index(folder):
    assert sorted(path.name for path in folder.iterdir()) == ["index.json", "rank_0.pt2", "rank_1.pt2"]
    index = json.loads((folder / "index.json").read_text())
    assert index["world_size"] == 2
    assert [[ranks for _, ranks in entry["groups"]] for entry in index["files"]] == [[[0, 1]]] * 2


def test_another_number_of_ranks_is_refused(folder):
    with pytest.raises(engine.FileError, match=r"was saved by 2 ranks.*not initialised here.*nproc-per-node 2"):
        engine.load(folder)
    with pytest.raises(engine.FileError, match="by which it exchanges tensors with other ranks"):
        engine.load(folder / "rank_0.pt2", runtime="interpreter")


def test_files_that_do_not_belong_together_are_refused_on_all_ranks(ranks, folder, tmp_path):
    mixed = tmp_path / "mixed"
    shutil.copytree(folder, mixed)
    shutil.copy(mixed / "rank_0.pt2", mixed / "rank_1.pt2")
    (kind, message), (other, own) = ranks.run(run_changed, str(mixed))
    assert (kind, other) == ("DistributedError", "FileError")
    assert "rank 1 could not do its part" in message
    assert "is not the file that" in own


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda index: index.update(world_size=3), "2 files for 3 ranks"),
        (lambda index: index.update(kind="mine"), "it is 'mine'"),
        (lambda index: index["files"][0].update(file="../rank_0.pt2"), "entry 0"),
        (lambda index: index.pop("files"), "KeyError"),
    ],
)
def test_an_index_that_is_not_ours_is_refused(folder, tmp_path, change, message):
    index = json.loads((folder / "index.json").read_text())
    change(index)
    (tmp_path / "index.json").write_text(json.dumps(index))
    with pytest.raises(engine.FileError, match=message):
        engine.load(tmp_path)
    (tmp_path / "index.json").unlink()
    with pytest.raises(engine.FileError, match=r"folder without index\.json"):
        engine.load(tmp_path)


def run_refitted(whole, sharded):
    model, x = perceptron(), batch()
    module = engine.compile(model, (x,), immutable_weights=False, **SETTINGS)
    other = perceptron(seed=7)
    wanted = other(x)
    assert not torch.allclose(wanted, module(x), atol=1e-3)
    # A checkpoint of shards, read into the model, whose state then refits the module that runs.
    checkpoint.save(other.state_dict(), checkpoint_id=sharded)
    state = model.state_dict()
    checkpoint.load(state, checkpoint_id=sharded)
    assert engine.refit(module, state, in_place=True) is module
    torch.testing.assert_close(module(x), wanted, **CLOSE)
    # One that was written by one process, of whole tensors.
    checkpoint.load(state, checkpoint_id=whole)
    engine.refit(module, state, in_place=True)
    model.load_state_dict(state)
    torch.testing.assert_close(module(x), model(x), **CLOSE)


def test_checkpoints_refit_a_module_that_runs(ranks, tmp_path):
    from tests.distributed.models import Perceptron

    torch.manual_seed(11)
    checkpoint.save(Perceptron().state_dict(), checkpoint_id=str(tmp_path / "whole"), no_dist=True)
    ranks.run(run_refitted, str(tmp_path / "whole"), str(tmp_path / "sharded"))


def run_sharded(folder):
    model, x = parallel(), batch()
    module = engine.compile(model, (x,), **SETTINGS)
    engine.save(module, folder, program=True)
    torch.testing.assert_close(engine.load(folder, runtime="interpreter")(x), block()(x), **CLOSE)


@pytest.mark.slow
def test_a_sharded_block_is_saved_and_loaded(ranks, tmp_path):
    ranks.run(run_sharded, str(tmp_path / "block"))
