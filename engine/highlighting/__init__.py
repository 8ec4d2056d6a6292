"""Colours for rules in documentation."""
