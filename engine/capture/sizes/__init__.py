"""Dynamic sizes of a captured program: their ranges, and the conditions that it holds for."""
