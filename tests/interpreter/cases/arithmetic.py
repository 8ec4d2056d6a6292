from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F

from tests.interpreter.case import LayerCase, Net, grid, name, rand

FLOATS = (torch.float32, torch.float16, torch.bfloat16)

ACTIVATIONS: dict[str, tuple[float, float, Any]] = {
    "RELU": (0, 0, F.relu),
    "SIGMOID": (0, 0, torch.sigmoid),
    "TANH": (0, 0, torch.tanh),
    "LEAKY_RELU": (0.1, 0, lambda x: F.leaky_relu(x, 0.1)),
    "ELU": (0.7, 0, lambda x: F.elu(x, 0.7)),
    "SELU": (1.5, 1.1, lambda x: torch.where(x > 0, 1.1 * x, 1.1 * (1.5 * torch.exp(x) - 1.5))),
    "SOFTSIGN": (0, 0, F.softsign),
    "SOFTPLUS": (1.3, 0.8, lambda x: 1.3 * torch.log(torch.exp(0.8 * x) + 1)),
    "CLIP": (-0.5, 0.75, lambda x: x.clamp(-0.5, 0.75).nan_to_num(nan=-0.5)),
    "HARD_SIGMOID": (0.3, 0.4, lambda x: (0.3 * x + 0.4).clamp(0, 1)),
    "SCALED_TANH": (1.2, 0.6, lambda x: 1.2 * torch.tanh(0.6 * x)),
    "THRESHOLDED_RELU": (0.4, 0, lambda x: F.threshold(x, 0.4, 0)),
    "GELU_ERF": (0, 0, F.gelu),
    "GELU_TANH": (0, 0, lambda x: F.gelu(x, approximate="tanh")),
}

UNARY = {
    **{n: (getattr(torch, n.lower()), -2, 2) for n in ("EXP", "ABS", "NEG", "SIN", "COS", "TAN", "SINH", "COSH")},
    **{n: (getattr(torch, n.lower()), -2, 2) for n in ("ATAN", "ASINH", "CEIL", "FLOOR", "ERF", "SIGN", "ROUND")},
    **{n: (getattr(torch, n.lower()), -0.9, 0.9) for n in ("ASIN", "ACOS", "ATANH")},
    **{n: (getattr(torch, n.lower()), 0.1, 3) for n in ("LOG", "SQRT")},
    "ACOSH": (torch.acosh, 1.1, 3),
    "RECIP": (torch.reciprocal, 0.3, 3),
    "ISINF": (torch.isinf, -2, 2),
    "ISNAN": (torch.isnan, -2, 2),
}

BINARY = {
    "SUM": torch.add,
    "PROD": torch.mul,
    "MAX": lambda x, y: _first_of_nan(x, y, torch.maximum),
    "MIN": lambda x, y: _first_of_nan(x, y, torch.minimum),
    "SUB": torch.sub,
    "DIV": lambda x, y: x / y if x.is_floating_point() else torch.div(x, y, rounding_mode="trunc"),
    "POW": torch.pow,
    "FLOOR_DIV": lambda x, y: (
        torch.floor(x.float() / y.float()).to(x.dtype) if x.is_floating_point() else torch.floor_divide(x, y)
    ),
    "EQUAL": torch.eq,
    "GREATER": torch.gt,
    "LESS": torch.lt,
}


def _sign(x: torch.Tensor) -> torch.Tensor:
    return torch.where(x.isnan(), x, torch.sign(x))


def _first_of_nan(x: torch.Tensor, y: torch.Tensor, function: Any) -> torch.Tensor:
    return torch.where(x.isnan() | y.isnan(), x, function(x, y)) if x.is_floating_point() else function(x, y)


def _wide(function: Any) -> Any:
    return lambda x: function(x.float()).to(x.dtype)


def _activation(kind: str, alpha: float, beta: float) -> Any:
    def build(net: Net, x: Any) -> Any:
        layer = net.network.add_activation(x, getattr(net.trt.ActivationType, kind))
        layer.alpha, layer.beta = alpha, beta
        return layer

    return build


def _unary(kind: str) -> Any:
    return lambda net, x: net.network.add_unary(x, getattr(net.trt.UnaryOperation, kind))


def activations() -> Iterator[LayerCase]:
    x = torch.cat((rand(3, 4, 20), torch.tensor([0.0, -0.0, 40.0, -40.0]).expand(3, 1, 4).repeat(1, 4, 1)), -1)
    for kind, (alpha, beta, function) in ACTIVATIONS.items():
        for dtype in FLOATS:
            yield LayerCase(
                name("activation", kind, dtype),
                _activation(kind, alpha, beta),
                {"x": x.to(dtype)},
                _wide(function),
                dynamic={"x": (0,)} if dtype == torch.float32 else None,
            )
    special = torch.tensor([float("nan"), float("inf"), -float("inf"), 1.0])
    for kind in ("RELU", "CLIP", "SIGMOID", "TANH", "LEAKY_RELU"):
        alpha, beta, function = ACTIVATIONS[kind]
        yield LayerCase(name("activation-special", kind), _activation(kind, alpha, beta), {"x": special}, function)


def unary() -> Iterator[LayerCase]:
    for kind, (function, low, high) in UNARY.items():
        for dtype in FLOATS:
            x = rand(4, 33, dtype=dtype, low=low, high=high)
            yield LayerCase(
                name("unary", kind, dtype),
                _unary(kind),
                {"x": x},
                function if kind.startswith("IS") else _wide(function),
            )
    for kind in ("ABS", "NEG", "SIGN"):
        for dtype in (torch.int32, torch.int64):
            function = UNARY[kind][0]
            yield LayerCase(
                name("unary", kind, dtype),
                _unary(kind),
                {"x": rand(4, 9, dtype=dtype, low=-5, high=5)},
                function,
            )
    halves = torch.tensor([-2.5, -1.5, -0.5, 0.5, 1.5, 2.5, 3.5, 0.0])
    specials = torch.tensor([float("nan"), float("inf"), -float("inf"), 0.0, -0.0, 1.0])
    yield LayerCase("unary-ROUND-halves", _unary("ROUND"), {"x": halves}, torch.round)
    for kind in ("ISINF", "ISNAN", "SIGN", "ABS", "SQRT", "RECIP", "LOG"):
        yield LayerCase(
            name("unary-special", kind),
            _unary(kind),
            {"x": specials},
            UNARY[kind][0] if kind != "SIGN" else _sign,
        )
    yield LayerCase("unary-NOT", _unary("NOT"), {"x": rand(5, 7, dtype=torch.bool)}, torch.logical_not)


def elementwise() -> Iterator[LayerCase]:
    def build(kind: str) -> Any:
        return lambda net, x, y: net.ew(x, y, kind)

    for kind, function in BINARY.items():
        for dtype in (*FLOATS, torch.int32, torch.int64):
            low, high = (0.2, 3.0) if kind == "POW" else (-4, 5)
            x = rand(
                2,
                3,
                8,
                dtype=dtype,
                low=1 if kind == "POW" and not dtype.is_floating_point else low,
                high=high,
            )
            y = rand(2, 3, 8, dtype=dtype, seed=1, low=low, high=high)
            if kind in ("DIV", "FLOOR_DIV"):
                y = torch.where(y.abs() < 0.5, torch.full((), 2, dtype=dtype), y)
            yield LayerCase(name("elementwise", kind, dtype), build(kind), {"x": x, "y": y}, function)
        yield LayerCase(
            name("elementwise-broadcast", kind),
            build(kind),
            {"x": rand(1, 3, 1, 4, low=0.5), "y": rand(2, 1, 5, 4, seed=2, low=0.5)},
            function,
            dynamic={"x": (1,), "y": (0,)},
        )
    for kind, function in (("AND", torch.logical_and), ("OR", torch.logical_or), ("XOR", torch.logical_xor)):
        yield LayerCase(
            name("elementwise", kind),
            build(kind),
            {"x": rand(4, 8, dtype=torch.bool), "y": rand(4, 8, dtype=torch.bool, seed=3)},
            function,
        )
    nan = float("nan")
    for kind in ("MAX", "MIN", "EQUAL", "GREATER", "LESS"):
        yield LayerCase(
            name("elementwise-nan", kind),
            build(kind),
            {"x": torch.tensor([nan, 1.0, nan, 2.0]), "y": torch.tensor([1.0, nan, nan, 3.0])},
            BINARY[kind],
        )
    yield LayerCase(
        "elementwise-EQUAL-bool",
        build("EQUAL"),
        {"x": rand(8, dtype=torch.bool), "y": rand(8, dtype=torch.bool, seed=1)},
        torch.eq,
    )
    for kind in ("DIV", "FLOOR_DIV"):
        signs = torch.tensor([7, -7, 7, -7, 1, -1]), torch.tensor([2, 2, -2, -2, 3, 3])
        yield LayerCase(name("elementwise-signs", kind), build(kind), {"x": signs[0], "y": signs[1]}, BINARY[kind])
    x, y = torch.tensor([-2.0, -2.0, 0.0, 4.0]), torch.tensor([2.0, 3.0, 0.0, -0.5])
    yield LayerCase("elementwise-POW-signs", build("POW"), {"x": x, "y": y}, torch.pow)


def scale() -> Iterator[LayerCase]:
    counts = {"UNIFORM": 1, "CHANNEL": 3, "ELEMENTWISE": 3 * 4 * 5}
    shapes = {"UNIFORM": (), "CHANNEL": (3, 1, 1), "ELEMENTWISE": (3, 4, 5)}
    for mode, count in counts.items():
        for used in ((1, 1, 0), (1, 0, 0), (0, 1, 0), (1, 1, 1)):
            values = [rand(count, seed=s, low=0.5) if on else None for s, on in enumerate(used)]

            def build(net: Net, x: Any, mode: str = mode, values: Any = values) -> Any:
                factor, shift, power = (net.weights(v) for v in values)
                return net.network.add_scale(x, getattr(net.trt.ScaleMode, mode), shift, factor, power)

            def reference(x: Any, mode: str = mode, values: Any = values) -> Any:
                factor, shift, power = (None if v is None else v.reshape(shapes[mode]) for v in values)
                x = x * (1 if factor is None else factor) + (0 if shift is None else shift)
                return x if power is None else x**power

            yield LayerCase(name("scale", mode, used), build, {"x": rand(2, 3, 4, 5, low=0.5)}, reference)
    values = [rand(5, seed=1), rand(5, seed=2)]
    yield LayerCase(
        "scale-CHANNEL-last",
        lambda net, x: net.network.add_scale_nd(
            x, net.trt.ScaleMode.CHANNEL, net.weights(values[0]), net.weights(values[1]), net.weights(None), 3
        ),
        {"x": rand(2, 3, 4, 5)},
        lambda x: x * values[1] + values[0],
    )


def casts() -> Iterator[LayerCase]:
    types = (*FLOATS, torch.int32, torch.int64, torch.bool, torch.int8, torch.uint8)
    for source in types:
        for target in types:
            if source == target:
                continue
            x = rand(3, 9, dtype=source, low=0 if torch.uint8 in (source, target) else -6, high=7)
            yield LayerCase(
                name("cast", source, target),
                lambda net, x, target=target: net.network.add_cast(x, net.dtype(target)),
                {"x": x},
                lambda x, target=target: x.to(target),
            )
    wild = torch.tensor([3e9, -3e9, float("inf"), -float("inf"), float("nan"), 1.9, -1.9, 1e20])
    for target in (torch.int32, torch.int64, torch.float16, torch.bool):
        yield LayerCase(
            name("cast-range", target),
            lambda net, x, target=target: net.network.add_cast(x, net.dtype(target)),
            {"x": wild},
        )
    yield LayerCase(
        "cast-range-int64-int32",
        lambda net, x: net.network.add_cast(x, net.dtype(torch.int32)),
        {"x": torch.tensor([2**31, -(2**31) - 1, 2**40 + 3, 5])},
    )


def products() -> Iterator[LayerCase]:
    def build(op0: str, op1: str) -> Any:
        return lambda net, x, y: net.network.add_matrix_multiply(
            x, getattr(net.trt.MatrixOperation, op0), y, getattr(net.trt.MatrixOperation, op1)
        )

    for dtype in FLOATS:
        for op0 in ("NONE", "TRANSPOSE"):
            for op1 in ("NONE", "TRANSPOSE"):
                x = grid(2, 3, *((8, 16) if op0 == "NONE" else (16, 8)), dtype=dtype)
                y = grid(1, 3, *((16, 12) if op1 == "NONE" else (12, 16)), dtype=dtype, seed=1)

                def reference(x: Any, y: Any, op0: str = op0, op1: str = op1) -> Any:
                    x = x.float() if op0 == "NONE" else x.float().mT
                    return x @ (y.float() if op1 == "NONE" else y.float().mT)

                yield LayerCase(
                    name("matmul", op0, op1, dtype),
                    build(op0, op1),
                    {"x": x, "y": y},
                    lambda x, y, f=reference: f(x, y).to(x.dtype),
                    dynamic={"x": (0,)} if dtype == torch.float32 else None,
                )
    x, y = grid(2, 6, 8), grid(2, 8, 5)
    yield LayerCase(
        "matmul-VECTOR-NONE",
        build("VECTOR", "NONE"),
        {"x": grid(2, 8), "y": y},
        lambda v, y: torch.einsum("bk,bkn->bn", v, y),
    )
    yield LayerCase(
        "matmul-NONE-VECTOR",
        build("NONE", "VECTOR"),
        {"x": x, "y": grid(2, 8)},
        lambda x, v: torch.einsum("bmk,bk->bm", x, v),
    )
    yield LayerCase(
        "matmul-VECTOR-TRANSPOSE",
        build("VECTOR", "TRANSPOSE"),
        {"x": grid(2, 8), "y": grid(2, 5, 8)},
        lambda v, y: torch.einsum("bk,bnk->bn", v, y),
    )
    yield LayerCase(
        "matmul-VECTOR-VECTOR",
        build("VECTOR", "VECTOR"),
        {"x": grid(3, 8), "y": grid(3, 8, seed=1)},
        lambda x, y: (x * y).sum(-1),
    )
    yield LayerCase(
        "matmul-VECTOR-VECTOR-1d", build("VECTOR", "VECTOR"), {"x": grid(8), "y": grid(8, seed=1)}, torch.dot
    )
    equations = {
        "ij,jk->ik": ((4, 5), (5, 6)),
        "ij->ji": ((4, 5),),
        "ij->": ((4, 5),),
        "ij->j": ((4, 5),),
        "i,i->": ((7,), (7,)),
        "ijk,ikl->ijl": ((2, 3, 4), (2, 4, 5)),
        "bhqd,bhkd->bhqk": ((2, 3, 4, 8), (2, 3, 5, 8)),
        "ijk,l->lik": ((2, 3, 4), (5,)),
        "ij,jk,kl->il": ((2, 3), (3, 4), (4, 5)),
        "ij,jk": ((4, 5), (5, 6)),
    }
    for equation, shapes in equations.items():
        inputs = {f"x{i}": grid(*shape, seed=i) for i, shape in enumerate(shapes)}
        yield LayerCase(
            name("einsum", equation.replace("->", "_").replace(",", "_")),
            lambda net, *xs, equation=equation: net.network.add_einsum(list(xs), equation),
            inputs,
            lambda *xs, equation=equation: torch.einsum(equation, *xs),
        )


def others() -> Iterator[LayerCase]:
    for window in (1, 3, 5):
        for shape in ((2, 7, 4, 4), (1, 4, 5, 6)):
            yield LayerCase(
                name("lrn", window, shape),
                lambda net, x, window=window: net.network.add_lrn(x, window, 0.4, 0.75, 1.5),
                {"x": rand(*shape)},
                lambda x, window=window: _lrn(x, window, 0.4, 0.75, 1.5),
            )
    for shape in ((1, 4, 1, 1), (2, 4, 3, 3), (1, 1, 1, 3)):
        yield LayerCase(
            name("prelu", shape),
            lambda net, x, s: net.network.add_parametric_relu(x, s),
            {"x": rand(2, 4, 3, 3), "s": rand(*shape, seed=1)},
            lambda x, s: torch.where(x < 0, x * s, x),
        )
    for dtype in (*FLOATS, torch.int32, torch.int64, torch.bool):
        yield LayerCase(
            name("select", dtype),
            lambda net, c, x, y: net.network.add_select(c, x, y),
            {
                "c": rand(2, 1, 5, dtype=torch.bool),
                "x": rand(1, 3, 5, dtype=dtype),
                "y": rand(2, 3, 1, dtype=dtype, seed=1),
            },
            torch.where,
        )
    for dtype in (*FLOATS, torch.int32, torch.bool):
        yield LayerCase(
            name("identity", dtype),
            lambda net, x: net.network.add_identity(x),
            {"x": rand(3, 5, dtype=dtype)},
            lambda x: x,
        )


def _lrn(x: Any, window: int, alpha: float, beta: float, k: float) -> Any:
    result = torch.empty_like(x)
    for channel in range(x.shape[1]):
        low, high = max(0, channel - window // 2), min(x.shape[1], channel + window // 2 + 1)
        total = (x[:, low:high] ** 2).sum(1)
        result[:, channel] = x[:, channel] / (k + alpha / window * total) ** beta
    return result


def cases() -> Iterator[LayerCase]:
    for family in (activations, unary, elementwise, scale, casts, products, others):
        yield from family()
