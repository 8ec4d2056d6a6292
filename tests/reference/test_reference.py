"""The reference of the language is complete, right where it can be compared, and the page is current."""

import re
from pathlib import Path

import pytest

from engine.commands.rules.output import CODES
from engine.dsl.bindings import bindings_for
from engine.dsl.ruleset import RuleSet
from engine.dsl.source import builtin_directory
from engine.dsl.syntax.parser import _CLAUSES, _ITEMS, parse
from engine.dsl.vocabulary import SIGNATURES
from engine.reference.clauses import clauses
from engine.reference.functions import functions
from engine.reference.layers import layers, layers_of
from engine.reference.macros import macros, macros_of
from engine.reference.ops import op
from engine.reference.page import page
from engine.tensorrt import capabilities
from tests.commands.test_cli import run

DOCS = Path(__file__).parents[2] / "docs"


def test_the_page_is_current():
    message = "run `python -m engine.reference.page docs/reference.md`"
    assert page() == (DOCS / "reference.md").read_text(encoding="utf-8"), message


def test_every_function_is_described_with_its_arguments():
    described = functions()
    assert set(described) == {*SIGNATURES, "loop"}
    for name, (least, most) in SIGNATURES.items():
        call = described[name].signature.partition(" ->")[0]
        assert call.startswith(f"{name}(")
        counts, open_end = set(), False
        for arguments in re.findall(rf"{name}\((.*?)\)(?=,|$)", call):
            given = re.sub(r"\[[^\]]*\]", "list", arguments).split(", ")
            open_end |= given[-1] == ".."
            counts.add(len([one for one in given if one != ".."]))
        assert max(counts) == most or (open_end and most is None), name
        assert min(counts) == least or (open_end and min(counts) >= least), name


def test_every_clause_and_item_is_described():
    assert set(clauses()) == {*_CLAUSES, *_ITEMS}


def test_every_layer_is_described_with_its_parameters():
    text = (builtin_directory() / "layers.rules").read_text()
    described, bindings = layers(), bindings_for(capabilities())
    for item in parse(text, "layers.rules").layers:
        entry = described[item.name]
        assert entry.span.line == item.span.line
        assert [row[0].strip("`").split()[0].rstrip("`") for row in entry.details] == [p.name for p in item.parameters]
        said = " ".join(entry.notes)
        for parameter, row in zip(item.parameters, entry.details, strict=True):
            assert (row[4].startswith(f"input {parameter.slot}")) == (parameter.slot is not None)
            for enum in parameter.type.names:
                for member in (bindings.members(enum) or ()) if enum[:1].isupper() else ():
                    assert f"`{member}`" in said
        assert (f"since TensorRT {item.since}" in said) == (item.since is not None)


def test_layers_of_a_users_file_for_versions():
    text = (
        "# Keeps what is above.\nlayer trt.mine(x: tensor, *, k: [int] = [1] as kay @2|-1, m: SampleMode = FILL)\n"
        "  -> tensor, tensor\n  gives (shape(x), f32), (none, dtype(x))\n  via add_mine(x) since 10.1 until 11.0\n"
    )
    (entry,) = layers_of(parse(text)).values()
    assert entry.doc == "Keeps what is above."
    assert entry.details[1] == ("`k (kay)`", "attribute", "`[int]`", "`[1]`", "input 2, or one size as -1")
    assert "since TensorRT 10.1, until 11.0" in entry.notes[-1]
    assert entry.notes[0] == "Gives shape `shape(x)` and dtype `f32`; dtype `dtype(x)`."


def test_macros_have_the_comment_above_them():
    (entry,) = macros_of(parse("# ------ numbers\n\n# One.\n# Two.\ndef f(a, b) =\n  a +\n    b\n")).values()
    assert (entry.signature, entry.doc) == ("def f(a, b) = a + b", "One. Two.")
    assert macros()["lift"].doc.startswith("Leading ones")


def test_ops_have_arguments_defaults_and_rules():
    entry = op("aten.gelu", RuleSet.load())
    assert entry.details[1] == ("`approximate`", "`str`", '`"none"`')
    assert "`activation.gelu` (convert)" in entry.notes[0]
    assert op("aten.nope") is None
    assert op("higher_order.cond").name == "higher_order.cond"


def test_the_command():
    assert "trt.slice  " in run("rules", "doc", "layer").stdout
    assert "input 1" in run("rules", "doc", "trt.slice").stdout
    assert run("rules", "doc", "layer", "slice").stdout == run("rules", "doc", "trt.slice").stdout
    assert "aten::add.Scalar" in run("rules", "doc", "op", "add").stdout
    assert "nothing reads" in run("rules", "doc", "unused").stdout
    assert '"at run time": "input 1"' in run("rules", "doc", "--json", "trt.slice").stdout
    assert "did you mean `trt.slice`" in run("rules", "doc", "layer", "trt.slise", code=1).stderr
    assert "did you mean" in run("rules", "doc", "function", "shapes", code=1).stderr


@pytest.mark.parametrize("code", CODES.values(), ids=lambda code: code.name)
def test_every_code_is_in_the_page(code):
    assert f"| `{code.code}` | {code.name} |" in (DOCS / "reference.md").read_text(encoding="utf-8")
