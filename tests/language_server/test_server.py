"""The language server as an editor meets it: a process that answers over the protocol."""

import subprocess
import sys
from pathlib import Path

import pytest

from engine.dsl.source import builtin_directory
from tests.language_server.client import Client
from tests.language_server.long_file import PLACE, many_rules

TEXT = """\
# A sum of twice.
def twice(x, n) = aten.mul.Tensor(x, n)

pattern scaled(y, s) = aten.mul.Tensor(y, s: float)

lower mine "Twice x, for ünïcode 𝒳."
  match aten.add.Tensor(x: floating[.., K], x, alpha=k)
  when  k == 1, K > 1
  let   y = twice(x, 2)
  emit  as_dtype(y, dtype(result))
  decreases k
  test  x: f32[2, 3], k = 1
  reject x: f32[2, 1], k = 1

convert wrong
  match aten.gelu(x: f32[_, _, _])
  emit  trt.activation(x, type=RELU)
  over  activation.gelu
  test  x: f32[2, 3, 4]
"""
LINES = TEXT.split("\n")


def place(text, nth=0, inside=0):
    """The line and column, from 0, of the nth time that a text stands in the file."""
    start = -1
    for _ in range(nth + 1):
        start = TEXT.index(text, start + 1)
    line = TEXT.count("\n", 0, start)
    return line, start - (TEXT.rfind("\n", 0, start) + 1) + inside


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("editor")


@pytest.fixture(scope="module")
def client(folder):
    client = Client(folder)
    yield client
    client.close()


@pytest.fixture(scope="module")
def path(client, folder):
    path = folder / "mine.rules"
    path.write_text(TEXT)
    client.open(path, TEXT)
    client.diagnostics(path)
    return path


def test_what_it_can(client):
    can = client.capabilities
    assert can["hoverProvider"]
    assert can["definitionProvider"]
    assert can["referencesProvider"]
    assert can["documentFormattingProvider"]
    assert "." in can["completionProvider"]["triggerCharacters"]
    assert "engine.runTestLine" in can["executeCommandProvider"]["commands"]


def test_mistakes_while_typing_and_lint_when_there_are_none(client, folder):
    path = folder / "typing.rules"
    fine = "lower a\n  match aten.gelu(x)\n  emit  aten.relu(x)\n  test  x: f32[2]\n"
    client.open(path, fine)
    assert client.diagnostics(path) == []
    client.type(path, "l", 1, 14)
    (mistake,) = client.diagnostics(path)
    assert "there is no op `aten.glelu`" in mistake["message"]
    assert "did you mean `aten.gelu`" in mistake["message"]
    assert (mistake["code"], mistake["severity"], mistake["source"]) == ("R001", 1, "engine")
    assert mistake["range"] == {"start": {"line": 1, "character": 8}, "end": {"line": 1, "character": 21}}
    client.replace(path, fine.replace("(x)\n  emit", "(x\n  emit").replace("test", "tset"))
    assert all(one["code"] == "R001" for one in client.diagnostics(path))
    client.replace(path, fine.replace("  emit", "  let   k = 1\n  emit"))
    (unread,) = client.diagnostics(path)
    assert (unread["code"], unread["severity"], unread["tags"]) == ("R105 unread", 2, [1])
    client.replace(path, fine.replace("gelu(x)", "gelu(x: f32[_, _])\n  when  rank(x) == 3"))
    (never,) = client.diagnostics(path)
    assert (never["code"], never["severity"]) == ("R004 never", 1)
    client.tell("textDocument/didClose", textDocument={"uri": path.as_uri()})
    cleared, _ = client.next("textDocument/publishDiagnostics", lambda params: params["uri"] == path.as_uri())
    assert cleared["diagnostics"] == []


def test_files_beside_it_count_where_they_are_needed(client, folder):
    (folder / "shared").mkdir()
    (folder / "shared" / "macros.rules").write_text("def doubled(x) = aten.mul.Tensor(x, 2)\n")
    path = folder / "shared" / "user.rules"
    client.open(path, "lower a\n  match aten.gelu(x)\n  emit  doubled(aten.relu(x))\n  test  x: f32[2]\n")
    assert client.diagnostics(path) == []
    assert client.at("definition", path, 2, 10)["uri"].endswith("macros.rules")


def test_keys_in_a_row_are_one_change(client, folder):
    path = folder / "row.rules"
    client.open(path, "lower a\n  match aten.gelu(x)\n  emit  aten.relu(x)\n  test  x: f32[2]\n")
    assert client.diagnostics(path) == []
    for letter in "zzz":
        client.type(path, letter, 2, 17)
    (mistake,) = client.diagnostics(path)
    assert "aten.reluzzz" in mistake["message"]


@pytest.mark.parametrize(
    ("where", "said"),
    [
        (place("aten.add.Tensor", inside=7), "aten::add.Tensor(Tensor self"),
        (place("trt.activation", inside=6), "`ActivationType`: `CLIP`"),
        (place("twice(x, 2)"), "def twice(x, n) = aten.mul.Tensor(x, n)"),
        (place("twice(x, 2)"), "A sum of twice."),
        (place("as_dtype"), "prelude.rules"),
        (place("dtype(result)"), "The dtype of a tensor"),
        (place("floating"), "bf16"),
        (place("f32[2, 3]"), "torch.float32"),
        (place("RELU"), "a member of `ActivationType`"),
        (place("decreases"), "in a cycle"),
        (place("let "), "A name for a value"),
        (place("emit  as_dtype(y", inside=15), "let   y"[6:]),
        (place("activation.gelu", inside=12), "activation.rules"),
    ],
)  # fmt: skip
def test_hover(client, path, where, said):
    shown = client.at("hover", path, *where)
    assert said in shown["contents"]["value"], shown


def test_nothing_to_say(client, path):
    assert client.at("hover", path, 0, 3) is None  # a comment
    assert client.at("hover", path, *place("Twice x")) is None  # a string
    assert client.at("hover", path, 2, 0) is None


@pytest.mark.parametrize(
    ("where", "file", "line"),
    [
        (place("twice(x, 2)"), "mine.rules", 1),
        (place("y, dtype"), "mine.rules", 8),
        (place("K > 1"), "mine.rules", 6),
        (place("as_dtype"), "prelude.rules", None),
        (place("trt.activation"), "layers.rules", None),
        (place("activation.gelu"), "activation.rules", None),
    ],
)
def test_definition(client, path, where, file, line):
    found = client.at("definition", path, *where)
    assert found["uri"].endswith(file)
    start = found["range"]["start"]
    if line is not None:
        assert start["line"] == line
        name = LINES[where[0]][where[1] :][:1]
        assert LINES[line][start["character"]] == name
    else:
        defined = (builtin_directory() / "x").parent.rglob(file)
        lines = [p.read_text().split("\n") for p in defined]
        assert any(LINES[where[0]][where[1] :].split("(")[0].rpartition(".")[2].strip() in one[start["line"]]
                   for one in lines if len(one) > start["line"])  # fmt: skip


def test_no_definition_of_what_pytorch_defines(client, path):
    assert client.at("definition", path, *place("aten.add.Tensor", inside=6)) is None


def test_references(client, path):
    def of(where, declared=True):
        found = client.at("references", path, *where, context={"includeDeclaration": declared})
        return [(one["range"]["start"]["line"], one["range"]["start"]["character"]) for one in found]

    x = of(place("x: floating"))
    assert [line for line, _ in x] == [6, 6, 8, 11, 12]
    assert of(place("x: floating"), declared=False) == x[1:]
    assert of(place("twice(x, 2)")) == [(1, 4), (8, 12)]
    # `k` is a keyword's value, not the keyword `alpha`.
    assert [line for line, _ in of(place("k == 1"))] == [6, 7, 10, 11, 12]
    uses = client.at("references", path, *place("as_dtype"), context={"includeDeclaration": True})
    assert len({one["uri"] for one in uses}) > 5
    ruled = client.at("references", path, *place("wrong"), context={"includeDeclaration": True})
    assert len(ruled) == 1


@pytest.mark.parametrize(
    ("typed", "wanted", "unwanted"),
    [
        ("lower b\n  match aten.gel", "aten.gelu", "aten.relu"),
        ("lower b\n  match aten.add.", "aten.add.Tensor", "aten.add.out"),
        ("lower b\n  match aten.gelu(x, ", "approximate=", "alpha="),
        ("convert b\n  match aten.gelu(x)\n  emit trt.sli", "trt.slice", "trt.cast"),
        ("convert b\n  match aten.gelu(x)\n  emit trt.slice(x, ", "stride=", "x="),
        ("convert b\n  match aten.gelu(x)\n  emit trt.slice(x, mode=", "STRICT_BOUNDS", "RELU"),
        ("convert b\n  match aten.gelu(x)\n  emit trt.activation(x, type=R", "RELU", "TANH"),
        ("convert b\n  match aten.gelu(x)\n  emit trt.reduce(x, keep_dims=", "true", "RELU"),
        ("convert b\n  match aten.gelu(x)\n  emit lif", "lift", "gelu"),
        ("lower b\n  match aten.gelu(x)\n  let yy = 1\n  emit y", "yy", "x"),
        ("lower b\n  match aten.gelu(x)\n  emit ran", "range", "zip"),
        ("lower b\n  match aten.gelu(x)\n  emit twi", "twice", "range"),
        ("lower b\n  match aten.gelu(x: flo", "floating", "integral"),
        ("lower b\n  match aten.gelu(x)\n  re", "reject", "match"),
        ("lower b\n  match aten.gelu(x)\n  relax na", "nan", "ties"),
        ("lower b\n  match aten.gelu(x)\n  needs cap.", "cap.attention", "rtx"),
        ("lower b\n  match aten.gelu(x)\n  over activation.ge", "activation.gelu", "mine"),
        ("lower b\n  match aten.gelu(x)\n  over ", "mine", "range"),
        ("conv", "convert", "when"),
        ("lower b\n  match engine_tests.swi", "engine_tests.swirl", "aten.gelu"),
    ],
)
def test_completion(client, path, typed, wanted, unwanted):
    text = TEXT + "\n" + typed
    other = path.with_name("typed.rules")
    if other not in client.versions:
        client.open(other, text)
    client.replace(other, text)
    lines = text.split("\n")
    found = client.at("completion", other, len(lines) - 1, len(lines[-1]))["items"]
    labels = [one["label"] for one in found]
    assert wanted in labels, labels[:40]
    assert unwanted not in labels
    (edit,) = [one["textEdit"] for one in found if one["label"] == wanted][:1]
    start = edit["range"]["start"]["character"]
    assert wanted.startswith(lines[-1][start:])


def test_formatting(client, folder):
    path = folder / "odd.rules"
    client.open(path, "lower a match aten.gelu(x)\nemit aten.relu(x) test x: f32[2]")
    options = {"tabSize": 2, "insertSpaces": True}
    (edit,) = client.ask("textDocument/formatting", textDocument={"uri": path.as_uri()}, options=options)
    assert edit["newText"] == "lower a\n  match aten.gelu(x)\n  emit  aten.relu(x)\n  test  x: f32[2]\n"
    client.replace(path, edit["newText"])
    assert client.ask("textDocument/formatting", textDocument={"uri": path.as_uri()}, options=options) == []
    client.replace(path, "lower a match aten.gelu(x")
    assert client.ask("textDocument/formatting", textDocument={"uri": path.as_uri()}, options=options) is None
    assert "not formatted" in client.next("window/showMessage")[0]["message"]


def test_outline(client, path):
    found = client.ask("textDocument/documentSymbol", textDocument={"uri": path.as_uri()})
    assert [(one["name"], one["detail"]) for one in found] == [
        ("twice", "macro"), ("scaled", "pattern"), ("mine", "lower"), ("wrong", "convert"),
    ]  # fmt: skip


def test_lenses_run_test_lines(client, path):
    uri = path.as_uri()
    lenses = client.ask("textDocument/codeLens", textDocument={"uri": uri})
    assert [one["range"]["start"]["line"] for one in lenses] == [11, 12, 18]
    assert {one["command"]["title"] for one in lenses} == {"run"}
    outcomes = [
        client.ask("workspace/executeCommand", command=one["command"]["command"], arguments=one["command"]["arguments"])
        for one in lenses
    ]
    assert [one["good"] for one in outcomes] == [True, True, False]
    assert "my" not in outcomes[2]["said"]
    assert client.next("workspace/codeLens/refresh")
    again = client.ask("textDocument/codeLens", textDocument={"uri": uri})
    titles = [one["command"]["title"] for one in again]
    assert titles[0].startswith("agrees")
    assert titles[2].startswith("wrong")
    gone = client.ask("workspace/executeCommand", command="engine.runTestLine", arguments=[uri, 1])
    assert gone is None


def test_columns_count_as_the_client_counts(client, path):
    # Letters outside the basic plane are two units of UTF-16.
    text = '# 𝒳𝒳\ndef f(x) = aten.relu(x)\nlower a "𝒳𝒳" match aten.gelu(x) emit f(x) test x: f32[2]\n'
    other = path.with_name("wide.rules")
    client.open(other, text)
    line = text.split("\n")[2]
    column = len(line[: line.index("f(x)")].encode("utf-16-le")) // 2
    assert "def f(x)" in client.at("hover", other, 2, column)["contents"]["value"]
    client.replace(other, text.replace("aten.gelu", "aten.gellu"))
    (mistake,) = client.diagnostics(other)
    assert mistake["range"]["start"]["character"] == len(line[: line.index("aten")].encode("utf-16-le")) // 2


def test_a_built_in_file_has_its_mistakes_of_syntax_at_once(client):
    path = builtin_directory() / "conversion" / "activation.rules"
    text = path.read_text()
    client.open(path, text)
    own = lambda params: params["uri"] == path.as_uri()  # noqa: E731
    assert client.next("textDocument/publishDiagnostics", own)[0]["diagnostics"] == []
    client.replace(path, text.replace("match", "mtach", 1))
    assert client.next("textDocument/publishDiagnostics", own)[0]["diagnostics"]


def test_each_key_in_500_lines_is_answered(client, folder):
    # How long that takes is measured by benchmarks/editor.py.
    text = many_rules(63)
    assert text.count("\n") > 500
    path = folder / "long.rules"
    client.open(path, text)
    assert client.answer(path)[0] == []
    for _ in range(3):
        client.type(path, "5", *PLACE)
        assert client.answer(path)[0] == []
    client.type(path, "(", *PLACE)
    assert client.answer(path)[0]


def test_without_pygls_it_says_what_to_install():
    code = (
        "import sys; sys.modules['pygls'] = None\n"
        "from engine.commands.cli import main; sys.argv = ['engine', 'rules', 'lsp']; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parents[2], check=False
    )
    assert done.returncode == 1
    assert 'pip install "engine[lsp]"' in done.stderr
