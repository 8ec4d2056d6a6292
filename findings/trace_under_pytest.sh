#!/bin/sh
# PyTorch 2.13.0 under pytest 9.2.0, CPU: a test that exports a model writes PyTorch's structured trace (21 records for
# two layers), which is off elsewhere (2 records, until it finds no folder to write to): pytest adds its handlers to
# loggers that do not propagate as well, and torch.__trace writes as soon as it has one.  Records carry stacks as text, so
# that tests which trace models are slower (9 of 126 s of CPU in one suite), and a failing test shows screens of empty
# DEBUG lines of torch.__trace.  `-p no:logging` ends it.  Fails if that changes.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install -q torch==2.13.0 numpy pytest==9.2.0
cat > "$folder/export_a_model.py" <<'PY'
import logging

import torch


class Counting(logging.Filter):
    seen = 0

    def filter(self, record):
        Counting.seen += 1
        return True


def export():
    """Records of the structured trace while a model is exported, and whether somebody listens."""
    Counting.seen = 0
    logger = logging.getLogger("torch.__trace")
    listens = [type(handler).__name__ for handler in logger.handlers]
    counting = Counting()
    logger.addFilter(counting)
    torch.export.export(torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.ReLU()), (torch.randn(2, 4),))
    logger.removeFilter(counting)
    return Counting.seen, listens


def test_export():
    print("under pytest:", *export())


if __name__ == "__main__":
    print("torch", torch.__version__, "alone:", *export())
PY
cd "$folder"
venv/bin/python -W ignore export_a_model.py | tee alone.txt
venv/bin/python -W ignore -m pytest -q -s -p no:cacheprovider export_a_model.py | tee pytest.txt
venv/bin/python -W ignore -m pytest -q -s -p no:cacheprovider -p no:logging export_a_model.py | tee nolog.txt
grep -q "alone: [0-9] \['LazyTraceHandler'\]" alone.txt
grep -q "under pytest: [1-9][0-9] .*LogCaptureHandler" pytest.txt
grep -q "under pytest: [0-9] \['LazyTraceHandler'\]" nolog.txt
