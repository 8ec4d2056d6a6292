"""Texts for snapshots and coverage to insist on, as tests of users ask for them."""

import textwrap

import pytest
import torch
from torch import nn

import engine
from engine.errors import CaptureError, SettingsError
from engine.testing import assert_covered, converts, partition, portable, rewrites
from tests.operators import swirl

SWIRL = """
lower swirl
  match engine_tests.swirl(x: floating)
  emit  aten.mul.Tensor(aten.sin(x), x)
  test  x: f32[2]
"""


@pytest.fixture
def rules(tmp_path):
    path = tmp_path / "mine.rules"
    path.write_text(SWIRL)
    return path


def twice(x, y):
    return swirl(x) + swirl(y)


def inline(text):
    return textwrap.dedent(text).strip()


def test_rewrites_name_the_rule_beside_each_node(rules):
    assert rewrites(twice, [torch.ones(2), torch.ones(2)], rules=rules) == inline(
        """
        x = input : float32[2]
        y = input : float32[2]
        sin_default = aten.sin.default(x) : float32[2]  # mine.swirl
        mul_tensor = aten.mul.Tensor(sin_default, x) : float32[2]  # mine.swirl
        sin_default_1 = aten.sin.default(y) : float32[2]  # mine.swirl
        mul_tensor_1 = aten.mul.Tensor(sin_default_1, y) : float32[2]  # mine.swirl
        add = aten.add.Tensor(mul_tensor, mul_tensor_1, alpha=1) : float32[2]
        return (add,)
        """
    )


def test_symbols_are_numbered_in_order(snapshot):
    sizes = engine.Input(min_shape=(1, 4), opt_shape=(2, 4), max_shape=(8, 4))
    assert rewrites(lambda x: nn.functional.silu(x).flatten(), [sizes]) == snapshot


def test_converts_shows_layers_and_what_is_left(snapshot, rules):
    assert converts(lambda x: swirl(x).double() * 2, [torch.ones(2, 3)], rules=rules) == snapshot


def test_partition_tells_rules_and_reasons(snapshot):
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
    program = torch.export.export(model.eval(), (torch.ones(2, 4),))
    assert partition(program) == snapshot
    assert partition(model.eval(), (), {"input": torch.ones(2, 4)}) == partition(program)
    assert partition(lambda x: swirl(x.relu()), [torch.ones(2)], min_block_size=1) == snapshot


def test_a_function_built_into_pytorch_is_a_model_too():
    assert "activation.relu/relu" in converts(torch.relu, [torch.ones(2)])
    assert "activation.relu/relu" in converts(torch.ops.aten.relu.default, [torch.ones(2)])


def test_coverage_is_insisted_on():
    report = assert_covered(lambda x: swirl(x.relu() + 1), [torch.ones(2)], at_least=0.5, min_block_size=1)
    assert report.coverage == pytest.approx(2 / 3)
    with pytest.raises(AssertionError) as caught:
        assert_covered(lambda x: swirl(x.relu() + 1), [torch.ones(2)], min_block_size=1)
    first, second = str(caught.value).splitlines()
    assert first == "2 of 3 nodes of Function are in engines (66.7%), at least 100.0% are asked for"
    assert second.startswith("in PyTorch: swirl engine_tests.swirl.default [tests/testing/test_helpers.py:_]: no rule")
    assert_covered(nn.Linear(2, 2).eval(), [torch.ones(1, 2)])


@pytest.mark.parametrize("share", [95, -0.1, "0.5", None])
def test_a_percentage_is_no_share(share):
    with pytest.raises(SettingsError, match=r"95% is at_least=0\.95"):
        assert_covered(nn.ReLU(), [torch.ones(2)], at_least=share)


def test_mistakes_are_those_of_compile():
    with pytest.raises(SettingsError, match="min_block_size"):
        partition(nn.ReLU(), [torch.ones(2)], min_blocks=1)
    with pytest.raises(CaptureError, match="must be Tensor, not str"):
        rewrites(nn.ReLU(), ["text"])


def test_texts_have_no_folders(tmp_path, monkeypatch):
    text = f"{tmp_path}/mine.rules:3:1 {__file__}:12 /usr/lib/python3/site-packages/timm/layers.py:7 a/b.c 1/2.5"
    assert portable(text) == "mine.rules:_ tests/testing/test_helpers.py:_ timm/layers.py:_ a/b.c 1/2.5"
    assert portable(f"({tmp_path}/mine.rules:3:1)", rule_lines=True) == "(mine.rules:3:1)"
