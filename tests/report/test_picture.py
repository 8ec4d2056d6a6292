"""The partitioned graph as a page: it holds all that was decided, by itself, and its scripts read it.

What decides which rows, edges and hits there are is run by node where that is installed; `test_in_browser.py` shows the
rows in a browser.
"""

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from importlib import resources

import pytest
import torch

import engine
from engine.errors import EngineError
from engine.report.picture.data import picture_data
from engine.report.picture.page import picture
from tests.commands.test_cli import run
from tests.report.models import Model


class Page(HTMLParser):
    """The parts of a page: attributes, texts of elements, what it would load."""

    def __init__(self, text):
        super().__init__()
        self.open, self.texts, self.loads, self.ids = [], {}, [], []
        self.feed(text)
        assert self.open == [], self.open

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.ids += [found["id"]] if "id" in found else []
        self.loads += [found[key] for key in ("src", "href", "action", "data") if key in found]
        if tag not in ("meta", "input", "link", "img", "br"):
            self.open.append((tag, found.get("id", tag)))

    def handle_endtag(self, tag):
        assert self.open.pop()[0] == tag

    def handle_data(self, data):
        if self.open:
            self.texts.setdefault(self.open[-1][1], []).append(data)


@pytest.fixture(scope="module")
def report():
    return engine.coverage(Model(torch.linalg.svdvals).eval(), (torch.randn(4, 8),), networks=False)


@pytest.fixture(scope="module")
def text(report):
    return picture(report)


def test_the_page_holds_every_decision(report, text):
    data = json.loads("".join(Page(text).texts["data"]))
    texts, graph = data["texts"], report.graph
    nodes = {name: [texts[number] for number in numbers] for name, *numbers in data["nodes"]}
    for decision in report.query():
        op, color, segment, rule, rule_at, reason, module, source, shape, dtype, _, why = nodes[decision.node]
        assert (op, color, segment, rule) == (decision.op, decision.color, decision.segment, decision.rule)
        assert (rule_at, reason, module, source) == (
            decision.rule_at, decision.reason, decision.module, decision.source,
        )  # fmt: skip
        assert (shape, dtype) == (graph.nodes[decision.node]["shape"], graph.nodes[decision.node]["dtype"])
        assert why == (str(report.why(decision.node)) if color == "torch" else "")
    names = [name for name, *_ in data["nodes"]]
    ends = [names[number] for number in data["edges"]]
    pairs = set(zip(ends[::2], ends[1::2], strict=True))
    assert pairs == {(a, b) for a, b in graph.edges() if a in nodes and b in nodes}
    assert sum(segment["nodes"] for segment in data["segments"]) == len(report.query())


def test_it_loads_nothing_and_everything_is_there(text):
    page = Page(text)
    assert page.loads == []
    assert "url(" not in text
    assert "default-src 'none'" in text
    assert len(page.ids) == len(set(page.ids))
    script = "".join(page.texts["view"])
    for name in set(re.findall(r'byId\("(\w+)"\)', script)):
        assert name in page.ids, name
    css = "".join(page.texts["style"])
    for name in set(re.findall(r'class: "(\w+)"', script)):
        assert f".{name}" in css or name in ("name",), name


def test_without_scripts_there_are_segments_and_reasons(report, text):
    shown = text[text.index("<noscript>") : text.index("</noscript>")]
    for segment in {decision.segment for decision in report.query()}:
        assert f"<td>{segment}</td>" in shown
    for fallback in report.fallbacks:
        assert fallback.node in shown


def test_names_that_look_like_html_or_marks_stay_names(report):
    graph = report.graph
    for name in list(graph.nodes):
        graph.nodes[name]["reason"] = "</script><script>alert(1)</script> @STYLE@ <!--"
    odd = _Odd(graph, report)
    page = Page(picture(odd))
    data = json.loads("".join(page.texts["data"]))
    assert any("@STYLE@ <!--" in one for one in data["texts"])
    assert picture(odd).count("<script") == 3


class _Odd:
    """A report whose graph has other texts."""

    def __init__(self, graph, report):
        self.graph, self.report = graph, report
        self.model = "<b>@DATA@ & more</b>"

    def __getattr__(self, name):
        return getattr(self.report, name)


def test_a_report_that_keeps_no_graph_says_so():
    with pytest.raises(EngineError):
        picture_data(engine.Report("read from a file"))


def script(source, data):
    """What an expression of the page's own functions gives, as JSON."""
    if shutil.which("node") is None:
        pytest.skip("there is no node")
    model = resources.files("engine.report.picture").joinpath("model.js").read_text()
    program = f"{model}\nconst data = {json.dumps(data)};\nconsole.log(JSON.stringify((() => {{ {source} }})()));"
    done = subprocess.run(["node", "-"], input=program, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_rows_are_folded_by_module(report):
    data = picture_data(report)
    shown = "const names = () => visibleRows(g).rows.map((r) => r.node ? r.node.name : r.name);"
    folded, opened, revealed = script(
        f"const g = readGraph(data); {shown} const a = names(); foldAll(g, true); const b = names();"
        "foldAll(g, false); reveal(g, g.nodes.findIndex((n) => n.name === 'relu')); return [a, b, names()];",
        data,
    )
    assert folded == ["x", "layers", "_linalg_svd_default", "exp", "output"]
    assert opened.index("layers") < opened.index("0") < opened.index("first") < opened.index("linear")
    assert {one for one, *_ in data["nodes"]} <= set(opened)
    assert "relu" in revealed
    assert "relu_1" not in revealed


def test_edges_are_those_between_rows(report):
    rows, edges, own = script(
        "const g = readGraph(data); const v = visibleRows(g); const n = v.rows.length;"
        "return [v.rows.map((r) => r.node ? r.node.name : r.name), visibleEdges(g, v.rowOf, 0, n),"
        "visibleEdges(g, v.rowOf, 0, 0, 0)];",
        picture_data(report),
    )
    assert {(rows[a], rows[b]) for a, b in edges} == {
        ("x", "layers"), ("layers", "_linalg_svd_default"), ("_linalg_svd_default", "exp"), ("exp", "output"),
    }  # fmt: skip
    assert own == [[0, 1]]


def test_searching_takes_all_words(report):
    hits = script(
        "const g = readGraph(data); const f = (t) => search(g, t).map((i) => g.nodes[i].name);"
        "return [f('relu'), f('LAYERS.1 linear'), f('decomposition'), f('nothing like it'), f('  ')];",
        picture_data(report),
    )
    assert hits[0] == ["relu", "relu_1", "relu_2"]
    assert hits[1] == ["linear_2", "linear_3"]
    assert "_linalg_svd_default" in hits[2]
    assert hits[3:] == [[], []]


def test_5000_nodes_fit_in_a_page(report):
    data = picture_data(report)
    rows, size = script(
        "const many = { ...data, nodes: [], edges: [], texts: [...data.texts] }; const n = data.nodes.length;"
        "for (let c = 0; c * n < 5000; c += 1) {"
        "  for (const node of data.nodes) {"
        "    many.texts.push(`block${c}.` + data.texts[node[7]]);"
        "    many.nodes.push([`${node[0]}_${c}`, ...node.slice(1, 7), many.texts.length - 1, ...node.slice(8)]);"
        "  }"
        "  for (const e of data.edges) many.edges.push(e + c * n);"
        "}"
        "const g = readGraph(many); unfoldSome(g, 60); foldAll(g, true);"
        "return [visibleRows(g).rows.length, JSON.stringify(many).length];",
        data,
    )
    assert rows > 5000
    assert size < 5_000_000


def test_the_command(tmp_path):
    program = torch.export.export(Model(torch.linalg.svdvals).eval(), (torch.randn(4, 8),))
    torch.export.save(program, tmp_path / "m.pt2")
    out = tmp_path / "m.html"
    said = run("coverage", tmp_path / "m.pt2", "--no-networks", "--html", out)
    assert f"wrote {out}" in said.stderr
    assert "m.pt2" in said.stdout or "coverage" in said.stdout
    assert "_linalg_svd" in out.read_text()
    where = tmp_path / "none" / "m.html"
    assert "there is no folder" in run("coverage", tmp_path / "m.pt2", "--html", where, code=2).stderr
    assert "is a directory" in run("coverage", tmp_path / "m.pt2", "--html", tmp_path, code=2).stderr
    both = run("coverage", tmp_path / "m.pt2", tmp_path / "m.pt2", "--html", out, code=2)
    assert "one model" in both.stderr
