"""The command line as ``python -m engine``."""

from engine.commands.cli import main

main()
