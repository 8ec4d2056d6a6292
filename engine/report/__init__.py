"""The report of a compilation, and its tables."""

from engine.report.report import SCHEMA, Fallback, Precision, Report, SegmentReport, Timings, listening

__all__ = ["SCHEMA", "Fallback", "Precision", "Report", "SegmentReport", "Timings", "listening"]
