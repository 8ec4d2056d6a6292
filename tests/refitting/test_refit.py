"""Refit: other weights for a compiled model, on the CPU through the interpreter and on a GPU for real."""

import copy
import dataclasses
import json

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import engine
from engine.builder import Blueprint
from engine.builder.refitter import refit_engine
from engine.conversion import weights as conversion_weights
from engine.errors import FileError, RefitError, SettingsError
from engine.refitting.weight_map import WeightPlan
from engine.runtime import TorchTensorRTModule
from engine.settings import CompilationSettings
from engine.tensorrt import capabilities
from engine.weights.recipe_encoding import decode
from tests.comparison import assert_agrees


class ConvNet(nn.Module):
    """A batch normalisation that is folded into a convolution, and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn, self.fc = nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.Linear(8, 4)

    def forward(self, x):
        return self.fc(self.bn(self.conv(x)).relu().mean((2, 3)))


class Derived(nn.Module):
    """Constants that compiling computes from weights: joined, transposed, cast, reshaped, two views of one."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Parameter(torch.empty(8, 3)), nn.Parameter(torch.empty(8, 5))
        self.bias = nn.Parameter(torch.empty(8))
        self.register_buffer("scale", torch.empty(8, dtype=torch.float16))
        self.register_buffer("offset", torch.randn(8), persistent=False)
        self.gain = torch.randn(8)

    def forward(self, x):
        weight = torch.cat([self.left, self.right], 1)
        y = x @ weight.t() + self.bias
        y = y * self.scale.float().exp() + self.bias.view(2, 4).sum(0).repeat(2)
        return y * self.gain + self.bias * self.offset


class Attention(nn.Module):
    """Self-attention, its embedding tied to the output, and a table of positions."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 8)
        self.qkv, self.out, self.norm = nn.Linear(8, 24), nn.Linear(8, 8), nn.LayerNorm(8)
        self.head = nn.Linear(8, 11, bias=False)
        self.head.weight = self.embed.weight
        self.register_buffer("positions", torch.arange(6).flip(0))
        self.table = nn.Parameter(torch.empty(6, 8))

    def forward(self, tokens):
        x = self.embed(tokens) + self.table[self.positions]
        q, k, v = (part.unflatten(-1, (2, 4)).transpose(1, 2) for part in self.qkv(x).chunk(3, -1))
        y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        return self.head(self.norm(x + self.out(y)))


MODELS = {
    "conv": (ConvNet, lambda: torch.randn(2, 3, 8, 8)),
    "derived": (Derived, lambda: torch.randn(2, 8)),
    "attention": (Attention, lambda: torch.randint(0, 11, (2, 6))),
}


def made(kind, seed, dtype=torch.float32):
    """A model with weights of a seed; buffers that no state dict has are the same for all seeds."""
    torch.manual_seed(0)
    model = kind().eval()
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, tensor in (*model.named_parameters(), *model.named_buffers()):
            if tensor.is_floating_point() and name in model.state_dict():
                tensor.uniform_(0.5, 1.5) if "var" in name else tensor.normal_(0, 0.5)
    return model.to(dtype)


def compiled_with(model, *args, **settings):
    given = {"runtime": "interpreter", "immutable_weights": False, "min_block_size": 1, **settings}
    return engine.compile(model, args, **given)


def engines(compiled):
    return [m for m in compiled.graph_module.children() if isinstance(m, TorchTensorRTModule)]


# ------------------------------------------------------------------------------------ what works


@pytest.mark.parametrize("name", MODELS)
def test_a_refitted_model_gives_what_eager_gives(name):
    kind, inputs = MODELS[name]
    old, new, x = made(kind, 1), made(kind, 2), inputs()
    compiled = compiled_with(old, x, require_full_compilation=True)
    for weights in (new, new.state_dict(), torch.export.export(new, (x,))):
        refitted = engine.refit(compiled, weights)
        assert refitted is not compiled
        assert_agrees(refitted, new, x)
        assert_agrees(compiled, old, x)
    assert_agrees(engine.refit(refitted, old), old, x)
    assert engine.refit(compiled, new, verify_output=True, args=[x], in_place=True) is compiled
    assert_agrees(compiled, new, x)
    assert_agrees(copy.deepcopy(compiled), new, x)


def test_weights_are_named_as_in_the_model_and_the_same_each_time():
    x = torch.randn(2, 8)
    first, second = (engines(compiled_with(made(Derived, seed), x))[0].weight_name_map for seed in (1, 2))
    assert first == second
    assert json.loads(json.dumps(first)) == first
    assert {"bias", "gain"} <= set(first)
    sources = {name: decode(entry["recipe"]).sources for name, entry in first.items()}
    assert ("left", "right") in sources.values()
    assert ("scale",) in sources.values()
    assert sum(found == ("bias",) for found in sources.values()) == 2


def test_a_model_keeps_its_own_tensors():
    old, new, x = made(ConvNet, 1), made(ConvNet, 2), torch.randn(2, 3, 8, 8)
    compiled = compiled_with(old, x, torch_executed_ops={"aten.linear", "aten.convolution"})
    before, after = copy.deepcopy(old.state_dict()), copy.deepcopy(new.state_dict())
    engine.refit(compiled, new, in_place=True)
    with torch.no_grad():
        for parameter in new.parameters():
            parameter.zero_()
    new.load_state_dict(after)
    assert all(torch.equal(value, before[name]) for name, value in old.state_dict().items())
    assert_agrees(compiled, new, x)


def test_constants_in_pytorch_and_in_several_engines_change_together():
    old, new, x = made(Derived, 1), made(Derived, 2), torch.randn(2, 8)
    compiled = compiled_with(old, x, torch_executed_ops={"aten.matmul", "aten.mul.Tensor"})
    assert len(engines(compiled)) > 1
    assert compiled.weight_plan.constants
    assert_agrees(engine.refit(compiled, new), new, x)
    assert_agrees(compiled, old, x)


def test_a_model_that_is_all_in_pytorch_needs_no_setting():
    old, new, x = nn.Linear(3, 4), nn.Linear(3, 4), torch.randn(2, 3)
    compiled = engine.compile(old, [x], torch_executed_ops={"aten.linear"})
    assert engines(compiled) == []
    assert_agrees(engine.refit(compiled, new), new, x)


def test_another_class_with_the_same_names():
    class Other(ConvNet):
        pass

    x = torch.randn(2, 3, 8, 8)
    compiled, other = compiled_with(made(ConvNet, 1), x), made(Other, 2)
    assert_agrees(engine.refit(compiled, other), other, x)


def test_buffers_that_are_in_no_state_dict():
    old, new, x = made(Derived, 1), made(Derived, 2), torch.randn(2, 8)
    new.offset, new.gain = torch.randn(8), torch.randn(8)
    compiled = compiled_with(old, x)
    assert_agrees(engine.refit(compiled, new), new, x)
    kept = made(Derived, 2)
    assert_agrees(engine.refit(compiled, new.state_dict()), kept, x)


def test_a_tied_weight_by_either_of_its_names():
    old, new, x = made(Attention, 1), made(Attention, 2), torch.randint(0, 11, (2, 6))
    compiled = compiled_with(old, x)
    for dropped in ("embed.weight", "head.weight"):
        state = {name: value for name, value in new.state_dict().items() if name != dropped}
        assert_agrees(engine.refit(compiled, state), new, x)
    copied = {name: value.clone() for name, value in new.state_dict().items()}
    assert_agrees(engine.refit(compiled, copied), new, x)
    copied["head.weight"] += 1
    with pytest.raises(RefitError, match=r"are one tensor in the compiled model, and differ here"):
        engine.refit(compiled, copied)


def test_programs_and_graphs_are_refitted_by_the_names_they_have():
    old, new, x = made(ConvNet, 1), made(ConvNet, 2), torch.randn(2, 3, 8, 8)
    program = torch.export.export(old, (x,))
    compiled = engine.compile(program, runtime="interpreter", immutable_weights=False, min_block_size=1)
    assert_agrees(engine.refit(compiled, new), new, x)


def test_float64_weights_that_are_computed_in_float32():
    old, new, x = made(ConvNet, 1, torch.float64), made(ConvNet, 2, torch.float64), torch.randn(2, 3, 8, 8).double()
    compiled = compiled_with(old, x, truncate_double=True)
    assert_agrees(engine.refit(compiled, new), new, x, tolerance=1e-4)


def test_a_half_precision_model():
    old, new, x = made(ConvNet, 1, torch.float16), made(ConvNet, 2, torch.float16), torch.randn(2, 3, 8, 8).half()
    compiled = compiled_with(old, x)
    assert_agrees(engine.refit(compiled, new), new, x, tolerance=1e-2)


def test_weights_with_other_strides():
    old, new, x = made(ConvNet, 1), made(ConvNet, 2).to(memory_format=torch.channels_last), torch.randn(2, 3, 8, 8)
    assert_agrees(engine.refit(compiled_with(old, x), new), new, x)


def test_what_is_not_given_stays_without_strict():
    old, new, x = made(ConvNet, 1), made(ConvNet, 2), torch.randn(2, 3, 8, 8)
    compiled = compiled_with(old, x, torch_executed_ops={"aten.relu"})
    assert len(engines(compiled)) == 2
    head = {name: value for name, value in new.state_dict().items() if name.startswith("fc.")}
    mixed = made(ConvNet, 1)
    mixed.load_state_dict(head, strict=False)
    assert_agrees(engine.refit(compiled, {**head, "extra": torch.ones(1)}, strict=False), mixed, x)
    with pytest.raises(RefitError, match=r"of which these are missing: .*bn\.weight"):
        engine.refit(compiled, {"conv.weight": new.conv.weight}, strict=False)


@pytest.mark.skipif(not capabilities().rtx, reason="TensorRT needs a GPU to refit an engine")
@pytest.mark.parametrize("runtime", ["python", "interpreter"])
@pytest.mark.parametrize("name", MODELS)
def test_the_plan_is_that_of_a_model_compiled_with_the_new_weights(name, runtime):
    kind, inputs = MODELS[name]
    old, new, x = made(kind, 1), made(kind, 2), inputs()
    sizes = {"dynamic_shapes": ({0: torch.export.Dim("batch", min=1, max=4)},)}
    before, after = (compiled_with(model, x, runtime=runtime, trial_load=False, **sizes) for model in (old, new))
    plans = [module.serialized_engine for module in engines(before)]
    refitted = [module.serialized_engine for module in engines(engine.refit(before, new))]
    assert refitted == [module.serialized_engine for module in engines(after)]
    assert refitted != plans
    assert plans == [module.serialized_engine for module in engines(before)]


def test_a_loop_is_built_again():
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm = nn.LSTM(4, 6, batch_first=True)

        def forward(self, x):
            return self.lstm(x)[0]

    old, new, x = made(Recurrent, 1), made(Recurrent, 2), torch.randn(2, 40, 4)
    compiled = compiled_with(old, x)
    (module,) = engines(compiled)
    assert "add_loop" in {call[0] for call in module.blueprint.calls}
    assert_agrees(engine.refit(compiled, new), new, x)


def test_a_weight_plan_survives_json():
    old, new, x = made(Derived, 1), made(Derived, 2), torch.randn(2, 8)
    compiled = compiled_with(old, x, torch_executed_ops={"aten.mul.Tensor"})
    text = json.dumps(compiled.weight_plan.to_json())
    compiled.weight_plan = WeightPlan.from_json(json.loads(text))
    assert json.dumps(compiled.weight_plan.to_json()) == text
    assert_agrees(engine.refit(compiled, new), new, x)


@pytest.mark.parametrize("name", MODELS)
def test_a_model_from_a_file_is_refitted(name, tmp_path):
    kind, inputs = MODELS[name]
    old, new, x = made(kind, 1), made(kind, 2), inputs()
    compiled = compiled_with(old, x, torch_executed_ops={"aten.mul.Tensor", "aten.layer_norm"})
    engine.save(compiled, tmp_path / "model.pt2", program=True)
    loaded = engine.load(tmp_path / "model.pt2", runtime="interpreter")
    assert_agrees(engine.refit(loaded, new), new, x)
    assert_agrees(loaded, old, x)


# ------------------------------------------------------------------------------------ what is refused


def refused(compiled, weights, match, **options):
    with pytest.raises(RefitError, match=match):
        engine.refit(compiled, weights, **options)


@pytest.fixture(scope="module")
def convnet():
    torch.manual_seed(0)
    model, x = made(ConvNet, 1), torch.randn(2, 3, 8, 8)
    return compiled_with(model, x), model, x


def changed(**tensors):
    return {**made(ConvNet, 2).state_dict(), **{name.replace("__", "."): value for name, value in tensors.items()}}


BAD = {
    "missing": (lambda: {"fc.bias": torch.zeros(4)}, r"missing keys: .*conv\.weight"),
    "unexpected": (lambda: changed(other=torch.ones(1)), r"unexpected keys: other"),
    "prefix": (lambda: {f"module.{k}": v for k, v in changed().items()}, r"take the prefix 'module\.' off"),
    "shape": (
        lambda: changed(fc__bias=torch.zeros(5)),
        r"fc\.bias is float32\[5\], the compiled model has float32\[4\]",
    ),
    "dtype": (lambda: changed(fc__bias=torch.zeros(4).half()), r"fc\.bias is float16\[4\].*convert it with .to\("),
    "meta": (lambda: changed(fc__bias=torch.zeros(4, device="meta")), r"fc\.bias is on the meta device"),
    "sparse": (lambda: changed(fc__bias=torch.zeros(4).to_sparse()), r"fc\.bias has the layout torch\.sparse_coo"),
    "value": (lambda: changed(fc__bias=[0.0] * 4), r"fc\.bias is a list, not a tensor"),
    "type": (lambda: [torch.zeros(4)], r"not a list"),
    "model": (lambda: nn.Linear(2, 2), r"unexpected keys: weight, bias"),
}


@pytest.mark.parametrize("case", BAD)
def test_weights_that_do_not_fit_change_nothing(convnet, case):
    compiled, model, x = convnet
    weights, match = BAD[case]
    for in_place in (False, True):
        refused(compiled, weights(), match, in_place=in_place)
    assert_agrees(compiled, model, x)


def test_every_problem_is_named_at_once(convnet):
    weights = changed(fc__bias=torch.zeros(5), other=torch.ones(1))
    del weights["conv.weight"]
    with pytest.raises(RefitError) as caught:
        engine.refit(convnet[0], weights)
    text = str(caught.value)
    assert all(part in text for part in ("missing keys: conv.weight", "unexpected keys: other", "fc.bias is"))


def test_an_immutable_model_says_so():
    x = torch.randn(2, 3, 8, 8)
    compiled = engine.compile(made(ConvNet, 1), [x], runtime="interpreter", min_block_size=1)
    refused(compiled, made(ConvNet, 2), r"immutable_weights=False")
    refused(nn.Linear(2, 2), {}, r"a Linear cannot be refitted")
    refused(engine.compile(made(ConvNet, 1)), {}, r"compiled at its first call")
    for name in ("make_refittable", "strip_engine_weights"):
        with pytest.raises(SettingsError, match="immutable_weights=False"):
            engine.compile(made(ConvNet, 1), [x], **{name: True})


class Picked(nn.Module):
    """Indices of the model, by which a rule decides, and a float weight."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 6)
        self.register_buffer("order", torch.tensor([3, 0, 5]))

    def forward(self, x):
        return self.linear(x)[:, self.order].relu()


def test_indices_decide_how_a_model_is_compiled():
    old, new, x = made(Picked, 1), made(Picked, 2), torch.randn(2, 4)
    compiled = compiled_with(old, x)
    assert_agrees(engine.refit(compiled, new), new, x)
    new.order = torch.tensor([3, 1, 5])
    refused(compiled, new, r"order decided how the model was compiled.*compile the model again")
    assert_agrees(compiled, old, x)
    new, x = made(Attention, 2), torch.randint(0, 11, (2, 6))
    compiled = compiled_with(made(Attention, 1), x)
    new.positions = new.positions.flip(0)  # taken from a table when compiling, and taken again here
    assert_agrees(engine.refit(compiled, new), new, x)


def test_verification_sees_another_model(convnet):
    compiled, model, x = convnet

    class Other(ConvNet):
        def forward(self, x):
            return super().forward(x) + 1

    refused(compiled, made(Other, 2), r"output 0: differs by 1", verify_output=True, args=[x], in_place=True)
    assert_agrees(compiled, model, x)
    refused(compiled, made(ConvNet, 2).state_dict(), r"pass the model", verify_output=True, args=[x])
    refused(compiled, made(ConvNet, 2).train(), r"model\.eval\(\)", verify_output=True, args=[x])


@pytest.mark.parametrize(
    ("recipe", "match"),
    [
        ({"steps": [["n", "aten.add_.Tensor", [{"source": "a"}, 1, 1]]]}, "writes to its arguments"),
        ({"steps": [["n", "aten.from_file.default", ["/etc/passwd"]]]}, "may not call"),
        ({"steps": [["n", "os.system.default", ["true"]]]}, "may not call"),
        ({"steps": [["n", "aten.relu.missing", []]]}, "damaged"),
        ({"steps": 3}, "damaged"),
        ({"steps": [], "result": 1}, "damaged"),
    ],
)
def test_recipes_from_files_are_not_trusted(recipe, match):
    with pytest.raises(FileError, match=match):
        decode({"result": {"step": 0, "output": 0}, "literals": {}, **recipe})
    for read in (WeightPlan.from_json, Blueprint.from_json):
        for data in ({"state": {}}, {"calls": [["__class__", []]], "profiles": [], "held": [], "name": ""}, 3):
            with pytest.raises(FileError, match="damaged"):
                read(data)


# ------------------------------------------------------------------------------------ on a GPU


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=["float32", "float16"])
@pytest.mark.parametrize("name", MODELS)
def test_engines_are_refitted(name, dtype):
    kind, inputs = MODELS[name]
    if name == "derived" and dtype is torch.float16:
        pytest.skip("its plain tensor attribute stays float32")
    old, new, x = made(kind, 1, dtype).cuda(), made(kind, 2, dtype).cuda(), inputs().cuda()
    if name == "derived":
        old.gain = new.gain = old.gain.cuda()
    x = x.to(dtype) if x.is_floating_point() else x
    tolerance = 1e-2 if dtype is torch.float32 else 3e-2
    compiled = compiled_with(old, x, runtime="python", require_full_compilation=True)
    before = assert_agrees(compiled, old, x, tolerance=tolerance)
    refitted = engine.refit(compiled, new, verify_output=True, args=[x])
    got = assert_agrees(refitted, new, x, tolerance=tolerance)
    fresh = compiled_with(new, x, runtime="python", require_full_compilation=True)
    torch.testing.assert_close(got.float(), fresh(x).float(), rtol=0, atol=tolerance * float(got.float().abs().max()))
    torch.testing.assert_close(compiled(x), before, rtol=0, atol=0)
    again = engine.refit(refitted, {k: v.cpu() for k, v in old.state_dict().items()}, in_place=True)
    assert again is refitted
    assert_agrees(refitted, old, x, tolerance=tolerance)
    assert_agrees(copy.deepcopy(refitted), old, x, tolerance=tolerance)


@pytest.mark.gpu
def test_the_plan_that_is_kept_has_the_new_weights():
    old, new, x = made(ConvNet, 1).cuda(), made(ConvNet, 2).cuda(), torch.randn(2, 3, 8, 8).cuda()
    compiled = engine.refit(compiled_with(old, x, runtime="python"), new)
    (module,) = engines(compiled)
    bare = TorchTensorRTModule(module.serialized_engine, module.input_binding_names, module.output_binding_names)
    torch.testing.assert_close(bare(x), compiled(x), rtol=0, atol=0)
    assert_agrees(bare, new, x, tolerance=1e-2)


@pytest.mark.gpu
def test_constants_in_pytorch_beside_real_engines():
    old, new, x = made(Derived, 1), made(Derived, 2), torch.randn(2, 8).cuda()
    old.gain = new.gain = old.gain.cuda()
    compiled = compiled_with(old.cuda(), x, runtime="python", torch_executed_ops={"aten.matmul", "aten.mul.Tensor"})
    assert_agrees(engine.refit(compiled, new.cuda()), new, x, tolerance=1e-2)
    assert_agrees(compiled, old, x, tolerance=1e-2)


@pytest.mark.gpu
@pytest.mark.skipif(capabilities().rtx, reason="engines of TensorRT-RTX are built again")
def test_tensorrt_refuses_what_is_not_in_the_engine():
    x = torch.randn(2, 3, 8, 8).cuda()
    (module,) = engines(compiled_with(made(ConvNet, 1).cuda(), x, runtime="python"))
    with pytest.raises(RefitError, match=r"has no weights named 'other'"):
        refit_engine(module.serialized_engine, {"other": torch.ones(3)}, name="engine_0")
    with pytest.raises(RefitError, match=r"does not take the weights 'fc\.bias'"):
        refit_engine(module.serialized_engine, {"fc.bias": torch.ones(99)}, name="engine_0")


@pytest.mark.gpu
def test_an_engine_that_tensorrt_cannot_refit():
    x = torch.randn(2, 3, 8, 8).cuda()
    (module,) = engines(engine.compile(made(ConvNet, 1).cuda(), [x], runtime="python", min_block_size=1))
    with pytest.raises(RefitError, match=r"immutable_weights=False"):
        refit_engine(module.serialized_engine, {}, name="engine_0")
    with pytest.raises(RefitError, match=r"cannot be loaded"):
        refit_engine(module.serialized_engine[:1000], {}, name="engine_0")


@pytest.mark.skipif(torch.cuda.is_available(), reason="is about machines without a GPU")
def test_refitting_a_plan_takes_a_gpu():
    with pytest.raises(RefitError, match="only where there is a GPU"):
        refit_engine(b"", {}, name="engine_0")


@pytest.mark.parametrize(
    ("version", "rtx", "natively"),
    [((11, 2), False, True), ((11, 3), False, False), ((11, 4), False, False), ((11, 1), True, False)],
)
def test_a_tensorrt_whose_refittable_engines_lose_biases_builds_again(monkeypatch, version, rtx, natively):
    other = dataclasses.replace(capabilities(), version=version, rtx=rtx)
    monkeypatch.setattr(conversion_weights, "capabilities", lambda: other)
    assert conversion_weights.refits_natively(CompilationSettings(immutable_weights=False)) is natively
    assert conversion_weights.refits_natively(CompilationSettings()) is False
