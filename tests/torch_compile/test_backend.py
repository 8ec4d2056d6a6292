"""``torch.compile(backend="engine")``: the same results as eager, from engines, whatever Dynamo hands over."""

import copy
import logging
import os
import subprocess
import sys
import threading
import warnings
from importlib.metadata import entry_points
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import engine
import engine.torch_compile.backend
from engine.errors import EngineError, SettingsError
from engine.torch_compile.backend import FallbackWarning, Options
from tests.models import ZOO

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


@pytest.fixture(autouse=True)
def fresh_dynamo():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.fixture
def seen():
    """What happened: graphs compiled, engines called."""

    found = SimpleNamespace(reports=[], calls=[])
    with engine.observe(
        after_compile=lambda event: found.reports.append(event.report),
        after_engine=lambda event: found.calls.append(event),
    ):
        yield found


def compiled(model, dynamic=None, fullgraph=False, **options):
    # On a machine with a GPU, graphs on the CPU run in PyTorch unless the interpreter is asked for.
    device = next(iter(model.parameters()), torch.empty(0)).device.type
    options.setdefault("runtime", "interpreter" if device == "cpu" else "auto")
    return torch.compile(model, backend="engine", dynamic=dynamic, fullgraph=fullgraph, options=options)


def close(actual, expected, tolerance=None):
    # TensorRT multiplies float32 in TensorFloat-32 on a GPU.
    tolerance = tolerance or (2e-2 if torch.cuda.is_available() else 1e-4)
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)


class Residual(nn.Module):
    def __init__(self, width=8):
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(width)
        self.body = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(), nn.Conv2d(width, width, 1)
        )
        self.head = nn.Linear(width, 5)

    def forward(self, image, *, scale=None):
        x = torch.relu(self.norm(self.stem(image)))
        x = torch.relu(x + self.body(x))
        x = self.head(x.mean((2, 3)))
        return {"logits": x if scale is None else x * scale, "batch": image.shape[0]}


class Mlp(nn.Module):
    def __init__(self, width=8):
        super().__init__()
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x):
        return self.down(torch.nn.functional.gelu(self.up(x))) + x


# ------------------------------------------------------------------------------------ models


@pytest.mark.parametrize("device", DEVICES)
def test_a_residual_network_with_keywords_and_changing_batches(device, seen):
    model = Residual().eval().to(device)
    fast = compiled(model)
    with torch.no_grad():
        for batch in (2, 5, 3, 7):
            image = torch.randn(batch, 3, 12, 12, device=device)
            close(fast(image), model(image))
            scale = torch.tensor([2.0], device=device)
            close(fast(image, scale=scale), model(image, scale=scale))
    # A static graph, and a dynamic one from the second batch on, with and without `scale`.
    assert len(seen.reports) == 4
    assert all(report.coverage == 1.0 and report.engine_bytes > 0 for report in seen.reports)
    assert len(seen.calls) == 8


@pytest.mark.parametrize("device", DEVICES)
def test_bert_with_a_dynamic_sequence(device, seen):
    pytest.importorskip("transformers")
    built = ZOO["BertModel"].build()
    model = built.model.to(device)
    fast = compiled(model, dynamic=True)
    with torch.no_grad():
        for length in (16, 24, 9):
            ids = torch.randint(0, 100, (2, length), device=device)
            mask = torch.ones_like(ids)
            mask[1, -3:] = 0
            close(fast(input_ids=ids, attention_mask=mask)[0], model(input_ids=ids, attention_mask=mask)[0])
    assert len(seen.reports) <= 2, [report.model for report in seen.reports]
    assert max(report.coverage for report in seen.reports) > 0.9
    assert len(seen.calls) >= 3


@pytest.mark.parametrize("device", DEVICES)
def test_one_engine_serves_marked_dims_within_their_range(device, seen):
    model, x = Mlp().to(device), torch.randn(4, 8, device=device)
    torch._dynamo.mark_dynamic(x, 0, min=2, max=64)
    fast = compiled(model)
    with torch.no_grad():
        close(fast(x), model(x))
        for size in (2, 33, 64):
            x = torch.randn(size, 8, device=device)
            close(fast(x), model(x))
    assert len(seen.reports) == 1
    assert len(seen.calls) == 4


def test_a_size_beyond_the_range_is_compiled_for_and_not_refused(seen):
    model = Mlp()
    fast = compiled(model, dynamic=True)
    with torch.no_grad():
        for size in (4, 8, 9, 200, 3, 256, 257):
            x = torch.randn(size, 8)
            close(fast(x), model(x))
    # 4 is prepared up to 8, 9 up to 32, 200 up to 512.
    assert len(seen.reports) == 3
    assert len(seen.calls) == 7


# ------------------------------------------------------------------------------------ graph breaks


@pytest.mark.parametrize("device", DEVICES)
def test_graph_breaks(device, seen, capsys):
    class Breaks(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second, self.third = Mlp(), Mlp(), Mlp()

        def forward(self, x):
            x = self.first(x)
            print("between")
            x = self.second(x)
            if x.sum() > 0:
                return self.third(x)
            return self.third(-x)

    model = Breaks().to(device)
    fast = compiled(model, min_block_size=1)
    with torch.no_grad():
        for sign in (1, -1):
            x = sign * torch.ones(3, 8, device=device)
            close(fast(x), model(x))
    assert capsys.readouterr().out.count("between") == 4
    assert len({call.module.name + str(id(call.module)) for call in seen.calls}) >= 3
    assert len(seen.calls) >= 6


def test_a_break_without_no_grad_still_runs_engines(seen):
    class Breaks(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = Mlp(), Mlp()

        def forward(self, x):
            x = self.first(x)
            torch._dynamo.graph_break()
            return self.second(x)

    model, x = Breaks(), torch.randn(3, 8)
    with pytest.warns(FallbackWarning, match="forward pass only"):
        close(compiled(model, min_block_size=1)(x), model(x))
    assert len(seen.calls) == 2


# ------------------------------------------------------------------------------------ what graphs do to tensors


@pytest.mark.parametrize("device", DEVICES)
def test_inputs_and_buffers_written_in_place(device, seen):
    class Writes(nn.Module):
        def __init__(self):
            super().__init__()
            self.mlp = Mlp()
            self.register_buffer("steps", torch.zeros(8))

        def forward(self, x, cache):
            self.steps.add_(1)
            y = self.mlp(x)
            cache[:, 1].copy_(y)
            cache.mul_(2)
            return y + self.steps, cache[0]

    model = Writes().to(device)
    eager = copy.deepcopy(model)
    fast = compiled(model, min_block_size=1)
    with torch.no_grad():
        for _ in range(3):
            x, cache = torch.randn(4, 8, device=device), torch.randn(4, 3, 8, device=device)
            other = cache.clone()
            (y, view), (expected, expected_view) = fast(x, cache), eager(x, other)
            close(y, expected)
            close(cache, other)
            view.add_(1), expected_view.add_(1)
            close(cache, other)
    close(model.steps, eager.steps)
    assert len(seen.calls) == 3


def test_outputs_that_are_views_inputs_numbers_and_none(seen):
    class Views(nn.Module):
        def __init__(self):
            super().__init__()
            self.mlp = Mlp()

        def forward(self, x, unused=None):
            y = self.mlp(x)
            return x, x[1:].t(), y, y.t(), y[0], x.shape[0], None, [x.view(-1, 4), 2.5]

    model, x = Views(), torch.randn(6, 8)
    with torch.no_grad():
        out = compiled(model, dynamic=True, min_block_size=1)(x)
        expected = model(x)
        close(out[:6], expected[:6])
        assert out[0] is x
        assert out[6] is None
        assert out[7][1] == 2.5
        assert out[1].stride() == expected[1].stride()
        out[1].fill_(7)
        assert (x[1:] == 7).all()
        assert out[7][0].data_ptr() == x.data_ptr()
    assert len(seen.calls) == 1


@pytest.mark.parametrize("device", DEVICES)
def test_autocast_and_inference_mode(device, seen):
    model, x = Mlp().to(device), torch.randn(3, 8, device=device)
    fast = compiled(model, min_block_size=1)
    with torch.inference_mode(), torch.autocast(device, torch.bfloat16):
        out, expected = fast(x), model(x)
    assert out.dtype == expected.dtype
    close(out, expected, 2e-2)
    assert len(seen.calls) == 1


@pytest.mark.parametrize("device", DEVICES)
def test_changed_weights_are_noticed(device, seen):
    model, x = Mlp().to(device), torch.randn(3, 8, device=device)
    fast = compiled(model, min_block_size=1)
    with torch.no_grad():
        close(fast(x), model(x))
        model.up.weight.mul_(3)
        close(fast(x), model(x))
        model.load_state_dict(Mlp().state_dict())
        close(fast(x), model(x))
        model.down.bias = nn.Parameter(torch.ones(8, device=device))
        close(fast(x), model(x))
        close(fast(x), model(x))
    assert len(seen.reports) == 4
    assert len(seen.calls) == 5


@pytest.mark.parametrize("device", DEVICES)
def test_changed_weights_are_refitted_where_engines_are_refittable(device, seen):
    model, image = Residual().eval().to(device), torch.randn(2, 3, 8, 8, device=device)
    fast = compiled(model, immutable_weights=False)
    with torch.no_grad():
        close(fast(image), model(image))
        other = Residual()
        nn.init.uniform_(other.norm.running_var, 0.5, 2.0)
        model.load_state_dict(other.state_dict())
        close(fast(image), model(image))
        close(fast(image), model(image))
    assert len(seen.reports) == 1
    assert len(seen.calls) == 3


# ------------------------------------------------------------------------------------ gradients


def test_without_no_grad_the_forward_pass_runs_and_backward_says_why_not(seen):
    model, x = Residual().eval(), torch.randn(2, 3, 8, 8)
    with pytest.warns(FallbackWarning, match=r"forward pass only.*torch\.no_grad\(\)"):
        out = compiled(model)(x)
    close(out, model(x))
    assert out["logits"].requires_grad
    with pytest.raises(RuntimeError, match=r"no gradient through graph 0/0 \(forward, test_backend\.py:\d+\)"):
        out["logits"].sum().backward()
    assert len(seen.calls) == 1


def test_a_graph_in_training_mode_trains_in_pytorch(seen):
    model, x = Residual().train(), torch.randn(2, 3, 8, 8)
    eager = copy.deepcopy(model)
    with pytest.warns(FallbackWarning, match=r"runs in PyTorch: it is in training mode.*model\.eval\(\)"):
        compiled(model)(x)["logits"].sum().backward()
    eager(x)["logits"].sum().backward()
    close(model.head.weight.grad, eager.head.weight.grad)
    close(model.norm.running_mean, eager.norm.running_mean)
    assert not seen.calls


def test_gradients_of_inputs_come_from_pytorch(seen):
    model, x = Mlp(), torch.randn(3, 8, requires_grad=True)
    with pytest.warns(FallbackWarning, match="gradients are wanted for its input 'l_x_'"):
        compiled(model)(x).sum().backward()
    assert x.grad is not None
    assert not seen.calls


# ------------------------------------------------------------------------------------ failures and options


@pytest.fixture
def failing(monkeypatch):
    """A compiler that breaks down in the middle, as a mistake of ours would make it."""
    from engine.torch_compile import compiled_graph as dynamo

    def broken(*arguments, **keywords):
        raise EngineError("rules/lowering/x.rules:3: x.y does not end at gelu (aten.gelu, from net.py:7)")

    monkeypatch.setattr(dynamo.Compilation, "lowered", broken)


def test_a_failure_falls_back_with_a_warning_that_says_what_failed(failing, seen):
    model, x = Mlp(), torch.randn(3, 8)
    with torch.no_grad(), pytest.warns(FallbackWarning) as caught:
        out = compiled(model)(x)
    close(out, model(x))
    assert len(caught) == 1
    text = str(caught[0].message)
    assert text.startswith('torch.compile(backend="engine"): graph 0/0 (forward, test_backend.py:'), text
    assert "runs in PyTorch: EngineError: rules/lowering/x.rules:3: x.y does not end at gelu" in text
    assert caught[0].filename == __file__


class Tagged(torch.Tensor):
    """A subclass of the kind that libraries of image transforms have."""


def test_what_is_not_supported_runs_in_pytorch_and_is_named():
    model, x = Mlp(), torch.ones(3, 8).as_subclass(Tagged)
    with torch.no_grad():
        with pytest.warns(FallbackWarning, match=r"its input 'l_x_' is a Tagged; plain tensors"):
            out = compiled(model)(x)
        close(out.as_subclass(torch.Tensor), model(x).as_subclass(torch.Tensor))


class Branches(nn.Module):
    """Sides with weights of their own."""

    def __init__(self):
        super().__init__()
        self.left, self.right = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x):
        return torch.cond(x.sum() > 0, lambda x: self.left(x).sin(), lambda x: self.right(x).cos(), (x,))


def test_control_flow_is_compiled(seen):
    model = Branches().eval()
    fast = compiled(model)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("error", FallbackWarning)
        for x in (torch.rand(3, 8), -torch.rand(3, 8), torch.rand(5, 8)):
            close(fast(x), model(x))
    assert seen.calls
    assert [report.fallbacks for report in seen.reports if report.fallbacks] == []


def test_written_inputs_that_overlap_run_in_pytorch():
    def write(first, second):
        first.add_(1)
        return torch.relu(second) * 2

    fast = torch.compile(write, backend="engine", options={"runtime": "interpreter", "min_block_size": 1})
    both, other = torch.zeros(4, 8), torch.zeros(4, 8)
    with torch.no_grad():
        with pytest.warns(FallbackWarning, match="share their memory"):
            out = fast(both[:3], both[1:])
        close(out, write(other[:3], other[1:]))
    close(both, other)


@pytest.mark.parametrize("option", ["pass_through_build_failures", "require_full_compilation"])
def test_failures_are_raised_where_that_is_asked(failing, option):
    with torch.no_grad(), pytest.raises(torch._dynamo.exc.BackendCompilerFailed, match="does not end at gelu"):
        compiled(Mlp(), **{option: True})(torch.randn(3, 8))


def test_a_graph_without_an_engine_says_which_op_and_why():
    model, x = Mlp(), torch.randn(3, 8)
    match = r"no segment of it became an engine; \w+ \(aten\.linear\.default, from .*\): torch_executed_ops names"
    with torch.no_grad(), pytest.warns(FallbackWarning, match=match):
        close(compiled(model, torch_executed_ops=["aten.linear"], min_block_size=2)(x), model(x))


def test_full_compilation_names_what_is_missing():
    options = {"torch_executed_ops": ["aten.gelu"], "require_full_compilation": True}
    with torch.no_grad(), pytest.raises(torch._dynamo.exc.BackendCompilerFailed, match=r"CoverageError: .*\n.*gelu"):
        compiled(Mlp(), **options)(torch.randn(3, 8))


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"min_block_sise": 1}, "no setting 'min_block_sise'; did you mean 'min_block_size'"),
        ({"min_block_size": 0}, "min_block_size is a whole number"),
        ({"runtime": "gpu"}, "runtime='gpu' is not one of"),
        ({"pass_through_build_failures": 1}, "pass_through_build_failures is True or False"),
        ({"use_explicit_typing": True}, "strongly typed"),
    ],
)
def test_wrong_options_are_errors_and_no_fallback(options, match):
    with pytest.raises(SettingsError, match=match):
        Options.of(options)
    with pytest.raises(torch._dynamo.exc.BackendCompilerFailed, match=match):
        torch.compile(Mlp(), backend="engine", options=options)(torch.randn(3, 8))


def test_a_mode_of_another_backend_is_refused():
    with pytest.raises(torch._dynamo.exc.BackendCompilerFailed, match=r"does not take mode: pass settings as options"):
        torch.compile(Mlp(), backend="engine", mode="max-autotune")(torch.randn(3, 8))


class Squared(nn.Module):
    def forward(self, x):
        return torch.square(torch.relu(x))


def test_rules_of_the_user_take_part_and_wrong_ones_are_errors(tmp_path, seen):
    mine, wrong = tmp_path / "mine.rules", tmp_path / "wrong.rules"
    mine.write_text(
        "lower squared_relu\n  match aten.square(aten.relu(x))\n  emit  aten.pow.Tensor_Scalar(aten.relu(x), 2)\n"
    )
    wrong.write_text("lower gelu match\n")
    with torch.no_grad():
        model = nn.Sequential(nn.Linear(4, 4), Squared())
        x = torch.randn(3, 4)
        close(compiled(model, rules=[str(mine)])(x), model(x))
        assert seen.reports[0].rules_used["mine.squared_relu"] == 1
        with pytest.raises(torch._dynamo.exc.BackendCompilerFailed, match=r"RuleError: .*wrong\.rules:1"):
            compiled(Mlp(), rules=[str(wrong)])(torch.randn(3, 8))


def test_errors_of_observers_are_not_taken_for_failures():
    def broken(event):
        raise ValueError("mine")

    with engine.observe(before_build=broken), torch.no_grad():
        fast = compiled(Mlp(), min_block_size=1)
        with pytest.raises(torch._dynamo.exc.BackendCompilerFailed, match="mine"):
            fast(torch.randn(3, 8))


def test_a_negative_number_runs_in_pytorch_and_says_so(seen):
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.mlp = Mlp()

        def forward(self, x, k):
            return self.mlp(x) * k

    model, x = Scaled(), torch.randn(3, 8)
    fast = compiled(model, dynamic=True, min_block_size=1)
    with torch.no_grad():
        close(fast(x, 3), model(x, 3))
        with pytest.warns(FallbackWarning, match="k is -2, and the graph could not be compiled for that"):
            close(fast(x, -2), model(x, -2))
        close(fast(x, 5), model(x, 5))
    assert len(seen.calls) == 2


def test_a_later_build_that_fails_leaves_the_call_to_pytorch(monkeypatch, seen):
    from engine.torch_compile import compiled_graph as dynamo

    model = Mlp()
    fast = compiled(model, dynamic=True, min_block_size=1)
    with torch.no_grad():
        close(fast(torch.ones(4, 8)), model(torch.ones(4, 8)))

        def broken(*arguments, **keywords):
            raise EngineError("out of memory")

        monkeypatch.setattr(dynamo.Compilation, "lowered", broken)
        with pytest.warns(FallbackWarning, match=r"dim 0 of x is 100, .*EngineError: out of memory") as caught:
            outputs = [fast(torch.ones(100, 8)) for _ in range(2)]
        assert len(caught) == 1
        close(outputs, [model(torch.ones(100, 8))] * 2)
        close(fast(torch.ones(5, 8)), model(torch.ones(5, 8)))
    assert len(seen.calls) == 2


def test_threads_share_one_compiled_model():
    model = Mlp()
    fast = compiled(model, dynamic=True, min_block_size=1)
    with torch.no_grad():
        fast(torch.randn(4, 8))
    errors = []

    def work(seed):
        generator = torch.Generator().manual_seed(seed)
        try:
            with torch.no_grad():
                for size in (3, 20, 5, 40, 90):
                    x = torch.randn(size, 8, generator=generator)
                    close(fast(x), model(x))
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert not errors


def test_nothing_is_said_where_all_is_well(seen, caplog):
    caplog.set_level(logging.INFO, logger="engine.torch_compile.backend")
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("error", FallbackWarning)
        compiled(Mlp(), min_block_size=1)(torch.randn(3, 8))
    assert "100% of 4 nodes in 1 engines" in caplog.text


@pytest.mark.skipif(not entry_points(group="torch_dynamo_backends", name="engine"), reason="engine is not installed")
def test_the_backend_is_found_by_name_without_an_import():
    code = (
        "import torch\nm = torch.nn.Linear(2, 2)\n"
        "options = {'runtime': 'interpreter'}\n"
        "with torch.no_grad(): print(torch.compile(m, backend='engine', options=options)(torch.ones(1, 2)).shape)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=False, env=dict(os.environ)
    )  # fmt: skip
    assert "torch.Size([1, 2])" in done.stdout, done.stderr
    assert "runs in PyTorch" not in done.stderr


def test_compiling_both_ways_at_once():
    """PyTorch exchanges kernels of composite ops for the whole process while it traces; nobody may see that."""
    errors = []

    def ahead():
        try:
            for _ in range(2):
                model, x = Mlp(), torch.randn(3, 8)
                close(engine.compile(model, (x,), runtime="interpreter")(x), model(x))
        except Exception as error:
            errors.append(error)

    # PyTorch ignores a torch.compile that is written while another thread exports, so these come first.
    models = [Mlp(8), Mlp(16)]
    fast = [compiled(model, min_block_size=1) for model in models]
    thread = threading.Thread(target=ahead)
    thread.start()
    with torch.no_grad():
        for model, run in zip(models, fast, strict=True):
            x = torch.randn(3, model.up.in_features)
            close(run(x), model(x))
    thread.join(timeout=300)
    assert not thread.is_alive()
    assert not errors
