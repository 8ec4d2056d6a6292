"""The command line under the name that scripts know, and as ``python -m engine.cli``; it lives in `engine.commands`."""

from engine.commands.cli import main

__all__ = ["main"]

if __name__ == "__main__":
    main()
