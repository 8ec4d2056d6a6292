"""The documentation as a site: built without a warning, with search, the API, and rules in colours."""

import json
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

import engine

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "WARNING" not in done.stdout + done.stderr
    return folder


class Links(HTMLParser):
    def __init__(self):
        super().__init__()
        self.links, self.names = [], set()

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.names.update(found[key] for key in ("id", "name") if found.get(key))
        if tag == "a" and found.get("href"):
            self.links.append(found["href"])


def test_every_public_name_is_documented(site):
    text = (site / "api.html").read_text()
    for name in engine.__all__:
        assert name == "rules" or f'id="engine.{name}"' in text, name
    for name in ("RuleError", "CoverageError"):
        assert f'id="engine.errors.{name}"' in text
    assert ":class:" not in re.sub(r"<[^>]*>", "", text)


def test_searching_finds_rules_and_layers(site):
    index = json.loads((site / "search" / "search_index.json").read_text())
    places = {one["location"].partition("#")[0] for one in index["docs"]}
    assert {"reference.html", "language.html", "api.html", "rules/lowering/attention.html"} <= places
    assert any("trt.slice" in one["title"] for one in index["docs"])


def test_rules_are_coloured(site):
    assert '<span class="k">match</span>' in (site / "language.html").read_text()
    assert (site / "rules" / "layers.html").read_text().count('<span class="kd">layer</span>') > 30


def test_links_lead_somewhere(site):
    pages = {}
    for path in site.rglob("*.html"):
        pages[path] = found = Links()
        found.feed(path.read_text())
    missing = []
    for path, page in pages.items():
        if path.name == "404.html":
            continue
        for link in page.links:
            target, _, anchor = link.partition("#")
            if re.match(r"[a-z]+:", link):
                continue
            where = (path.parent / target).resolve() if target else path
            if not where.exists() or (anchor and where in pages and anchor not in pages[where].names):
                missing.append((path.name, link))
    assert missing == []


def test_pages_load_nothing_from_elsewhere(site):
    for path in site.rglob("*.html"):
        assert not re.findall(r'<(?:script|link|img)[^>]+(?:src|href)="https?://[^"]+"', path.read_text()), path.name
