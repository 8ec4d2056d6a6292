"""Modes without a GPU: settings, what is refused and how, and the parts that need no engine."""

import copy
import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

import engine
from engine.errors import RuntimeUnavailable, SettingsError
from engine.runtime import (
    LayerTime,
    Profile,
    RunOptions,
    enable_cudagraphs,
    enable_output_allocator,
    enable_pre_allocated_outputs,
    options,
    profiling,
    runtime_config,
    weight_streaming,
)
from engine.runtime.cuda_graphs.cache import GraphCache
from engine.runtime.cuda_graphs.recorded_call import RecordedInput
from engine.runtime.engines.context_pool import ContextPool, PooledContext, ShapeBinding
from engine.runtime.engines.inputs import _alike_slowly, alike
from engine.runtime.profiling import _origins, read_origins
from engine.settings import CompilationSettings
from engine.tensorrt import capabilities, load
from tests.runtime.networks import Built, affine, affine_reference

no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="describes machines without a GPU")


@pytest.fixture(scope="module")
def built() -> Built:
    return affine()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"use_cuda_graphs": 1}, "use_cuda_graphs is True or False"),
        ({"cuda_graph_scope": "layer"}, "cuda_graph_scope is one of 'module', 'engine', not 'layer'"),
        ({"cuda_graph_cache_size": 0}, "cuda_graph_cache_size is a whole number, 1 or more"),
        ({"cuda_graph_strategy": "some"}, "cuda_graph_strategy is one of 'disabled', 'whole_graph_capture'"),
        ({"dynamic_shapes_kernel_specialization_strategy": ""}, "is one of 'lazy', 'eager', 'none'"),
        ({"runtime_cache_path": 3}, "runtime_cache_path is the path of a folder"),
        ({"runtime_cache_path": __file__}, "is a file: give a folder"),
        ({"weight_streaming_budget": 5}, "needs engines built with enable_weight_streaming=True"),
        ({"weight_streaming_budget": -1, "enable_weight_streaming": True}, "0 or more"),
        ({"use_cuda_graphs": True, "cuda_graph_strategy": "whole_graph_capture"}, "choose one"),
    ],
)
def test_settings_are_checked(settings: dict[str, object], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        CompilationSettings(**settings)


def test_options_follow_settings(tmp_path: Path) -> None:
    settings = CompilationSettings(
        use_pre_allocated_outputs=True,
        runtime_cache_path=tmp_path,
        enable_weight_streaming=True,
        weight_streaming_budget=7,
        share_device_memory=True,
    )
    expected = RunOptions(True, "disabled", "lazy", str(tmp_path), 7, True)
    assert RunOptions.of(settings) == expected
    assert CompilationSettings.from_kwargs(**settings.to_dict()) == settings
    assert RunOptions.of(CompilationSettings()) == RunOptions()


@pytest.mark.skipif(not capabilities().rtx, reason="of TensorRT-RTX")
def test_graphs_want_their_kernels_before() -> None:
    options = RunOptions.of(CompilationSettings(use_cuda_graphs=True))
    wanted = "eager" if capabilities().specializes else "lazy"
    assert options.dynamic_shapes_kernel_specialization_strategy == wanted
    explicit = CompilationSettings(use_cuda_graphs=True, dynamic_shapes_kernel_specialization_strategy="none")
    assert RunOptions.of(explicit).dynamic_shapes_kernel_specialization_strategy == "none"


def test_kernels_that_are_wrong_are_not_asked_for(built: Built, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(options, "capabilities", lambda: dataclasses.replace(capabilities(), specializes=False))
    graphs = RunOptions.of(CompilationSettings(use_cuda_graphs=True))
    assert graphs.dynamic_shapes_kernel_specialization_strategy == "lazy"
    with pytest.raises(SettingsError, match="add the bias of a linear layer to the first row only"):
        built.module(settings=CompilationSettings(dynamic_shapes_kernel_specialization_strategy="eager"))


@pytest.mark.parametrize(
    ("missing", "settings"),
    [
        ("cuda_graph_strategy", {"cuda_graph_strategy": "whole_graph_capture"}),
        (
            "dynamic_shapes_kernel_specialization_strategy",
            {"dynamic_shapes_kernel_specialization_strategy": "eager"},
        ),
        ("create_runtime_cache", {"runtime_cache_path": "kernels"}),
    ],
)
def test_what_tensorrt_lacks_is_an_error(
    built: Built, monkeypatch: pytest.MonkeyPatch, missing: str, settings: dict[str, str]
) -> None:
    # As in TensorRT proper, whose runtime configuration has none of them.
    config = load().IRuntimeConfig
    members = {name: getattr(config, name) for name in dir(config) if name != missing and not name.startswith("__")}
    monkeypatch.setattr(load(), "IRuntimeConfig", type("IRuntimeConfig", (), members))
    (name,) = settings
    with pytest.raises(SettingsError, match=f"{name}=.* cannot be honoured by .*: only TensorRT-RTX has it"):
        built.module(settings=CompilationSettings(**settings))


@pytest.mark.parametrize(
    "mode", [enable_cudagraphs, enable_pre_allocated_outputs, enable_output_allocator, weight_streaming, profiling]
)
def test_an_interpreted_engine_has_no_modes(built: Built, mode: object) -> None:
    module = built.module(runtime="interpreter", program=affine_reference, name="net")
    for target in (module, nn.Sequential(module)):
        with pytest.raises(RuntimeUnavailable, match="'net' is interpreted on the CPU"), mode(target):
            pass
    with pytest.raises(RuntimeUnavailable, match="no engines"), mode(nn.Linear(1, 1)):
        pass
    x, y = torch.randn(2, 4), torch.randn(3)
    torch.testing.assert_close(module(x, y), affine_reference(x, y))


def test_an_unknown_option_is_named(built: Built) -> None:
    module = built.module(runtime="python")
    message = "no option 'graphs'; there are use_pre_allocated_outputs"
    with pytest.raises(SettingsError, match=message), runtime_config(module, graphs=True):
        pass


@no_gpu
def test_modes_before_loading_are_kept_for_the_engine(built: Built) -> None:
    module = built.module(runtime="python")
    with enable_pre_allocated_outputs(module), runtime_config(module, share_device_memory=True):
        assert module.options == RunOptions(use_pre_allocated_outputs=True, share_device_memory=True)
        clone = copy.deepcopy(module)
        with pytest.raises(RuntimeUnavailable, match="no GPU"):
            module(torch.ones(2, 4), torch.ones(3))
    assert module.options == RunOptions()
    assert clone.options == RunOptions(use_pre_allocated_outputs=True, share_device_memory=True)


@no_gpu
def test_cuda_graphs_are_per_module(built: Built) -> None:
    module = built.module(runtime="python", settings=CompilationSettings(use_cuda_graphs=True))
    assert module.cuda_graphs is None, "the scope is the compiled module"
    settings = CompilationSettings(use_cuda_graphs=True, cuda_graph_scope="engine", cuda_graph_cache_size=3)
    module = built.module(runtime="python", settings=settings)
    assert module.cuda_graphs is not None
    assert module.cuda_graphs.size == 3
    with enable_cudagraphs(module, cache_size=5):
        assert module.cuda_graphs.size == 5
        clone = copy.deepcopy(module)
    assert module.cuda_graphs.size == 3
    assert clone.cuda_graphs is not module.cuda_graphs
    assert clone.cuda_graphs.size == 5
    with pytest.raises(RuntimeUnavailable, match="no GPU"):
        module(torch.ones(2, 4), torch.ones(3))


def test_a_compiled_module_takes_the_settings_of_modes() -> None:
    model = nn.Linear(4, 3).eval()
    x = torch.randn(2, 4)
    compiled = engine.compile(model, [x], min_block_size=1, runtime="interpreter", use_cuda_graphs=True)
    assert compiled.cuda_graphs is None, "the interpreter has none"
    torch.testing.assert_close(compiled(x), model(x))
    with pytest.raises(RuntimeUnavailable, match="interpreted"), enable_cudagraphs(compiled):
        pass
    torch.testing.assert_close(copy.deepcopy(compiled)(x), model(x))


@no_gpu
def test_hooks_of_a_compiled_module_run() -> None:
    model = nn.Linear(4, 3).eval()
    x = torch.randn(2, 4)
    compiled = engine.compile(model, [x], min_block_size=1, runtime="interpreter")
    seen = []
    handle = compiled.register_forward_hook(lambda module, inputs, output: seen.append(output.shape))
    compiled(x)
    handle.remove()
    compiled(x)
    assert seen == [(2, 3)]


def test_hooks_of_an_engine_run(built: Built) -> None:
    module = built.module(runtime="interpreter", program=affine_reference)
    seen = []
    module.register_forward_pre_hook(lambda module, inputs: seen.append(len(inputs)))
    handle = nn.modules.module.register_module_forward_hook(lambda module, inputs, output: seen.append(len(output)))
    module(torch.ones(2, 4), torch.ones(3))
    handle.remove()
    module(torch.ones(2, 4), torch.ones(3))
    assert seen == [2, 2, 2]


def test_an_engine_is_traced_as_one_node(built: Built) -> None:
    module = built.module(runtime="interpreter", program=affine_reference)
    traced = torch.jit.trace(module, (torch.ones(2, 4), torch.ones(3)), check_trace=False)
    assert "engine::execute" in str(traced.graph) or "tensorrt::execute_engine" in str(traced.graph)


# ------------------------------------------------------------------------------------ graphs


def test_calls_without_a_gpu_tensor_run_as_they_are() -> None:
    seen = []

    def run(inputs: list[torch.Tensor]) -> list[torch.Tensor]:
        seen.append(len(inputs))
        return [inputs[0] + 1]

    graphs = GraphCache(run, name="the model", finish=lambda outputs: outputs[0])
    x = torch.ones(2)
    assert graphs.replay_last([x]) is None
    torch.testing.assert_close(graphs([x]), x + 1)
    assert len(graphs) == 0
    assert seen == [1]


def test_what_makes_two_calls_the_same() -> None:
    graphs = GraphCache(list, name="the model")
    x = torch.ones(2, 3)
    assert graphs._key([x, 3], 0) == graphs._key([x.clone(), 3], 0)
    for other in ([x, 4], [x, 3.0], [x, True], [x.half(), 3], [x.t(), 3], [x], [x, 3, 3]):
        assert graphs._key([x, 3], 0) != graphs._key(other, 0)
    if torch.cuda.device_count() != 1:
        assert graphs._key([x], 0) != graphs._key([x], 1)
    shape = torch.tensor([3, 4])
    assert graphs._key([x, shape], 0) == graphs._key([x, shape.clone()], 0)
    assert graphs._key([x, shape], 0) != graphs._key([x, shape + 1], 0)
    assert graphs._key([x, torch.zeros(1000)], 0) is None, "values of large host tensors cannot be compared"


def test_recorded_inputs_know_their_address() -> None:
    x = torch.ones(4)
    buffer = torch.empty(4)
    assert RecordedInput(x, None).address == x.data_ptr()
    assert RecordedInput(x, buffer).address == buffer.data_ptr()


@pytest.mark.parametrize("test", [alike, _alike_slowly])
def test_what_a_graph_takes_without_a_second_look(test: Any) -> None:
    x, y = torch.ones(2, 3), torch.ones(3)
    accepts = test([x, y])
    assert accepts(x, y)
    assert accepts(x.clone(), y + 1)
    for other in (
        x.half(),
        x[:1],
        x.t(),
        torch.ones(3, 2).t(),
        3,
        None,
        x.numpy(),
        torch.nn.Parameter(x),
        x.to("meta"),
    ):
        assert not accepts(other, y)
    assert alike([x, 3]) is None


def test_contexts_of_their_own_are_for_few_shapes() -> None:
    pool = ContextPool(
        lambda: PooledContext(SimpleNamespace(execute_async_v3=None, set_tensor_address=None), 1), 0, 8, 4
    )
    bindings = [ShapeBinding(n, 0, (), ()) for n in range(64)]
    few = [pool._take_turns(0, bindings[i % 3]) for i in range(200)]
    many = [pool._take_turns(1, bindings[i % 64]) for i in range(200)]
    assert sum(few) == 3
    assert not any(many)


# ------------------------------------------------------------------------------------ profiles


INSPECTED = """{"Layers": [{
  "Name": "__myl_FcAddRelu_myl0_0",
  "LayerType": "runtime_fusion",
  "Outputs": [
  {
    "Name": "activation.relu/relu/activation_output.1_myl0",
    "Dimensions": [8,256],
    "Format": "(Linear) Row major linear format"
  }],
  "TacticName": "",
  "StreamId": 0,
  "Metadata": "{"rule": "linear.linear", "where": "prelude.rules:92:33", "node": "linear", "module": "a", "source": \
"m.py:7"}\x1f{"rule": "linear.linear", "where": "prelude.rules:55:20", "node": "linear"}\x1f{"rule": \
"activation.relu", "where": "activation.rules:12:9", "node": "relu", "module": "", "source": "m.py:7"}"
},{
  "Name": "convolution.conv[0]/conv2d_default/convolution_myl0_1",
  "LayerType": "correlation",
  "TacticName": "__myelin_CASK_STUB",
  "Metadata": "{"rule": "convolution.conv[0]", "where": "convolution.rules:6:9", "node": "conv2d_default"}"
},{
  "Name": "__myl_Tran_myl0_2",
  "LayerType": "kgen",
  "Outputs": [],
  "Metadata": ""
}],
"Bindings": ["x","output0"
]}"""


def test_what_the_inspector_says_is_read_though_it_is_no_json() -> None:
    with pytest.raises(ValueError, match="delimiter"):
        json.loads(INSPECTED, strict=False)
    expected = {
        "__myl_FcAddRelu_myl0_0": (("linear.linear", "linear"), ("activation.relu", "relu")),
        "convolution.conv[0]/conv2d_default/convolution_myl0_1": (("convolution.conv[0]", "conv2d_default"),),
        "__myl_Tran_myl0_2": (),
    }
    assert read_origins(INSPECTED) == expected
    proper = {"Layers": [{"Name": "a", "Metadata": '{"rule": "r", "node": "n"}\x1f{"rule": "s", "node": "n"}'}]}
    assert read_origins(json.dumps(proper, indent=2)) == {"a": (("r", "n"), ("s", "n"))}
    assert read_origins('{"Layers": ["a", "b"]}') == {}
    with pytest.warns(UserWarning, match="cannot be read"):
        assert read_origins("damaged") == {}


@pytest.fixture
def profile() -> Profile:
    return Profile(
        [
            LayerTime("engine_0", "FcRelu", 0.25, 10.0, (("linear", "addmm"), ("relu", "relu"))),
            LayerTime("engine_0", "Reformat", 0.5, 10.001),
            LayerTime("engine_1", "Fc", 0.125, 10.002, (("linear", "addmm_1"),)),
            LayerTime("engine_0", "FcRelu", 0.75, 10.003, (("linear", "addmm"), ("relu", "relu"))),
        ]
    )


def test_layers_lead_back_to_rules(profile: Profile) -> None:
    assert [(each.rules, each.nodes) for each in profile.times[:2]] == [
        (("linear", "relu"), ("addmm", "relu")),
        ((), ()),
    ]
    assert profile.by_layer() == {
        ("engine_0", "FcRelu"): (2, 1.0),
        ("engine_0", "Reformat"): (1, 0.5),
        ("engine_1", "Fc"): (1, 0.125),
    }


def test_metadata_of_fused_layers() -> None:
    one = json.dumps({"rule": "linear", "where": "a.rules:3", "node": "addmm", "source": "{x}"})
    two = json.dumps({"rule": "relu", "node": "relu"})
    for joined in (f"{one}\x1e{two}", f"[{one}][{two}]", one + two, f"{{{one} {two}"):
        assert _origins(joined) == (("linear", "addmm"), ("relu", "relu"))
    assert _origins("") == _origins("[ONNX Layer: a]") == _origins('{"other": 1}') == ()


def test_the_table(profile: Profile) -> None:
    lines = profile.table(rows=2).splitlines()
    assert lines[1].split() == ["61.5%", "500.00", "2", "engine_0", "FcRelu:", "linear/addmm,", "relu/relu"]
    assert lines[-2:] == ["... 1 more layers", "4 layer runs, 1.625 ms"]
    assert Profile().table().endswith("\n0 layer runs, 0.000 ms")


def test_the_chrome_trace(profile: Profile, tmp_path: Path) -> None:
    profile.export_chrome_trace(tmp_path / "trace.json")
    assert [path.name for path in tmp_path.iterdir()] == ["trace.json"]
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    spans = [event for event in events if event["ph"] == "X"]
    assert [round(event["ts"]) for event in spans] == [0, 1000, 2000, 3000]
    assert spans[0]["dur"] == 250
    assert spans[0]["args"] == {"rules": ["linear", "relu"], "nodes": ["addmm", "relu"], "engine": "engine_0"}
    assert {event["tid"] for event in spans} == {0, 1}
