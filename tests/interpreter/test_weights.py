"""Weights come back with every data type, shared where their owner is known and copied elsewhere."""

from __future__ import annotations

import copy
import gc
import pickle

import pytest
import torch

from engine.interpreter import Program
from engine.interpreter.network import read
from tests.interpreter.case import Net

DTYPES = (
    torch.float32,
    torch.float16,
    torch.bfloat16,
    torch.int64,
    torch.int32,
    torch.int8,
    torch.bool,
    torch.float8_e4m3fn,
    torch.float8_e8m0fnu,
)


def _weights(
    tensor: torch.Tensor, kind: str | None = None, count: int | None = None, keep: bool = False
) -> torch.Tensor:
    net = Net({}, None)
    shape = tuple(tensor.shape) if count is None else (count,)
    net.network.add_constant(shape, net.weights(tensor, kind, count))
    result = read(net.network, [tensor] if keep else []).steps[0]["weights"]
    assert isinstance(result, torch.Tensor)
    return result


@pytest.mark.parametrize("keep", [False, True], ids=["copied", "shared"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_round_trip(dtype: torch.dtype, keep: bool) -> None:
    tensor = torch.tensor([0.0, 1, 2, 4, 8, 16, 32, 64]).to(dtype)
    read_back = _weights(tensor, keep=keep)
    assert read_back.dtype == dtype
    assert torch.equal(read_back.view(torch.uint8), tensor.view(torch.uint8))
    assert (read_back.data_ptr() == tensor.data_ptr()) == keep


def test_shared_part_of_a_storage() -> None:
    whole = torch.arange(100, dtype=torch.bfloat16)
    part = whole[17:40]
    net = Net({}, None)
    net.network.add_constant((23,), net.weights(part))
    view = read(net.network, [whole]).steps[0]["weights"]
    assert view.data_ptr() == part.data_ptr()
    assert torch.equal(view, part)


def test_int4_is_unpacked_low_half_first() -> None:
    packed = torch.tensor([0x21, 0xF8], dtype=torch.uint8)
    assert _weights(packed, "INT4", 4).tolist() == [1, 2, -8, -1]


def test_fp4_is_unpacked_low_half_first() -> None:
    packed = torch.tensor([0x21, 0xF7], dtype=torch.uint8)
    assert _weights(packed, "FP4", 4).float().tolist() == [0.5, 1.0, 6.0, -6.0]


def test_program_outlives_its_weights() -> None:
    expected = torch.arange(64, dtype=torch.float32).reshape(8, 8)

    def program() -> Program:
        net = Net({"x": torch.zeros(8, 8)}, None)
        owned = torch.arange(64, dtype=torch.float32).reshape(8, 8)
        out = net.ew(net.inputs[0], net.const(owned), "SUM")
        net.network.mark_output(out)
        return Program.from_network(net.network)

    made = program()
    gc.collect()
    torch.full((8, 8), 7.0)
    assert torch.equal(made(torch.zeros(8, 8))[0], expected)
    assert torch.equal(copy.deepcopy(made)(torch.zeros(8, 8))[0], expected)
    assert torch.equal(pickle.loads(pickle.dumps(made))(torch.zeros(8, 8))[0], expected)


def test_numpy_weights() -> None:
    net = Net({"x": torch.zeros(2, 3)}, None)
    import numpy as np

    out = net.network.add_constant((2, 3), np.arange(6, dtype=np.float32)).get_output(0)
    net.network.mark_output(net.ew(net.inputs[0], out, "SUM"))
    assert torch.equal(Program.from_network(net.network)(torch.ones(2, 3))[0], torch.arange(1.0, 7).reshape(2, 3))
