"""Seconds from a key to what the language server says of the file, and what it computed for that.

    python -m benchmarks.editor [--rules 63] [--keys 7]

The file has eight lines a rule.  The ratio is over a file of one rule, in the same server.  Waiting includes the pause
that the server makes after a key, to see whether another follows.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

# As a script, `python benchmarks/editor.py`, the folder above is not searched.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests.language_server.client import Client
from tests.language_server.long_file import PLACE, many_rules


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rules", type=int, default=63)
    parser.add_argument("--keys", type=int, default=7)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        client = Client(Path(folder))
        try:
            short = measured(client, Path(folder) / "short.rules", 1, (3, 32), options.keys)
            long = measured(client, Path(folder) / "long.rules", options.rules, PLACE, options.keys)
        finally:
            client.close()
    print(f"{'rules':>8} {'waited s':>9} {'CPU s':>7} {'CPU over one rule':>18}")
    for count, (waited, computed) in ((1, short), (options.rules, long)):
        print(f"{count:8} {waited:9.3f} {computed:7.3f} {computed / max(short[1], 0.01):18.1f}")


def measured(client: Client, path: Path, rules: int, place: tuple[int, int], keys: int) -> tuple[float, float]:
    """Median seconds from a key to the answer, and of computing, in a file of so many rules."""
    client.open(path, many_rules(rules))
    client.diagnostics(path)
    waited, used = [], []
    for _ in range(keys):
        began, before = time.monotonic(), computed_by(client.process.pid)
        client.type(path, "5", *place)
        _, when = client.answer(path)
        waited.append(when - began)
        used.append(computed_by(client.process.pid) - before)
        client.next("textDocument/publishDiagnostics")  # the linter's
    return statistics.median(waited), statistics.median(used)


def computed_by(process: int) -> float:
    """The seconds of computing that a process has used, of Linux."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    main()
