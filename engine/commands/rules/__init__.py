"""The commands of ``engine rules``, one in each file."""
