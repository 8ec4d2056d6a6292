"""Messages of TensorRT: captured, forwarded, and searched for layer names."""

import logging
import threading

import pytest
import torch

from engine.errors import InputError, RuntimeUnavailable
from engine.runtime import EngineLoadError, trial_load
from engine.runtime.engines.bindings import Binding, choose_profile
from engine.runtime.failures import failed_layers
from engine.tensorrt import load
from engine.tensorrt.logger import capturing_logger
from tests.runtime.networks import relu


@pytest.mark.parametrize(
    ("message", "names", "expected"),
    [
        ("node conv_12 failed", ["conv_1", "conv_12"], ["conv_12"]),
        ("no implementation for node {ForeignNode[a.b/c...d/e]}.", ["d/e", "a.b/c", "a.b"], ["a.b/c", "d/e"]),
        ("no implementation for node {ForeignNode[first...last]}.", [], ["first", "last"]),
        ("Could not find any implementation for node matmul/mm_3.", [], ["matmul/mm_3"]),
        ("cuDNN graph compilation failed", ["a"], []),
        ("[runtime.cpp::readHeader::647] Error Code 2: Internal Error", [], []),
    ],
)
def test_failed_layers(message: str, names: list[str], expected: list[str]) -> None:
    assert failed_layers([message], names) == expected


def test_an_error_quotes_tensorrt() -> None:
    error = EngineLoadError("the engine does not load", ["node a: out of memory", "node b"], ["b", "a"])
    assert str(error) == "the engine does not load; TensorRT says:\n  node a: out of memory\n  node b"
    assert error.failed_layers == ["a", "b"]


def test_an_engine_for_other_gpus() -> None:
    said = "ICudaEngine::createExecutionContext: Compatible cubin or ptx module for device target '90' not found."
    assert "compile the model where this GPU is" in str(EngineLoadError("the engine does not load", [said]))


@pytest.mark.skipif(torch.cuda.is_available(), reason="describes machines without a GPU")
def test_trial_load_needs_a_gpu() -> None:
    with pytest.raises(RuntimeUnavailable, match="only on a machine with a GPU"):
        trial_load(relu().plan)


def refused() -> None:
    runtime = load().Runtime(capturing_logger())
    assert runtime.deserialize_cuda_engine(b"no plan") is None


def test_the_logger_captures_and_starts_anew(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, logger="engine.tensorrt")
    refused()
    logger = capturing_logger()
    assert logger.messages == []
    with logger.gather() as messages:
        refused()
    assert any(message.level == logging.ERROR for message in messages)
    assert logger.errors()
    assert logger.errors()[-1] in logger.recent_errors()
    assert logger.errors()[0] in caplog.text
    assert all(record.levelno < logging.ERROR for record in caplog.records), "errors are raised, not printed as well"


def test_threads_hear_their_own_messages() -> None:
    logger = capturing_logger()
    heard: list[list[str]] = []

    def work() -> None:
        refused()
        heard.append(capturing_logger().errors())
        refused()
        heard.append(logger.errors())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert heard[0] == []
    assert heard[1]
    assert logger.errors() == []


def binding(*bounds: tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]) -> Binding:
    return Binding("x", torch.float32, (-1, 4), False, bounds, ((),) * len(bounds))


def test_choice_of_profile() -> None:
    x = binding(((0, 4), (2, 4), (8, 4)), ((4, 4), (16, 4), (32, 4)))
    assert [choose_profile([x], [(n, 4)], [None]) for n in (0, 4, 8, 9, 32)] == [0, 0, 1, 1, 1]
    with pytest.raises(InputError, match=r"(?s)profile 0.*0 to 8.*profile 1.*4 to 32"):
        choose_profile([x], [(33, 4)], [None])
    assert choose_profile([], [], []) == 0


def test_bounds_of_host_values() -> None:
    shape = Binding("n", torch.int64, (1,), True, (((1,),) * 3,), (((1,), (4,), (8,)),))
    assert choose_profile([shape], [(1,)], [(8,)]) == 0
    with pytest.raises(InputError, match="'n' has the value 9 at index 0: the engine takes 1 to 8"):
        choose_profile([shape], [(1,)], [(9,)])
