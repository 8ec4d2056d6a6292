"""Observers: what they are told, in which order, and that nobody pays for them who has none."""

import threading
import timeit
from collections import Counter

import pytest
import torch
from torch import nn

import engine
from engine import observers
from engine.errors import BuildError, CoverageError, InputError
from engine.report import Timings

KINDS = ("compile", "phase", "rewrite", "partition", "build", "engine")


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 2)

    def forward(self, x):
        x = torch.relu(self.norm(self.conv(x)))
        x = torch.special.bessel_j0(x)
        return self.head(torch.nn.functional.gelu(x.mean((2, 3))))


def recording(events, *names):
    def record(name):
        return lambda event: events.append((name, event, event.seconds, event.error))

    return {
        name: record(name) for name in names or [f"{when}_{kind}" for kind in KINDS for when in ("before", "after")]
    }


@pytest.fixture(autouse=True)
def nobody_is_left():
    yield
    assert not observers._observers
    assert not observers.engine_calls
    assert not observers._listening


@pytest.fixture(scope="module")
def told():
    """The events of one compilation with two engines and one call."""
    events = []
    model, x = Net().eval(), torch.randn(2, 3, 6, 6)
    with engine.observe(**recording(events)):
        compiled = engine.compile(model, (x,), min_block_size=1, runtime="interpreter")
        y = compiled(x)
    compiled(x)
    return events, compiled, x, y


def of(events, name):
    return [event for kind, event, _, _ in events if kind == name]


def test_ranges_nest_and_close(told):
    events, _, _, _ = told
    open_events = []
    for name, event, seconds, error in events:
        assert error is None
        if name.startswith("before"):
            assert seconds is None
            open_events.append(event)
        else:
            assert seconds >= 0
            assert open_events.pop() is event
    assert not open_events


def test_phases_are_those_of_the_report(told):
    events, compiled, _, _ = told
    phases = of(events, "after_phase")
    # What is between phases is no phase that begins or ends.
    named = [phase for phase in compiled.report.timings.phases if phase != "other"]
    assert list(dict.fromkeys(event.phase for event in phases)) == named
    assert {event.model for event in phases} == {"Net"}
    (compilation,) = of(events, "after_compile")
    assert compilation.report is compiled.report
    assert sum(event.seconds for event in phases) <= compilation.seconds


def test_every_rewrite_is_told_with_its_nodes(told):
    events, compiled, _, _ = told
    rewrites = of(events, "after_rewrite")
    used = Counter(event.rule for event in rewrites)
    assert used
    assert all(event.before and event.where for event in rewrites)
    known = compiled.report.rules_used
    assert {rule: known[rule] for rule in used if rule != "torch decomposition"} == {
        rule: count for rule, count in used.items() if rule != "torch decomposition"
    }
    (norm,) = [event for event in rewrites if "conv_bn" in event.rule]
    assert set(norm.before.values()) == {"aten.conv2d.default", "aten._native_batch_norm_legit_no_training.default"}
    assert norm.after
    assert not any(name in norm.after for name in norm.before)


def test_the_partition_has_its_segments_and_reasons(told):
    events, compiled, _, _ = told
    (event,) = of(events, "after_partition")
    assert [segment.name for segment in event.segments] == ["engine_0", "torch_0", "engine_1"]
    assert event.tiles == sum(len(segment.tiles) for segment in event.segments)
    assert event.reasons == {fallback.node: fallback.reason for fallback in compiled.report.fallbacks}


def test_every_build_is_told_with_its_size(told):
    events, compiled, _, _ = told
    builds = of(events, "after_build")
    engines = [segment for segment in compiled.report.segments if segment.backend == "tensorrt"]
    assert [(e.engine, e.layers, e.engine_bytes) for e in builds] == [
        (segment.name, segment.layers, segment.engine_bytes) for segment in engines
    ]


def test_calls_are_told_with_what_went_in_and_came_out(told):
    events, compiled, x, y = told
    first, second = of(events, "after_engine")  # the second call had no observer
    assert (first.engine, second.engine) == ("engine_0", "engine_1")
    assert first.module is compiled.graph_module.engine_0
    assert first.inputs[0] is x
    assert second.outputs[0] is y
    assert first.stream is None


@pytest.mark.gpu
def test_calls_on_a_gpu_are_told_with_their_stream():
    model, x = nn.Sequential(nn.Linear(4, 4), nn.GELU()).cuda(), torch.randn(2, 4, device="cuda")
    events = []
    stream = torch.cuda.Stream()
    with torch.no_grad():
        compiled = engine.compile(model, (x,))
        stream.wait_stream(torch.cuda.current_stream())
        with engine.observe(**recording(events, "before_engine", "after_engine")), torch.cuda.stream(stream):
            y = compiled(x)
        torch.testing.assert_close(y, model(x), rtol=2e-2, atol=2e-2)
    (event,) = of(events, "after_engine")
    assert event.stream == stream
    assert event.inputs[0] is x
    assert event.outputs[0] is y


def test_what_fails_is_told_with_its_error():
    model, x = Net().eval(), torch.randn(2, 3, 6, 6)
    events = []
    with engine.observe(**recording(events)):
        with pytest.raises(CoverageError) as raised:
            engine.compile(model, (x,), require_full_compilation=True)
        compiled = engine.compile(nn.Linear(3, 3), (torch.randn(2, 3),), runtime="interpreter")
        with pytest.raises(InputError) as wrong:
            compiled.graph_module.engine_0(torch.randn(2, 4))
    failed = [(name, event) for name, event, _, error in events if error is not None]
    assert [name for name, _ in failed] == ["after_compile", "after_engine"]
    assert failed[0][1].error is raised.value
    assert failed[0][1].report.fallbacks
    assert failed[1][1].error is wrong.value
    assert failed[1][1].outputs == ()


def test_a_build_that_tensorrt_refuses_is_told(monkeypatch):
    from engine.lowering import segment_engine

    build, refused = segment_engine.build, []

    def choosy(network, *arguments, **keywords):
        if not refused:
            refused.append(network)
            raise BuildError("engine_0: TensorRT could not build the engine\n  too hot")
        return build(network, *arguments, **keywords)

    monkeypatch.setattr(segment_engine, "build", choosy)
    events = []
    with engine.observe(**recording(events, "after_build", "after_partition")):
        engine.compile(nn.Sequential(nn.Linear(3, 3), nn.ReLU()), (torch.randn(2, 3),), runtime="interpreter")
    assert "too hot" in str(events[1][3])
    assert [name for name, *_ in events][:3] == ["after_partition", "after_build", "after_partition"]


# ------------------------------------------------------------------------------------ registration


def test_before_in_order_and_after_in_reverse():
    heard = []

    def say(word):
        return lambda event: heard.append(word)

    timings = Timings()
    outer = engine.observe(before_phase=say("a"), after_phase=say("d"))
    with outer, engine.observe(before_phase=say("b"), after_phase=say("c")), timings.phase("x"):
        pass
    with timings.phase("y"):
        pass
    assert heard == ["a", "b", "c", "d"]
    outer.remove()
    assert repr(outer) == "Observer(before_phase, after_phase)"


def test_an_observer_may_remove_itself_and_keep_notes():
    heard = []

    def before(event):
        event.notes["range"] = event.phase
        observer.remove()

    observer = engine.observe(before_phase=before, after_phase=lambda event: heard.append(event.notes))
    timings = Timings()
    for name in ("x", "y"):
        with timings.phase(name):
            pass
    # The range that was open is closed; the next one is not told.
    assert heard == [{"range": "x"}]


@pytest.mark.parametrize("callbacks", [{"before_phase": 3}, {"on_phase": print}])
def test_wrong_callbacks_are_refused(callbacks):
    with pytest.raises(TypeError):
        engine.observe(**callbacks)


def test_what_a_callback_raises_is_raised_with_a_note():
    def broken(event):
        raise BuildError("mine")

    model, x = nn.Linear(3, 3), torch.randn(2, 3)
    # A BuildError of TensorRT would be recovered from.
    with engine.observe(before_build=broken), pytest.raises(BuildError, match="mine") as raised:
        engine.compile(model, (x,), runtime="interpreter")
    (note,) = raised.value.__notes__
    assert note.startswith("raised by the observer test_what_a_callback_raises_is_raised_with_a_note.<locals>.broken (")
    assert note.endswith("told of before build engine_0")
    compiled = engine.compile(model, (x,), runtime="interpreter")
    with engine.observe(after_engine=broken), pytest.raises(BuildError, match="mine"):
        compiled(x)
    torch.testing.assert_close(compiled(x), model(x))


def test_threads_may_register_while_others_call():
    model, x = nn.Linear(3, 3), torch.randn(2, 3)
    compiled = engine.compile(model, (x,), runtime="interpreter")
    stop, calls, errors = threading.Event(), [], []

    def call():
        try:
            while not stop.is_set():
                compiled(x)
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=call) for _ in range(3)]
    [thread.start() for thread in threads]
    for _ in range(200):
        with engine.observe(before_engine=calls.append, after_engine=calls.append):
            compiled(x)
    stop.set()
    [thread.join() for thread in threads]
    assert not errors
    assert len(calls) >= 400


def test_nobody_listening_costs_one_look(monkeypatch):
    made = []
    monkeypatch.setattr(observers.EngineEvent, "__init__", lambda *a, **k: made.append(a))
    monkeypatch.setattr(observers, "observe_call", lambda *a: made.append(a))
    x = torch.randn(2, 3)
    compiled = engine.compile(nn.Linear(3, 3), (x,), runtime="interpreter")
    with engine.observe(before_phase=print):  # listeners of other things make calls no dearer
        compiled(x)
    assert not made
    seconds = min(timeit.repeat("if o.engine_calls: pass", globals={"o": observers}, number=10_000, repeat=5)) / 10_000
    print(f"an engine call pays {1e9 * seconds:.0f} ns for observers that are not there")
