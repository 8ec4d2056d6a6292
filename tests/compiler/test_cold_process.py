"""The first compile of a process: its phases are the whole of it, and few of its seconds are ours."""

import json
import subprocess
import sys
import textwrap

SCRIPT = """
import json, time, torch, engine
model = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.ReLU()).eval()
started = time.perf_counter()
compiled = engine.compile(model, (torch.randn(2, 8),), runtime="interpreter")
wall = time.perf_counter() - started
again = engine.compile(model, (torch.randn(2, 8),), runtime="interpreter")
timings = compiled.report.timings
print(json.dumps([wall, timings.total, timings.phases, again.report.timings.phases]))
"""


def test_phases_sum_to_the_whole_call():
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(SCRIPT)], capture_output=True, text=True, check=True)
    wall, total, phases, again = json.loads(done.stdout.splitlines()[-1])
    assert 0 <= wall - total < 0.05 * wall
    # What PyTorch loads to export, and what this package loads, are told apart, and only where they are loaded.
    assert phases["start"] > 0
    assert "start" not in again
    assert list(phases)[:2] == ["export", "start"]
