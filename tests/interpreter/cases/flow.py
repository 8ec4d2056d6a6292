from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from tests.interpreter.case import LayerCase, Net, name, rand


def _counted(net: Net, trips: int) -> Any:
    loop = net.network.add_loop()
    loop.add_trip_limit(net.scalar(trips), net.trt.TripLimit.COUNT)
    return loop


def _running(net: Net, x: Any, kinds: tuple[str, ...], reverse: bool = False, axis: int = 0, join: int = 0) -> Any:
    """A running sum over slices of x."""
    loop = _counted(net, x.shape[axis])
    item = loop.add_iterator(x, axis, reverse).get_output(0)
    start = net.const(torch.zeros(tuple(n for a, n in enumerate(x.shape) if a != axis)))
    total = loop.add_recurrence(start)
    following = net.ew(total.get_output(0), item, "SUM")
    total.set_input(1, following)
    outputs = []
    for kind in kinds:
        source = total.get_output(0) if kind == "LAST_VALUE" else following
        output = loop.add_loop_output(source, getattr(net.trt.LoopOutput, kind), join)
        if kind != "LAST_VALUE":
            output.set_input(1, net.scalar(x.shape[axis]))
        outputs.append(output.get_output(0))
    return outputs


def loops() -> Iterator[LayerCase]:
    for reverse in (False, True):
        for axis in (0, 1):

            def reference(x: Any, reverse: bool = reverse, axis: int = axis) -> Any:
                sums = (x.flip(axis) if reverse else x).cumsum(axis).movedim(axis, 0)
                return sums[-1], sums, sums.flip(0)

            yield LayerCase(
                name("loop-sum", "reverse" if reverse else "forward", axis),
                lambda net, x, reverse=reverse, axis=axis: _running(
                    net, x, ("LAST_VALUE", "CONCATENATE", "REVERSE"), reverse, axis
                ),
                {"x": rand(4, 5)},
                reference,
            )
    yield LayerCase(
        "loop-join-axis",
        lambda net, x: _running(net, x, ("CONCATENATE",), join=1),
        {"x": rand(4, 5)},
        lambda x: x.cumsum(0).T,
    )

    def doubled_while(net: Net, x: Any) -> Any:
        loop = net.network.add_loop()
        value = loop.add_recurrence(x)
        least = net.network.add_reduce(value.get_output(0), net.trt.ReduceOperation.MAX, 1, False).get_output(0)
        loop.add_trip_limit(net.ew(least, net.const(torch.tensor(50.0)), "LESS"), net.trt.TripLimit.WHILE)
        value.set_input(1, net.ew(value.get_output(0), value.get_output(0), "SUM"))
        return loop.add_loop_output(value.get_output(0), net.trt.LoopOutput.LAST_VALUE)

    def doubled(x: Any) -> Any:
        while x.max() < 50:
            x = x * 2
        return x

    yield LayerCase("loop-while", doubled_while, {"x": rand(4, low=1, high=3)}, doubled)
    yield LayerCase("loop-while-no-trip", doubled_while, {"x": torch.tensor([60.0, 1.0])}, doubled)

    def nested(net: Net, x: Any) -> Any:
        outer = _counted(net, 3)
        total = outer.add_recurrence(x)
        inner = _counted(net, 2)
        part = inner.add_recurrence(total.get_output(0))
        part.set_input(1, net.ew(part.get_output(0), x, "SUM"))
        made = inner.add_loop_output(part.get_output(0), net.trt.LoopOutput.LAST_VALUE).get_output(0)
        total.set_input(1, net.network.add_activation(made, net.trt.ActivationType.TANH).get_output(0))
        return outer.add_loop_output(total.get_output(0), net.trt.LoopOutput.LAST_VALUE)

    def nested_reference(x: Any) -> Any:
        total = x
        for _ in range(3):
            for _ in range(2):
                total = total + x
            total = torch.tanh(total)
        return total

    yield LayerCase("loop-nested", nested, {"x": rand(5)}, nested_reference)

    def swap(net: Net, x: Any, y: Any) -> Any:
        """Two recurrences that exchange their values: both must read before either is written."""
        loop = _counted(net, 3)
        first, second = loop.add_recurrence(x), loop.add_recurrence(y)
        one = net.network.add_identity(first.get_output(0)).get_output(0)
        two = net.network.add_identity(second.get_output(0)).get_output(0)
        first.set_input(1, two)
        second.set_input(1, one)
        kind = net.trt.LoopOutput.LAST_VALUE
        return [loop.add_loop_output(r.get_output(0), kind).get_output(0) for r in (first, second)]

    yield LayerCase("loop-swap", swap, {"x": rand(4), "y": rand(4, seed=1)}, lambda x, y: (y, x))


def conditionals() -> Iterator[LayerCase]:
    def build(net: Net, c: Any, x: Any) -> Any:
        condition = net.network.add_if_conditional()
        condition.set_condition(c)
        inside = condition.add_input(x).get_output(0)
        yes = net.network.add_unary(inside, net.trt.UnaryOperation.EXP).get_output(0)
        no = net.ew(inside, net.const(torch.full((1, 1), 3.0)), "PROD")
        return condition.add_output(yes, no)

    for value in (True, False):
        yield LayerCase(
            name("conditional", value),
            build,
            {"c": torch.tensor(value), "x": rand(3, 4)},
            lambda c, x: torch.exp(x) if c else 3 * x,
        )

    def nested(net: Net, c: Any, d: Any, x: Any) -> Any:
        outer = net.network.add_if_conditional()
        outer.set_condition(c)
        ox, od = outer.add_input(x).get_output(0), outer.add_input(d).get_output(0)
        inner = net.network.add_if_conditional()
        inner.set_condition(od)
        ix = inner.add_input(ox).get_output(0)
        yes = net.network.add_unary(ix, net.trt.UnaryOperation.ABS).get_output(0)
        no = net.network.add_unary(ix, net.trt.UnaryOperation.NEG).get_output(0)
        chosen = inner.add_output(yes, no).get_output(0)
        return outer.add_output(chosen, net.ew(ox, ox, "SUM"))

    for c in (True, False):
        for d in (True, False):
            yield LayerCase(
                name("conditional-nested", c, d),
                nested,
                {"c": torch.tensor(c), "d": torch.tensor(d), "x": rand(3, 4)},
                lambda c, d, x: (x.abs() if d else -x) if c else 2 * x,
            )


def assertions() -> Iterator[LayerCase]:
    def build(net: Net, x: Any, y: Any) -> Any:
        net.network.add_assertion(net.ew(net.shape(x), net.shape(y), "EQUAL"), "sizes must be equal")
        return net.ew(x, y, "SUM")

    yield LayerCase(
        "assertion",
        build,
        {"x": rand(3, 4), "y": rand(3, 4, seed=1)},
        torch.add,
        dynamic={"x": (0,), "y": (0,)},
    )


def cases() -> Iterator[LayerCase]:
    for family in (loops, conditionals, assertions):
        yield from family()
