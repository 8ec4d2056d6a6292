import torch
from torch import nn

from engine.capture import capture
from engine.settings import CompilationSettings


class Double(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 4).double()

    def forward(self, x, y):
        total = self.linear(x) + y.to(torch.float64).sum()
        return torch.softmax(total, -1, dtype=torch.float64), x, total > 0, y, torch.max(total, 1)[0]


def test_doubles_are_computed_as_floats():
    model = Double()
    x, y = torch.randn(2, 3, dtype=torch.float64), torch.randn(5)
    captured = capture(model, (x, y), settings=CompilationSettings(truncate_double=True))
    inner = [
        node
        for node in captured.graph.nodes
        if node.op == "call_function"
        and getattr(node.meta["val"], "dtype", None) == torch.float64
        and captured.graph.output_node() not in node.users
    ]
    assert not inner
    assert all(tensor.dtype == torch.float32 for tensor in captured.constants.values())
    assert model.linear.weight.dtype == torch.float64
    with torch.no_grad():
        expected = model(x, y)
        found = captured.signature().unflatten(captured.module()(*captured.bind((x, y))))
    for want, got in zip(expected, found, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)
    assert found[1] is x


def test_without_the_setting_doubles_stay():
    captured = capture(Double(), (torch.randn(2, 3, dtype=torch.float64), torch.randn(5)))
    assert captured.constants["linear.weight"].dtype == torch.float64
