"""The first example of the README runs as it is written."""

import re
from pathlib import Path

import torch

README = Path(__file__).parents[1] / "README.md"


def test_first_example_runs(capsys):
    source = re.search(r"```python\n(.*?)```", README.read_text(), re.DOTALL).group(1)
    namespace: dict = {}
    exec(compile(source, str(README), "exec"), namespace)
    printed = capsys.readouterr().out
    assert "coverage 100.0%" in printed
    assert "torch.Size([5, 10])" in printed
    image = torch.randn(3, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(namespace["compiled"](image), namespace["model"](image), rtol=1e-4, atol=1e-5)
