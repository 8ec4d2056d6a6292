"""What the site has beyond the files of docs/: the README, the changelog, the API and the built-in rules as pages.

MkDocs calls the functions whose names begin with ``on_``.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files
from pygments.lexers import LEXERS

from engine import __all__ as NAMES
from engine.highlighting.lexer import EngineRulesLexer
from engine.runtime import __all__ as RUNTIME_NAMES

ROOT = Path(__file__).resolve().parents[2]
# Links to other files of the repository are left out; its pages are these.
_PAGES = {"README.md": "index.md", "CHANGELOG.md": "changelog.md"}
_LINK = re.compile(r"(?P<picture>!?)\[(?P<text>[^\]]+)\]\((?P<target>[^()\s]+)\)")
_FENCE = re.compile(r"^(```.*?^```[ \t]*$)", re.MULTILINE | re.DOTALL)

# Of a checkout that is not installed, the entry point of the lexer is not there.
LEXERS.setdefault(
    "EngineRulesLexer",
    (EngineRulesLexer.__module__, EngineRulesLexer.name, tuple(EngineRulesLexer.aliases), ("*.rules",), ()),
)


def on_config(config: Any) -> Any:
    """Pages that the navigation does not name come behind those that it does."""
    named = set(re.findall(r"[\w-]+\.md", repr(config["nav"])))
    rest = sorted(path.name for path in (ROOT / "docs").glob("*.md") if path.name not in named)
    if rest:
        config["nav"].append({"More": rest})
    return config


def on_files(files: Files, config: Any) -> Files:
    """Add the pages that are no files of docs/."""
    made = {page: (ROOT / source).read_text(encoding="utf-8") for source, page in _PAGES.items()}
    made["api.md"] = _api()
    for path in sorted((ROOT / "rules").rglob("*.rules")):
        made[path.relative_to(ROOT).with_suffix(".md").as_posix()] = _rules(path)
    for name, text in made.items():
        files.append(File.generated(config, name, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Lead links of the repository to pages; what is none is named."""
    own = next((source for source, name in _PAGES.items() if name == page.file.src_uri), f"docs/{page.file.src_uri}")

    def link(found: re.Match[str]) -> str:
        text, target = found["text"], found["target"]
        path, _, anchor = target.partition("#")
        if not path or re.match(r"[a-z]+:", target):
            return found.group()
        where = posixpath.normpath(posixpath.join(posixpath.dirname(own), path))
        there = _PAGES.get(where, where.removeprefix("docs/") if where.startswith("docs/") else None)
        if where.startswith("rules/") and where.endswith(".rules"):
            there = where.removesuffix(".rules") + ".md"
            anchor = re.sub(r"^L(\d+)$", r"__codelineno-0-\1", anchor)
        if there is None or files.get_file_from_path(there) is None:
            return text if text.strip("`") == path else f"{text} (`{where}`)"
        relative = posixpath.relpath(there, posixpath.dirname(page.file.src_uri) or ".")
        return f"{found['picture']}[{text}]({relative}{'#' + anchor if anchor else ''})"

    parts = _FENCE.split(markdown)
    return "".join(part if part.startswith("```") else _LINK.sub(link, part) for part in parts)


def on_page_content(html: str, page: Any, config: Any, files: Files) -> str:
    """Leave out the roles of docstrings, which Markdown does not know: ``:class:`engine.Input```."""
    return re.sub(r":(?:class|func|meth|mod|data|attr):(?=<code>)", "", html)


def _api() -> str:
    """The public names, each with its docstring."""
    parts = ["# API\n\nWhat `import engine` offers; `engine.runtime` and the errors follow.\n"]
    parts += [f"::: engine.{name}\n" for name in NAMES if name != "rules"]
    # One heading for each name: links by name lead to it.
    members = "".join(f"        - {name}\n" for name in RUNTIME_NAMES if name not in NAMES)
    options = f"    options:\n      show_root_heading: false\n      members:\n{members}"
    parts.append(f"## engine.runtime\n\n::: engine.runtime\n{options}")
    parts.append("## Errors\n\n::: engine.errors\n    options:\n      show_root_heading: false\n")
    return "\n".join(parts)


def _rules(path: Path) -> str:
    name = path.relative_to(ROOT).as_posix()
    text = path.read_text(encoding="utf-8")
    # Lines have anchors, which links of the tables of ops lead to.
    return f'# {name}\n\n```rules linenums="1"\n{text}```\n'
