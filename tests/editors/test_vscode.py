"""The VS Code folder: its files fit each other and the language, and `vsce` packages it where that is installed."""

import json
import re
import shutil
import subprocess
import zipfile
from pathlib import Path

import pytest

from engine.dsl.source import builtin_sources
from engine.dsl.syntax import parser
from engine.highlighting import lexer
from tests.editors.textmate import Grammar

FOLDER = Path(__file__).parents[2] / "editors" / "vscode"
SOURCES = {source.path.rpartition("/rules/")[2]: source.text for source in builtin_sources()}


@pytest.fixture(scope="module")
def package():
    return json.loads((FOLDER / "package.json").read_text())


@pytest.fixture(scope="module")
def grammar():
    return Grammar(FOLDER / "syntaxes" / "engine-rules.tmLanguage.json")


def test_the_package_names_what_there_is(package, grammar):
    (language,) = package["contributes"]["languages"]
    (syntax,) = package["contributes"]["grammars"]
    assert language["extensions"] == [".rules"]
    assert (FOLDER / language["configuration"]).is_file()
    assert (FOLDER / syntax["path"]).is_file()
    assert (FOLDER / package["main"]).is_file()
    assert syntax["language"] == language["id"]
    assert syntax["scopeName"] == grammar.data["scopeName"]
    assert "^" + package["engines"]["vscode"].lstrip("^") == package["engines"]["vscode"]
    extension = (FOLDER / package["main"]).read_text()
    for name in package["contributes"]["configuration"]["properties"]:
        assert f'settings.get("{name.removeprefix("engineRules.")}")' in extension
    for command in package["contributes"]["commands"]:
        assert f'registerCommand("{command["command"]}"' in extension
    assert f'language: "{language["id"]}"' in extension


def test_the_configuration_is_that_of_the_language():
    found = json.loads((FOLDER / "language-configuration.json").read_text())
    assert found["comments"] == {"lineComment": "#"}
    assert sorted("".join(pair) for pair in found["brackets"]) == ["()", "[]", "{}"]
    indent = re.compile(found["indentationRules"]["increaseIndentPattern"])
    assert indent.search("lower a")
    assert not indent.search("  match aten.relu(x)")


def test_the_grammar_has_the_words_of_the_language(grammar):
    text = json.dumps(grammar.data)
    every = (
        *lexer.ITEMS, *lexer.CLAUSES, *lexer.OF_LAYERS, *lexer.OPERATORS, *lexer.CONSTANTS, *lexer.MODIFIERS,
        *lexer.TYPES,
    )  # fmt: skip
    for word in every:
        assert re.search(rf"\b{word}\b", text), word


@pytest.mark.parametrize("name", list(SOURCES)[::4])
def test_built_in_files_are_coloured(name, grammar):
    found = [pair for line in SOURCES[name].split("\n") for pair in grammar.scopes(line)]
    of = {}
    for text, scope in found:
        of.setdefault(scope.removesuffix(".engine-rules"), []).append(text)
    assert all(text.startswith("#") for text in of.get("comment.line.number-sign", ()))
    file = parser.parse(SOURCES[name], name)
    rules = sorted(file.rules, key=lambda item: item.span.line)
    assert of.get("entity.name.type.rule", []) == [rule.name for rule in rules]
    defined = {item.name for item in (*file.macros, *file.patterns, *file.layers, *file.externs)}
    assert set(of.get("entity.name.function", [])) == defined
    clauses = of.get("keyword.control.clause", [])
    assert clauses.count("match") == clauses.count("emit") == len(rules)
    assert clauses.count("test") + clauses.count("reject") == sum(len(rule.tests) for rule in rules)
    # Names are all that has no colour.
    for line in SOURCES[name].split("\n"):
        rest = line
        for text, _ in grammar.scopes(line):
            rest = rest.replace(text, " ", 1)
        assert re.fullmatch(r"[\w\s.]*", rest), line


def test_the_extension_is_javascript():
    if shutil.which("node") is None:
        pytest.skip("there is no node")
    subprocess.run(["node", "--check", str(FOLDER / "src" / "extension.js")], check=True, timeout=60)


@pytest.mark.slow
def test_vsce_packages_it(tmp_path):
    if shutil.which("vsce") is None:
        pytest.skip("there is no vsce: npm install -g @vscode/vsce")
    copy = tmp_path / "vscode"
    shutil.copytree(FOLDER, copy, ignore=shutil.ignore_patterns("node_modules"))
    command = ["vsce", "package", "--allow-missing-repository", "--no-dependencies", "-o", "out.vsix"]
    subprocess.run(command, cwd=copy, check=True, timeout=300)
    with zipfile.ZipFile(copy / "out.vsix") as packed:
        names = packed.namelist()
    assert "extension/syntaxes/engine-rules.tmLanguage.json" in names
    assert "extension/src/extension.js" in names
