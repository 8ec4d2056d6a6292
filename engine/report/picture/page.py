"""The page: one file with its style, its scripts and its data, which loads nothing from elsewhere."""

from __future__ import annotations

import html
import json
import re
from importlib import resources
from typing import TYPE_CHECKING

from engine.report.picture.data import picture_data

if TYPE_CHECKING:
    from engine.report.report import Report


def picture(report: Report) -> str:
    """The partitioned graph of a report as an HTML page.

    Args:
        report: of ``engine.coverage`` or ``engine.compile`` in this process.

    Raises:
        EngineError: the report was read from a file, which keeps no graph.
    """
    data = picture_data(report)
    files = resources.files("engine.report.picture")
    page = files.joinpath("page.html").read_text(encoding="utf-8")
    # In a script element only `</` and `<!--` mean something to a browser.
    written = json.dumps(data, separators=(",", ":"), ensure_ascii=False).replace("<", "\\u003c")
    parts = {
        "TITLE": html.escape(report.model or "model"),
        "SUMMARY": _summary(report, data["segments"]),
        "STYLE": files.joinpath("style.css").read_text(encoding="utf-8"),
        "MODEL": files.joinpath("model.js").read_text(encoding="utf-8"),
        "VIEW": files.joinpath("view.js").read_text(encoding="utf-8"),
        "DATA": written,
    }
    # All at once: what is put in may hold such marks itself.
    return re.sub(r"@([A-Z]+)@", lambda mark: parts[mark.group(1)], page)


def _summary(report: Report, segments: list[dict[str, object]]) -> str:
    """What there is without a script: segments, and what stays in PyTorch with the reason."""
    rows = "".join(
        f"<tr><td>{html.escape(str(one['name']))}</td><td>{one['color']}</td><td>{one['nodes']}</td></tr>"
        for one in segments
    )
    tables = f"<table><tr><th>segment</th><th>runs in</th><th>nodes</th></tr>{rows}</table>"
    reasons = "".join(
        "<tr>"
        + "".join(f"<td>{html.escape(text)}</td>" for text in (one.node, one.op, one.reason, one.source))
        + "</tr>"
        for one in report.fallbacks[:200]
    )
    if reasons:
        head = "<tr><th>node</th><th>op</th><th>why it stays in PyTorch</th><th>line</th></tr>"
        tables += f"<table>{head}{reasons}</table>"
    return tables


__all__ = ["picture"]
