"""Findings as SARIF 2.1.0, which code hosts and editors show beside the lines."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import engine
from engine.errors import Span
from engine.linter.codes import CODES
from engine.linter.finding import Finding


def as_sarif(findings: Sequence[Finding]) -> dict[str, Any]:
    """One run of the tool; places of files below the current folder are relative to it."""
    used = list(CODES)
    return {
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [
            {
                "tool": {
                    "driver": {
                        "name": "engine rules",
                        "version": engine.__version__,
                        "rules": [
                            {
                                "id": code.code,
                                "name": code.name,
                                "shortDescription": {"text": code.summary},
                                "fullDescription": {"text": code.why},
                                "help": {"text": code.explained()},
                                "defaultConfiguration": {"level": "error" if code.error else "warning"},
                            }
                            for code in CODES.values()
                        ],
                    }
                },
                "columnKind": "unicodeCodePoints",
                "originalUriBaseIds": {"SRCROOT": {"uri": Path.cwd().as_uri() + "/"}},
                "results": [_result(finding, used.index(finding.code)) for finding in findings],
            }
        ],
    }


def _result(finding: Finding, index: int) -> dict[str, Any]:
    text = f"{finding.rule}: {finding.message}" if finding.rule else finding.message
    result: dict[str, Any] = {
        "ruleId": finding.code,
        "ruleIndex": index,
        "level": "error" if finding.error else "warning",
        "message": {"text": f"{text}. {finding.hint}" if finding.hint else text},
        "locations": [_location(finding.span)],
    }
    if finding.related is not None:
        span, label = finding.related
        result["relatedLocations"] = [{**_location(span), "id": 0, "message": {"text": label}}]
    return result


def _location(span: Span) -> dict[str, Any]:
    path = Path(os.path.abspath(span.file))
    try:
        relative = path.relative_to(Path.cwd())
        place = {"uri": _quoted(relative), "uriBaseId": "SRCROOT"}
    except ValueError:
        place = {"uri": path.as_uri()}
    region = {
        "startLine": span.line,
        "startColumn": span.column,
        "endLine": span.end_line,
        "endColumn": span.end_column,
    }
    return {"physicalLocation": {"artifactLocation": place, "region": region}}


def _quoted(path: Path) -> str:
    from urllib.parse import quote

    return quote(path.as_posix())


__all__ = ["as_sarif"]
