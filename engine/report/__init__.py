"""The report of a compilation, and its tables."""

from engine.report.report import Fallback, Precision, Report, SegmentReport, Timings, listening

__all__ = ["Fallback", "Precision", "Report", "SegmentReport", "Timings", "listening"]
