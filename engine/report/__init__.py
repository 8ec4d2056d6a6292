"""The report of a compilation, and its tables."""

from engine.report.report import (
    SCHEMA,
    Fallback,
    Precision,
    Products,
    Report,
    SegmentReport,
    Timings,
    Weights,
    listening,
    model_name,
)

__all__ = [
    "SCHEMA",
    "Fallback",
    "Precision",
    "Products",
    "Report",
    "SegmentReport",
    "Timings",
    "Weights",
    "listening",
    "model_name",
]
