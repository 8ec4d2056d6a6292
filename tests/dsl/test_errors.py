"""Every file in ``bad/`` must be refused, with the text that its snapshot holds."""

from pathlib import Path

import pytest

from engine.dsl.host import host
from engine.dsl.ruleset import RuleSet
from engine.errors import RuleError, TensorRTNotFound
from engine.tensorrt import load

HERE = Path(__file__).parent
FILES = sorted(path.stem for path in (HERE / "bad").glob("*.rules"))


def _has_tensorrt() -> bool:
    try:
        return bool(load())
    except TensorRTNotFound:
        return False


# Their text quotes the installed TensorRT.
QUOTING = [name for name in FILES if "enum" in name or name in ("layer_property", "layer_method_arguments")]


@pytest.fixture(autouse=True)
def host_functions():
    @host("plan")
    def plan(equation: str, ranks: list[int]) -> list[int] | None:
        return ranks

    @host("other")
    def other(a: int, b: int) -> int:
        return a + b


@pytest.mark.parametrize("name", FILES)
def test_refused(name, snapshot, monkeypatch):
    if name in QUOTING and not _has_tensorrt():
        pytest.skip("no TensorRT to check declarations against")
    monkeypatch.chdir(HERE)
    with pytest.raises(RuleError) as refusal:
        RuleSet.load("shared.rules", f"bad/{name}.rules", builtin=False)
    assert str(refusal.value) == snapshot


def test_shared_definitions_are_fine(monkeypatch):
    monkeypatch.chdir(HERE)
    assert RuleSet.load("shared.rules", builtin=False).layers
