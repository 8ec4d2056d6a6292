"""PyTorch's own operator database, run through rules, a real engine build and the interpreter.

``python -m tests.op_db`` runs entries and shows what became of their samples; with ``--write`` it writes down the
outcomes that the tests expect.
"""
