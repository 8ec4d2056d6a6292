"""Every layer case against its reference in PyTorch, and what TensorRT's builder refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from engine.interpreter import Program
from engine.tensorrt import load
from tests.interpreter import agreement
from tests.interpreter.case import LayerCase, Net, logger
from tests.interpreter.cases import CASES

_ALL = json.loads(Path(__file__).with_name("refusals.json").read_text())
_REFUSALS: dict[str, str] = _ALL.get(f"{load().__name__} {load().__version__}", {}).get("build", {})
_BY_NAME = {case.name: case for case in CASES}


def _network(case: LayerCase) -> Net:
    try:
        return case.network()
    except (RuntimeError, ValueError, TypeError, AttributeError) as error:
        recorded = f"{load().__name__} {load().__version__}" in _ALL
        if case.name in _REFUSALS or not recorded:
            pytest.skip(f"TensorRT refuses the layer: {_REFUSALS.get(case.name, error)}")
        raise


def test_names_are_unique() -> None:
    assert len(_BY_NAME) == len(CASES)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_reference(case: LayerCase) -> None:
    net = _network(case)  # owns the weights until the program has read them
    logger().warnings.clear()
    program = Program.from_network(net.network)
    assert not logger().warnings, "reading the network made TensorRT complain"
    actual = program(*case.inputs.values())
    expected = case.expected()
    if expected is None:
        return  # only TensorRT knows; tests/interpreter/agreement.py asks it
    assert len(actual) == len(expected)
    for ours, wanted in zip(actual, expected, strict=True):
        agrees, error = case.compare(ours, wanted)
        assert agrees, f"error {error}: {ours.dtype}{list(ours.shape)} {ours} against {wanted}"


@pytest.mark.parametrize("name", _REFUSALS)
def test_refusal(name: str) -> None:
    with pytest.raises(RuntimeError) as caught:
        agreement.build(_BY_NAME[name])
    assert _REFUSALS[name][:60] in str(caught.value)


@pytest.mark.slow
@pytest.mark.parametrize("case", [c for c in CASES if c.name not in _REFUSALS], ids=lambda case: case.name)
def test_builds(case: LayerCase) -> None:
    assert agreement.build(case)[1] is not None
