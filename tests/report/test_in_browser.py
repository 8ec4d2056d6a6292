"""The page in a real browser, where one is installed: its rows, its buttons, its keys and its search.

A script at the end of a copy of the page does what a reader would do, and leaves what it saw in the document, which the
browser prints.
"""

import html
import json
import re
import shutil
import subprocess

import pytest
import torch

import engine
from engine.report.picture.page import picture
from tests.report.models import Model

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="there is no chromium")

SEEN = """
const seen = { faults: [] };
window.addEventListener("error", (event) => seen.faults.push(event.message));
const names = () => [...document.querySelectorAll(".row .name")].map((each) => each.textContent);
const details = () => document.getElementById("details").textContent;
const rowOfName = (name) =>
  [...document.querySelectorAll(".row")].find((row) => row.querySelector(".name").textContent === name);
const press = (id) => document.getElementById(id).click();
const type = (text) => {
  const box = document.getElementById("search");
  box.value = text;
  box.dispatchEvent(new Event("input"));
};
"""


@pytest.fixture(scope="module")
def page():
    return picture(engine.coverage(Model(torch.special.bessel_j0).eval(), (torch.randn(4, 8),), networks=False))


def shown(page, folder, script):
    """What a script that fills `seen` leaves there after the page has begun."""
    left = """
        const left = document.createElement("pre");
        left.id = "seen"; left.textContent = JSON.stringify(seen); document.body.append(left);
    """
    path = folder / "page.html"
    path.write_text(page.replace("</body>", f"<script>{{ {SEEN} {script} {left} }}</script></body>"), encoding="utf-8")
    done = subprocess.run(
        [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder / 'profile'}",
         "--window-size=1200,800", "--virtual-time-budget=2000", "--dump-dom", path.as_uri()],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    found = re.search(r'<pre id="seen">(.*?)</pre>', done.stdout, re.DOTALL)
    assert found, done.stderr[-2000:]
    seen = json.loads(html.unescape(found.group(1)))
    assert seen.pop("faults") == []
    return seen


def test_what_a_reader_sees_and_does(page, tmp_path):
    seen = shown(page, tmp_path, """
        seen.title = document.getElementById("title").textContent;
        seen.begins = details();
        seen.legend = document.getElementById("legend").textContent;
        press("fold"); seen.folded = names();
        rowOfName("layers").click(); seen.opened = names();
        press("unfold"); seen.unfolded = names();
        rowOfName("relu_1").click(); seen.node = details();
        seen.near = document.querySelectorAll(".row.near").length;
        press("torch"); seen.outside = details();
        type("layers.2 linear"); seen.found = document.getElementById("found").textContent;
        press("next"); seen.at = document.getElementById("found").textContent;
        seen.hit = document.querySelector(".row.selected .name").textContent;
        document.getElementById("graph").dispatchEvent(new KeyboardEvent("keydown", { key: "ArrowDown" }));
        seen.below = document.querySelector(".row.selected .name").textContent;
    """)  # fmt: skip
    assert seen["title"].startswith("Model: ")
    assert "In PyTorch, and why" in seen["begins"]
    assert "special_bessel_j0" in seen["begins"]
    assert "engine_0" in seen["legend"]
    assert seen["folded"] == ["x", "layers", "special_bessel_j0", "exp", "output"]
    assert seen["opened"][:3] == ["x", "layers", "0"]
    assert {"first", "second", "relu", "linear_5"} <= set(seen["unfolded"])
    assert "activation.relu" in seen["node"]
    assert "layers.1" in seen["node"]
    assert seen["near"] == 2  # what it reads and what reads it
    assert "no rule converts aten.special_bessel_j0" in seen["outside"]
    assert (seen["found"], seen["at"]) == ("2 found", "1 of 2")
    assert seen["hit"] == "linear_4"
    assert seen["below"] != "linear_4"


def test_only_rows_that_are_to_be_seen_are_in_the_document(tmp_path):
    page = picture(
        engine.coverage(Model(torch.special.bessel_j0, count=120).eval(), (torch.randn(4, 8),), networks=False)
    )
    seen = shown(page, tmp_path, """
        press("unfold");
        seen.drawn = document.querySelectorAll(".row").length;
        seen.height = document.getElementById("height").offsetHeight / 22;
        document.getElementById("graph").scrollTop = 22 * 400;
        document.getElementById("graph").dispatchEvent(new Event("scroll"));
        seen.scrolled = names();
    """)  # fmt: skip
    assert seen["height"] > 480
    assert 20 < seen["drawn"] < 60
    assert "x" not in seen["scrolled"]
