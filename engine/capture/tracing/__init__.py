"""Tracing a model with torch.export, which must not change it."""
