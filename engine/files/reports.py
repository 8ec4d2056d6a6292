"""A report from the JSON of ``Report.as_dict``."""

from __future__ import annotations

from typing import Any

from engine.errors import FileError
from engine.report import Fallback, Precision, Products, Report, SegmentReport, Weights
from engine.report.tuning import Tuning


def read_report(data: Any) -> Report:
    """The report that was saved; what this version's reports do not have is left out.

    Raises:
        FileError: it is damaged.
    """
    try:
        report = Report(
            model=str(data["model"]),
            coverage=float(data["coverage"]),
            nodes=int(data["nodes"]),
            segments=[_segment(segment) for segment in data["segments"]],
            fallbacks=[_fallback(fallback) for fallback in data["fallbacks"]],
            rules_used={str(rule): int(count) for rule, count in data["rules_used"].items()},
            overridden=tuple((str(winner), str(loser)) for winner, loser in data["overridden"]),
            compute_capabilities=tuple(map(str, data["compute_capabilities"])),
            tensorrt=str(data["tensorrt"]),
            refusals=[_fallback(refusal) for refusal in data["refusals"]],
            # Reports of earlier versions have none.
            notes=tuple(map(str, data.get("notes", ()))),
            precision=_precision(data.get("precision", {})),
            weights=_weights(data.get("weights", {})),
            products=tuple(map(_products, data.get("products", ()))),
            unbuilt=str(data.get("unbuilt", "")),
            tuning=Tuning.of(data["tuning"]) if data.get("tuning") is not None else None,
        )
        for phase, seconds in data["timings"]["phases"]:
            report.timings.phases[str(phase)] = float(seconds)
    except Exception as error:
        raise FileError(f"the report is damaged: {type(error).__name__}: {error}") from None
    return report


def write_report(report: Report) -> dict[str, Any]:
    """The report as JSON."""
    data = report.as_dict()
    del data["decisions"]
    # Objects of JSON have no order here, and phases have one.
    return {**data, "timings": {"phases": list(report.timings.phases.items())}}


def _counts(data: Any) -> dict[str, int]:
    return {str(name): int(count) for name, count in data.items()}


def _precision(data: Any) -> Precision:
    return Precision(_counts(data.get("sums_in_half", {})), bool(data.get("use_fp32_acc", False)))


def _weights(data: Any) -> Weights:
    return Weights(_counts(data.get("before", {})), _counts(data.get("after", {})))


def _products(data: Any) -> Products:
    return Products(str(data["layer"]), tuple(map(str, data["dtypes"])), int(data["number"]), str(data["why"]))


def _segment(data: Any) -> SegmentReport:
    return SegmentReport(
        str(data["name"]),
        str(data["backend"]),
        int(data["nodes"]),
        int(data["tiles"]),
        tuple(map(str, data["inputs"])),
        tuple(map(str, data["outputs"])),
        int(data["layers"]),
        int(data["engine_bytes"]),
        # Reports of earlier versions do not have it.
        inductor=str(data.get("inductor", "")),
    )


def _fallback(data: Any) -> Fallback:
    # Reports of earlier versions have no modules.
    node, op, reason, source = (str(data[name]) for name in Fallback._fields)
    return Fallback(node, op, reason, source, str(data.get("module", "")))


__all__ = ["read_report", "write_report"]
