"""From syntax trees to checked rules."""
