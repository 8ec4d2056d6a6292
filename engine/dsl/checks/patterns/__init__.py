"""Checking patterns: names, alternatives, roots, and what ops and named patterns stand for."""
