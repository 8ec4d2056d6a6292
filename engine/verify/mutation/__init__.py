"""Mutants of rules: small changes that a test line should notice."""
