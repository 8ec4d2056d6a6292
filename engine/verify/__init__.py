"""Checking rules: instances of their patterns, and both sides run against each other."""
