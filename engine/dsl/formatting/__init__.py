"""The one layout of rules files: `engine rules fmt`."""
