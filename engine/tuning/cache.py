"""What was measured before on this machine, kept beside the engine cache: one file for each machine and conditions."""

from __future__ import annotations

import hashlib
import json
import logging
from pathlib import Path

import filelock

from engine.engine_cache import default_folder
from engine.errors import FileError
from engine.settings import CompilationSettings
from engine.storage.cache_folder import locked
from engine.storage.whole_file import write_whole
from engine.tuning.decisions import Decisions, read
from engine.tuning.machine import Machine

_LOG = logging.getLogger("engine.tuning")
# Seconds to wait for a process that has the lock, which it holds while it reads and writes a small file.
_PATIENCE = 60.0


class TuningCache:
    """A folder of decisions, for any number of processes at once.

    A file that cannot be read, or that is damaged, is taken for none and written anew; a folder that cannot be written
    is told and no error.
    """

    def __init__(self, settings: CompilationSettings, machine: Machine, conditions: str, rules: str) -> None:
        base = Path(settings.engine_cache_dir) if settings.engine_cache_dir else default_folder()
        key = hashlib.blake2b(json.dumps([machine, conditions, rules]).encode(), digest_size=16).hexdigest()
        self.path = base.parent / "tuning" / f"{key}.json" if base.name == "engines" else base / f"{key}.tuning.json"
        self._empty = (machine, conditions, rules)

    def load(self) -> Decisions:
        """What is kept; nothing where there is none."""
        empty = Decisions(*self._empty)
        if not self.path.exists():
            return empty
        try:
            found = read(self.path)
        except FileError as error:
            _LOG.warning("tuning cache: %s", error)
            return empty
        return found if (found.machine, found.conditions, found.rules) == self._empty else empty

    def keep(self, decisions: Decisions) -> None:
        """Add decisions to what is kept; what another process kept meanwhile stays."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with locked(self.path.with_suffix(".lock"), _PATIENCE):
                together = self.load()
                together.decisions.update(decisions.decisions)
                together.wholes.update(decisions.wholes)
                write_whole(self.path, together.text())
        except (OSError, FileError, filelock.Timeout) as error:
            _LOG.warning("decisions are not kept: %s; set engine_cache_dir or ENGINE_CACHE_DIR", error)


__all__ = ["TuningCache"]
