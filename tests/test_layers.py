"""The order of the packages: what stands lower imports nothing that stands higher, not even inside a function."""

import ast
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import networkx
import pytest

ROOT = Path(__file__).parents[1]

# Lowest first.  A package is one entry with all that is in it; ``engine/x.py`` is ``x``.
ORDER = (
    "errors", "storage", "sizes", "dtypes", "observers", "tensorrt", "settings", "process",
    "distributed", "graph", "report", "weights", "dsl", "matcher", "evaluator", "rewriter", "partitioner", "capture",
    "conversion", "interpreter", "runtime", "builder", "engine_cache", "inductor", "compiled", "lowering", "refitting",
    "files", "pipeline", "tuning", "compiler", "generation", "torch_compile", "backend", "verify", "linter",
    "reference", "language_server", "highlighting", "commands", "cli", "__main__", "rules", "testing",
)  # fmt: skip
# Names of types of a later package are no imports at run time, but here they would turn the order around.
LOW = {"errors", "sizes", "dtypes", "settings", "graph", "report", "evaluator"}
MOST_IN_ROOT, MOST_IN_PACKAGE = 12, 16


class Import(NamedTuple):
    file: str
    imported: str
    line: int
    for_types: bool

    def __str__(self) -> str:
        return f"{self.file}:{self.line} imports {self.imported}"


def modules() -> dict[str, Path]:
    found = {}
    for path in sorted((ROOT / "engine").rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(name: str, path: Path, known: dict[str, Path]) -> Iterator[Import]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for_types = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for statement in node.body
        for inner in ast.walk(statement)
    }
    where = path.relative_to(ROOT).as_posix()
    for node in ast.walk(tree):
        targets = []
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "engine":
            assert node.level == 0
            targets = [f"{node.module}.{alias.name}" for alias in node.names]
            targets = [target if target in known else node.module for target in targets]
        elif isinstance(node, ast.Import):
            targets = [alias.name for alias in node.names if alias.name in known]
        for target in targets:
            if target != name:
                yield Import(where, target, node.lineno, id(node) in for_types)


def room(module: str) -> str:
    """The entry of ``ORDER`` that a module belongs to; empty for ``engine`` itself, whose names are loaded late."""
    return module.partition(".")[2].partition(".")[0]


@pytest.fixture(scope="module")
def found() -> dict[str, list[Import]]:
    known = modules()
    return {name: list(imports(name, path, known)) for name, path in known.items()}


def test_every_package_has_its_place(found):
    assert {room(module) for module in found} - {""} == set(ORDER)


def test_imports_go_down(found):
    place = {name: index for index, name in enumerate(ORDER)}
    climbing = [
        str(one)
        for module, ones in found.items()
        for one in ones
        if room(module) and room(one.imported) and place[room(one.imported)] > place[room(module)]
        if not one.for_types or room(module) in LOW
    ]
    assert climbing == []


def test_no_file_imports_itself_through_others(found):
    graph = networkx.DiGraph(
        (module, one.imported) for module, ones in found.items() for one in ones if not one.for_types
    )
    graph.remove_node("engine")
    assert [sorted(circle) for circle in networkx.strongly_connected_components(graph) if len(circle) > 1] == []


def test_no_room_is_crowded(found):
    counts: defaultdict[str, int] = defaultdict(int)
    for path in modules().values():
        counts[path.parent.relative_to(ROOT).as_posix()] += 1
    assert counts.pop("engine") <= MOST_IN_ROOT
    assert {folder: count for folder, count in counts.items() if count > MOST_IN_PACKAGE} == {}
