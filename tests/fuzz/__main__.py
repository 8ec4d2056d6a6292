"""``python -m tests.fuzz``: search for faults, and show what was found.

python -m tests.fuzz                               # every search, as many cases as each is meant to have
python -m tests.fuzz sizes --count 100 --seed 3    # one search, some cases
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
import traceback

os.environ.setdefault("ENGINE_CHECK", "1")

from tests.fuzz import Search, searches

# Cases between two lines of progress; each batch has a seed of its own.
BATCH = 50


def main() -> int:
    """Run the command; 1 where a fault was found."""
    known = searches()
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"all if none is given: {', '.join(known)}")
    parser.add_argument("--count", type=int, help="cases of each search; as many as it is meant to have if not given")
    parser.add_argument("--seed", type=int, default=0, help="of the first batch; the next batches count on from it")
    options = parser.parse_args()
    unknown = [name for name in options.names if name not in known]
    if unknown:
        parser.error(f"no search is called {', '.join(unknown)}; there are {', '.join(known)}")
    with tempfile.TemporaryDirectory(prefix="engine-fuzz-") as folder:
        os.environ.setdefault("ENGINE_CACHE_DIR", folder)
        rows = [_search(known[name], options.count, options.seed) for name in options.names or known]
    print(f"\n{'search':<16}{'cases':>8}{'faults':>8}{'seconds':>9}")
    for name, cases, faults, seconds in rows:
        print(f"{name:<16}{cases:>8}{faults:>8}{seconds:>9.0f}")
    return int(any(faults for _, _, faults, _ in rows))


def _search(search: Search, count: int | None, seed: int) -> tuple[str, int, int, float]:
    wanted = search.CASES if count is None else count
    done, faults, begin = 0, 0, time.perf_counter()
    while done < wanted:
        some = min(BATCH, wanted - done)
        try:
            found = search.run(some, seed)
        except Exception:
            # The search itself failed: what it was to find is not known, so that is a fault too.
            found = [f"seed {seed}: {traceback.format_exc().rstrip()}"]
        done, faults, seed = done + some, faults + len(found), seed + 1
        for line in found:
            print(f"{search.NAME}: {line}", flush=True)
        print(f"{search.NAME}: {done} of {wanted} cases, {faults} faults", file=sys.stderr, flush=True)
    return search.NAME, done, faults, time.perf_counter() - begin


if __name__ == "__main__":
    sys.exit(main())
