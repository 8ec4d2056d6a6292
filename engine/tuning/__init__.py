"""Tuning: where several ways are right, the choice is measured on the GPU; decisions are kept and can be replayed."""
