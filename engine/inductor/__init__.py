"""What stays in PyTorch, compiled by Inductor: its segments as modules of their own, their sizes, their code."""
