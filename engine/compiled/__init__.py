"""What engine.compile returns, and on which device it is."""
