"""The table of models in ``docs/models.md``: which models of public libraries are one engine, and how right it is.

``python -m tests.model_table`` runs what is missing and keeps the answers in ``results.jsonl``.
"""
