"""What ``torch.export`` gives, made functional without tracing it once more."""
