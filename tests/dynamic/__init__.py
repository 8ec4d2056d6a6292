"""Every op of real models with dynamic sizes: cases by family, and how they are run."""
