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


class Short(nn.Module):
    def forward(self, x, y):
        total = x * 300 + y.to(torch.int16)
        return total, x, total > 0, torch.cumsum(x, 0, dtype=torch.int16)


def test_shorts_are_computed_as_ints():
    model, x, y = Short(), torch.tensor([1, -2, 200], dtype=torch.int16), torch.arange(3)
    captured = capture(model, (x, y), settings=CompilationSettings(widen_int16=True))
    results = captured.graph.output_node().args[0]
    inner = [node for node in captured.graph.nodes if node.op == "call_function" and node not in results]
    assert not any(node.meta["val"].dtype == torch.int16 for node in inner)
    found = captured.signature().unflatten(captured.module()(*captured.bind((x, y))))
    assert torch.equal(found[0], model(x, y)[0])  # 60,000 wraps around
    assert found[1] is x
    assert torch.equal(found[3], model(x, y)[3])
    # As the setting says: 60,000 is compared before it wraps around.
    assert found[2].tolist() == [True, False, True]
