"""Matching rule patterns against a graph."""

from engine.matcher.match import Match, NearMiss
from engine.matcher.matcher import Matcher

__all__ = ["Match", "Matcher", "NearMiss"]
