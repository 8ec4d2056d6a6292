"""What a file from a stranger cannot do: call what it likes, reach attributes, import, register, or wait."""

import dataclasses
import json
import math
import os
import re
import socket
import subprocess
import sys
import textwrap
from collections import namedtuple
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils import _pytree as pytree

import engine
from engine.errors import EngineError, FileError, SettingsError
from engine.files import containers
from engine.files.graphs import GraphWriter, read_function, read_graph
from engine.files.structures import read_spec
from engine.files.values import read_value
from engine.runtime.size_text import read_relation, read_size, read_symbols
from engine.storage import strict_json
from engine.weights import known_ops
from tests.files.test_bad_files import members, rewrite

OPTIONS = {"runtime": "interpreter", "min_block_size": 1}


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("files") / "model.pt2"
    engine.save(engine.compile(nn.ReLU(), (torch.ones(2, 4),), **OPTIONS), path, program=True)
    return path


def node(name, op, target, *args, **kwargs):
    return {"name": name, "op": op, "target": target, "args": list(args), "kwargs": kwargs}


def graph(*nodes):
    return {"class": "Some", "nodes": [node("x", "placeholder", "x"), *nodes, node("output", "output", "output", [])]}


# ------------------------------------------------------------------------------------------------------- graphs


@pytest.mark.parametrize(
    "name",
    [
        "forward", "to_folder", "print_readable", "add_submodule", "delete_all_unused_submodules", "recompile", "graph",
        "code", "meta", "training", "register_buffer", "load_state_dict", "requires_grad_", "apply", "T_destination",
        "_parameters", "_buffers", "_modules", "_graph", "_code", "_wrapped", "__class__", "__dict__", "__call__",
        "dump_patches", "a.b", "", "lambda", 3, None,
    ],
)  # fmt: skip
@pytest.mark.parametrize("holds", ["graph", "tensor", "engine"])
def test_nothing_in_a_graph_takes_the_name_of_an_attribute(name, holds):
    if holds == "engine":
        made = node("held", "call_module", {"engine": 0, "as": name}, {"node": "x"})
    else:
        made = node("held", "get_attr", {holds: graph() if holds == "graph" else 0, "as": name})
    with pytest.raises(FileError):
        read_graph(graph(made), {0: torch.ones(1)}, {0: nn.Identity()})


def test_what_a_graph_holds_is_what_the_file_says():
    tensor = torch.ones(3)
    for name in ("_tensor_constant0", "_lifted_tensor_constant1", "constant_weight", "held"):
        call = node("y", "call_function", "torch.ops.aten.add.Tensor", {"node": "x"}, {"node": "c"})
        data = graph(node("c", "get_attr", {"tensor": 0, "as": name}), call)
        data["nodes"][-1]["args"] = [[{"node": "y"}]]
        module = read_graph(data, {0: tensor}, {})
        assert getattr(module, name) is tensor
        assert torch.equal(module(torch.ones(3))[0], torch.full((3,), 2.0))


@pytest.mark.parametrize("name", ["torch", "device", "inf", "nan", "pytree", "fx_pytree", "print", "max", "slice"])
def test_inputs_do_not_hide_what_the_code_of_a_graph_uses(name):
    relu = node("y", "call_function", "torch.ops.aten.relu.default", {"node": "x"})
    data = graph(relu)
    data["nodes"][0]["target"] = name
    data["nodes"][-1]["args"] = [[{"node": "y"}]]
    assert torch.equal(read_graph(data, {}, {})(torch.full((2,), -1.0))[0], torch.zeros(2))
    data = json.loads(
        json.dumps(data).replace('"node": "x"', f'"node": "{name}"').replace('"name": "x"', f'"name": "{name}"')
    )
    with pytest.raises(FileError):
        read_graph(data, {}, {})


@pytest.mark.parametrize(
    ("nodes", "match"),
    [
        ([node("y", "call_function", "torch.ops.higher_order.cond", {"node": "x"}, 1, 2, [])], "without a graph"),
        ([node("y", "call_function", "torch.ops.higher_order.map_impl", {"node": "x"}, [], [])], "without a graph"),
        ([node("y", "call_function", "torch.ops.higher_order.while_loop")], "without a graph"),
        ([node("y", "call_function", "torch.ops.aten.relu.default", {"node": "g"})], "does not run graphs"),
        ([node("y", "call_function", "operator.getitem", {"node": "g"}, 0)], "does not run graphs"),
        ([node("y", "call_function", "builtins.max", 1, 2, key={"node": "g"})], "does not run graphs"),
        ([node("y", "call_module", {"engine": 0, "as": "engine_0"}, [{"node": "g"}])], "does not run graphs"),
        ([node("y", "placeholder", "y", {"node": "x"})], "with arguments"),
        ([node("y", "call_module", {"engine": 0, "as": "engine_0"}, other={"node": "x"})], "with keywords"),
        ([node("y", "call_module", {"engine": True, "as": "engine_0"})], "is not the number"),
        ([node("y", "call_method", "numpy", {"node": "x"})], "of kind 'call_method'"),
        ([node("output", "output", "output", [])], "of kind|end with"),
    ],
)  # fmt: skip
def test_graphs_are_for_the_ops_that_run_them(nodes, match):
    held = node("g", "get_attr", {"graph": graph(), "as": "graph_0"})
    with pytest.raises(FileError, match=match):
        read_graph(graph(held, *nodes), {}, {0: nn.Identity()})


def test_graphs_write_to_inputs_and_to_what_the_file_holds():
    held = node("c", "get_attr", {"tensor": 0, "as": "state"})
    half = node("h", "call_function", "torch.ops.aten.mul.Tensor", {"node": "x"}, 0.5)
    view = node("v", "call_function", "torch.ops.aten.select.int", {"node": "x"}, 0, 0)

    def write(*arguments, **named):
        return node("w", "call_function", "write", *arguments, **named)

    tensor, x = torch.ones(3), torch.ones(3)
    read_graph(graph(held, half, write({"node": "c"}, {"node": "h"})), {0: tensor}, {})(x)
    assert torch.equal(tensor, torch.full((3,), 0.5))
    read_graph(graph(half, write({"node": "x"}, {"node": "h"})), {}, {})(x)
    assert torch.equal(x, torch.full((3,), 0.5))
    inner = node("g", "get_attr", {"graph": graph(half, write({"node": "x"}, {"node": "h"})), "as": "body"})
    for nodes in (
        [view, write({"node": "v"}, 1.0)],
        [half, write({"node": "h"}, {"node": "x"})],
        [half, write({"node": "x"}, {"node": "h"}, True)],
        [half, write({"node": "x"}, src={"node": "h"})],
        [write(1.0, {"node": "x"})],
        [inner],
    ):
        with pytest.raises(FileError, match="writes to something"):
            read_graph(graph(*nodes), {}, {})
    for name in ("torch.ops.aten.copy_.default", "torch.ops.aten.add_.Tensor"):
        with pytest.raises(FileError, match="writes to its arguments"):
            read_graph(graph(node("w", "call_function", name, {"node": "x"}, {"node": "x"})), {}, {})


@pytest.mark.parametrize(
    "states",
    [{}, [1], [["a", "nothing", True]], [["a", "state_hidden", 1]], [["a", "state_hidden", True, 0]],
     [["a", "state_hidden", True], ["b", "state_hidden", True]], [["a", "graph", True]]],
)  # fmt: skip
def test_damaged_states(states, tmp_path):
    class Counts(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("hidden", torch.zeros(3))

        def forward(self, x):
            self.hidden.add_(torch.special.erfcx(x))
            return self.hidden * 1

    engine.save(engine.compile(Counts(), (torch.ones(3),), runtime="interpreter"), tmp_path / "x.pt2")
    assert list(engine.load(tmp_path / "x.pt2").states) == ["hidden"]
    manifest, _ = members(tmp_path / "x.pt2")
    assert manifest["states"] == [["hidden", "state_hidden", True]]
    with pytest.raises(FileError):
        engine.load(rewrite(tmp_path / "x.pt2", tmp_path / "y.pt2", states=states))


def test_no_op_that_files_may_call_does_more_than_compute():
    """Of all ops in this process, those of PyTorch's own namespaces for other purposes included."""
    import torch._higher_order_ops  # registers those that take graphs

    taken, namespaces = 0, set()
    for full in torch._C._dispatch_get_all_op_names():
        namespace, _, rest = full.partition("::")
        name, _, overload = rest.partition(".")
        try:
            op = read_function(f"torch.ops.{namespace}.{name}.{overload or 'default'}")
        except FileError:
            continue
        taken += 1
        namespaces.add(namespace)
        schema = op._schema
        assert not schema.is_mutable, full
        assert not re.search(r"Storage|Stream|Future|torch.classes|Any\b", str(schema)), full
        assert schema.returns or "assert" in name or "constrain" in name, full
    assert taken > 900
    assert namespaces <= known_ops._NAMES.keys()
    found = {name for name in torch._ops._higher_order_ops if _is_taken(f"torch.ops.higher_order.{name}")}
    assert found == {"associative_scan", "cond", "map_impl", "scan", "while_loop"}


def _is_taken(name):
    try:
        read_function(name)
    except FileError:
        return False
    return True


# They look at how memory lies, or take places in it: a model that has one needs `allow_ops`.
_LEFT_OUT = {
    "aten._sparse_mm", "aten.embedding_dense_backward", "aten.max_pool2d_with_indices_backward", "aten.resize_",
    "aten.resize_as", "aten.to_sparse",
}  # fmt: skip


def test_what_pytorch_runs_of_compiled_models_is_on_the_list():
    """Every ATen op that is in a graph of the operator database, of the lists of real models and of the core set."""
    from engine.verify.core import core_overloads

    tests = Path(__file__).parents[1]
    entries = json.loads((tests / "op_db" / "outcomes.json").read_text())["entries"].values()
    lines = (tests / "rules" / "model_ops.txt").read_text().splitlines()
    names = {op for entry in entries for op in entry["ops"]} | set(core_overloads())
    names |= {f"aten.{line.split()[0]}" for line in lines if not line.startswith("#")}
    packets = {".".join(name.split(".")[:2]) for name in names if name.startswith("aten.")}
    packets = {packet for packet in packets if hasattr(torch.ops.aten, packet.split(".")[1])}
    assert len(packets) > 500
    assert {packet for packet in packets if packet.split(".")[1] not in known_ops._NAMES["aten"]} == _LEFT_OUT


@pytest.mark.parametrize(
    "name",
    [
        "aten.set_.source_Tensor", "aten.resize_.default", "aten.record_stream.default", "aten.from_file.default",
        "aten.fbgemm_linear_fp16_weight.default", "aten._cudnn_rnn.default", "aten._nested_view_from_buffer.default",
        "aten.quantized_lstm.input", "aten._version.default", "aten.data.default", "aten.retain_grad.default",
        "prims.device_put.default", "c10d.send.default", "quantized.linear.default", "mkldnn._linear_pointwise.default",
        "profiler._record_function_enter.default", "static_runtime.dict_unpack.default",
        "tensorrt.execute_engine.default", "engine.execute.default",
        "higher_order.wrap", "higher_order.auto_functionalized", "higher_order.__class__",
        "aten.relu", "aten", "aten.relu.default.x", "aten.relu.__class__", "aten.relu.overloads",
    ],
)  # fmt: skip
def test_other_ops_are_refused(name):
    with pytest.raises(FileError):
        read_function(f"torch.ops.{name}")


def test_names_of_ops_leave_nothing_behind():
    before = set(vars(torch.ops)), set(sys.modules)
    with pytest.raises(FileError, match=r"allow_ops=\['not_there\.op\.default'\]"):
        read_function("torch.ops.not_there.op.default")
    with pytest.raises(FileError, match="does not have"):
        read_function("torch.ops.not_there.op.default", frozenset({"not_there"}))
    assert (set(vars(torch.ops)), set(sys.modules)) == before


# --------------------------------------------------------------------------------------------------- custom ops

CALLED = []


@torch.library.custom_op("tests_strangers::double", mutates_args=())
def double(x: torch.Tensor) -> torch.Tensor:
    CALLED.append(x)
    return x * 2


double.register_fake(lambda x: torch.empty_like(x))


def test_custom_ops_are_for_the_user_to_allow(tmp_path):
    class Model(nn.Module):
        def forward(self, x):
            return torch.ops.tests_strangers.double(x).relu()

    x = torch.randn(3, 4)
    engine.save(engine.compile(Model(), (x,), **OPTIONS), tmp_path / "x.pt2", program=True)
    CALLED.clear()
    with pytest.raises(FileError, match=r"x\.pt2: .*allow_ops=\['tests_strangers\.double\.default'\]"):
        engine.load(tmp_path / "x.pt2", runtime="interpreter")
    op = torch.ops.tests_strangers.double
    for allowed in (
        ["tests_strangers.double"], ["tests_strangers.double.default"], ["torch.ops.tests_strangers.double"],
        "tests_strangers", [op], [op.default], op, ["tests_strangers::double"],
    ):  # fmt: skip
        loaded = engine.load(tmp_path / "x.pt2", runtime="interpreter", allow_ops=allowed)
        assert torch.equal(loaded(x), (x * 2).relu())
    for allowed in (["tests_strangers.other"], ["aten.relu"], ["tests_strangers.double.other"]):
        with pytest.raises(FileError):
            engine.load(tmp_path / "x.pt2", runtime="interpreter", allow_ops=allowed)
    for wrong in (["aten"], ["higher_order"], [3], [""], ["a b"], ["a.b.c.d"], [print]):
        with pytest.raises(SettingsError, match="allow_ops"):
            engine.load(tmp_path / "x.pt2", allow_ops=wrong)
    assert len(CALLED) == 8


def test_saving_tells_which_ops_a_load_has_to_allow(tmp_path, caplog):
    class Model(nn.Module):
        def forward(self, x):
            return torch.ops.tests_strangers.double(x)

    module = engine.compile(Model(), (torch.ones(3),), **OPTIONS)
    with caplog.at_level("WARNING"):
        engine.save(module, tmp_path / "x.pt2", program=True)
    assert "allow_ops=['tests_strangers.double.default']" in caplog.text


@pytest.mark.parametrize("kind", ["cond", "nested", "while_loop", "scan", "map"])
def test_graphs_inside_ops_survive_a_file(tmp_path, kind):
    """Written as lambdas, whose names are none, and run by PyTorch, because `erfcx` has no rule."""
    from torch._higher_order_ops.map import map as mapped
    from torch._higher_order_ops.scan import scan
    from torch._higher_order_ops.while_loop import while_loop

    erfcx = torch.special.erfcx
    bodies = {
        "cond": lambda s, x: torch.cond(x.sum() > 0, lambda y: erfcx(s.linear(y)), lambda y: y * 2, (x,)),
        "nested": lambda s, x: torch.cond(
            x.sum() > 0,
            lambda y: torch.cond(y.sum() > 9, lambda z: erfcx(z), lambda z: s.linear(z), (y,)),
            lambda y: erfcx(y),
            (x,),
        ),
        "while_loop": lambda s, x: while_loop(
            lambda i, y: i < 3, lambda i, y: (i + 1, erfcx(s.linear(y))), (torch.tensor(0), x)
        ),
        "scan": lambda s, x: scan(lambda c, row: (erfcx(c + row), c * erfcx(row)), x[0] * 0, x),
        "map": lambda s, x: mapped(lambda row: erfcx(row) + 1, x),
    }

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(4, 4)

        def forward(self, x):
            return bodies[kind](self, x)

    x = torch.rand(4, 4)
    compiled = engine.compile(Model().eval(), (x,), **OPTIONS)
    engine.save(compiled, tmp_path / "a.pt2", program=True)
    loaded = engine.load(tmp_path / "a.pt2", runtime="interpreter")
    for found, expected in zip(pytree.tree_leaves(loaded(x)), pytree.tree_leaves(compiled(x)), strict=True):
        assert torch.equal(found, expected)
    engine.save(loaded, tmp_path / "b.pt2", program=True)
    assert (tmp_path / "a.pt2").read_bytes() == (tmp_path / "b.pt2").read_bytes()


def test_names_that_a_file_may_not_have_are_written_as_others():
    inner = torch.fx.Graph()
    weight = inner.get_attr("part.weight")
    inner.output((inner.call_function(torch.ops.aten.add.Tensor, (weight, inner.get_attr("_code2"))),))
    root = nn.Module()
    root.part = nn.Module()
    root.part.register_buffer("weight", torch.ones(2))
    root.register_buffer("_code2", torch.ones(2))
    writer = GraphWriter()
    data = writer.write(torch.fx.GraphModule(root, inner))
    again = read_graph(json.loads(json.dumps(data)), dict(enumerate(writer.tensors)), {})
    assert torch.equal(again()[0], torch.full((2,), 2.0))


# --------------------------------------------------------------------------------------------------- containers


def with_signature(path, target, **changes):
    signature = json.loads(members(path)[1]["extra/signature.json"])
    return rewrite(path, target, {"extra/signature.json": json.dumps({**signature, **changes}).encode()})


@dataclasses.dataclass
class Ledger:
    value: object = None

    def __post_init__(self):
        CALLED.append(self)


class Eager(tuple):
    _fields = ("left", "right")

    def __new__(cls, *values):
        CALLED.append(cls)
        return super().__new__(cls, values)


Plain = namedtuple("Plain", "left right")


@pytest.mark.parametrize("damaged", [True, False])
def test_a_file_registers_no_class(path, tmp_path, damaged):
    CALLED.clear()
    name = f"{__name__}.Ledger"
    spec = {"type": name, "context": [["value"], []], "children": 3 if damaged else [None]}
    with pytest.raises(FileError, match=r"x\.pt2"):
        engine.load(with_signature(path, tmp_path / "x.pt2", out=spec), runtime="interpreter")
    assert Ledger not in pytree.SUPPORTED_NODES
    assert not CALLED


def test_named_tuples_that_run_code_are_refused(path, tmp_path):
    spec = {"type": "collections.namedtuple", "context": {"class": f"{__name__}.Eager"}, "children": [None, None]}
    with pytest.raises(FileError, match="a named tuple is expected"):
        read_spec(spec)
    spec["context"] = {"class": f"{__name__}.Plain"}
    assert pytree.tree_unflatten([1, 2], read_spec(spec)) == Plain(1, 2)
    spec["children"] = [None]
    with pytest.raises(FileError):
        read_spec(spec)
    assert not CALLED


@pytest.mark.parametrize("name", ["{0}.Result", "{0}.__main__.Result", "{0}.lazy.Result", "{0}.inner.Result"])
def test_a_file_imports_no_module(path, tmp_path, monkeypatch, name):
    """A package whose modules note that they run; one of them would import more when it is asked for a name."""
    package = tmp_path / "noted_package"
    package.mkdir()
    note = "import builtins; builtins.noted = True; raise SystemExit(3)\n"
    for file in ("__main__.py", "inner.py"):
        (package / file).write_text(note)
    (package / "__init__.py").write_text("def __getattr__(name):\n    from noted_package import inner\n")
    monkeypatch.syspath_prepend(tmp_path)
    import noted_package

    before = set(sys.modules)
    spec = {"type": name.format(noted_package.__name__), "context": None, "children": []}
    with pytest.raises(FileError, match="import noted_package"):
        engine.load(with_signature(path, tmp_path / "x.pt2", out=spec), runtime="interpreter")
    import builtins

    assert not hasattr(builtins, "noted")
    assert set(sys.modules) == before


@pytest.mark.parametrize(
    "name",
    ["torch.utils.model_dump.__main__.X", "transformers.__main__.X", "transformers.commands.train.X",
     "torchvision.models._api.X", "transformers.modeling_outputs.NoSuchOutput", "diffusers.models.nothing.Output",
     "transformers.models.bert.modeling_bert.os"],
)  # fmt: skip
def test_libraries_are_imported_for_classes_of_results_alone(name):
    before = set(sys.modules)
    with pytest.raises(FileError):
        read_spec({"type": name, "context": None, "children": []})
    assert set(sys.modules) == before


def test_names_of_dtypes_import_no_part_of_pytorch():
    code = """
        import sys, torch, engine.files
        from engine.files.values import read_value
        from engine.weights.recipe_encoding import decode, decode_tensor
        from engine.refitting.weight_map import WeightPlan
        lazy = [name for name in ("_inductor", "onnx", "_dynamo", "_export") if f"torch.{name}" not in sys.modules]
        before = set(sys.modules)
        assert lazy
        for name in lazy:
            step = {"steps": [], "result": {"dtype": name}, "literals": {}}
            tensor = {"dtype": name, "shape": [], "data": ""}
            for read, data in ((read_value, {"dtype": name}), (decode, step), (decode_tensor, tensor),
                               (WeightPlan.from_json, {"state": {"x": [[1], name]}})):
                try:
                    read(data)
                except ValueError:
                    continue
                raise AssertionError(read)
        assert set(sys.modules) == before, set(sys.modules) - before
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True)


@pytest.mark.parametrize(
    ("kind", "context", "children"),
    [
        ("builtins.dict", ["a"], 2), ("builtins.dict", ["a", "a"], 2), ("builtins.dict", [[1]], 1),
        ("builtins.dict", None, 0), ("builtins.list", 3, 1), ("builtins.tuple", {"class": "builtins.int"}, 1),
        ("collections.deque", "x", 1), ("collections.deque", -1, 1), ("collections.OrderedDict", ["a"], 0),
        ("collections.defaultdict", [{"class": "os._wrap_close"}, ["a"]], 1), ("collections.defaultdict", [], 0),
        ("builtins.set", None, 1), ("builtins.int", None, 0), ("collections.Counter", ["a"], 1),
    ],
)  # fmt: skip
def test_contexts_of_built_in_containers(kind, context, children):
    with pytest.raises(FileError):
        read_spec({"type": kind, "context": context, "children": [None] * children})


def test_built_in_containers():
    import collections

    values = [
        {"a": 1, 3: [2]}, (1, [2, (3,)]), collections.OrderedDict(b=1, a=2), collections.deque([1, 2], maxlen=3),
        collections.defaultdict(list, a=[1]), Plain([1], {}), [], {},
    ]  # fmt: skip
    from engine.files.structures import write_spec

    for value in values:
        leaves, spec = pytree.tree_flatten(value)
        again = read_spec(strict_json.parse(json.dumps(write_spec(spec)).encode()))
        assert again == spec
        assert pytree.tree_unflatten(leaves, again) == value
    assert containers.class_in_context("builtins.int") is int


# ------------------------------------------------------------------------------------------- files and their text


def special_files(folder):
    (folder / "a_folder").mkdir()
    os.mkfifo(folder / "a_pipe")
    held = socket.socket(socket.AF_UNIX)
    held.bind(str(folder / "a_socket"))
    (folder / "a_device").symlink_to("/dev/zero")
    return held, ["a_folder", "a_pipe", "a_socket", "a_device"]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such files")
def test_only_regular_files_are_read(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # paths of sockets are short
    held, names = special_files(Path())
    for name in names:
        for suffix in (".pt2", ".plan"):
            target = Path(f"other_{name}{suffix}")
            target.symlink_to(name)
            for read in (engine.load, engine.files.inspect):
                with pytest.raises(FileError, match=f"other_{name}{suffix} is a"):
                    read(target)
        plan = Path(f"{name}_.plan")
        plan.write_bytes(b"plan")
        plan.with_suffix(".json").symlink_to(name)
        for read in (engine.load, engine.files.inspect):
            with pytest.raises(FileError, match=rf"{name}_\.json is a"):
                read(plan)
    held.close()
    with pytest.raises(FileNotFoundError):
        engine.load("nothing.pt2")
    with pytest.raises(FileError):
        engine.load("with\0zero.pt2")


@pytest.mark.parametrize(
    "text",
    [
        b'{"a": Infinity}', b'{"a": -Infinity}', b"[NaN]", b"1e999", b'{"a": 1, "a": 2}', b'{"x": {"b": 1, "b": 1}}',
        b"[" * 300 + b"]" * 300, b"[" * 100_000, b'{"a":' * 250 + b"1" + b"}" * 250, b"9" * 5000, b'"\xff"', b"",
        b'"\\ud800"', '{"a": 1}'.encode("utf-16"), b"\xef\xbb\xbf1", b"[1,]", b"1 2", b"{'a': 1}",
    ],
)  # fmt: skip
def test_what_is_no_json(text):
    with pytest.raises(ValueError):
        strict_json.parse(text)


def test_what_is_json():
    value = {"a": [1, -2.5, 2**80, None, True, "é \U0001f600", {"": {}}], "b": 1e-300}
    assert strict_json.parse(json.dumps(value).encode()) == value
    assert strict_json.parse(json.dumps(value, ensure_ascii=False).encode()) == value
    deep = json.loads("[" * 150 + "]" * 150)
    assert strict_json.parse(json.dumps(deep).encode()) == deep


@pytest.mark.parametrize("key", ["engines", "tensors", "format", "programs"])
def test_a_manifest_without_something(path, tmp_path, key):
    from engine.files.archive import Writer
    from engine.storage.whole_file import replacing

    manifest, content = members(path)
    manifest.pop("members")
    del manifest[key]
    with replacing(tmp_path / "x.pt2") as file, Writer(file) as writer:
        for name, data in content.items():
            writer.add_bytes(name, data)
        writer.finish(manifest)
    for read in (engine.load, engine.files.inspect):
        if (read, key) == (engine.files.inspect, "programs"):
            continue
        with pytest.raises(FileError, match=r"x\.pt2"):
            read(tmp_path / "x.pt2")


@pytest.mark.parametrize(
    ("member", "change"),
    [
        ("extra/signature.json", {"ranges": [["s0", 1, 2]], "symbols": {"s0": {}}}),
        ("extra/signature.json", {"ranges": [["s0", 1.5, 2, 3]], "symbols": {"s0": {}}}),
        ("extra/signature.json", {"symbols": {"s0": {"positive": True, "integer": "x", "evil": 1}}}),
        ("extra/signature.json", {"arguments": []}),
        ("extra/signature.json", {"arguments": [{"name": 3}]}),
        ("extra/signature.json", {"in": None}),
        ("extra/signature.json", {"out": {"type": "builtins.list", "context": None, "children": [None, None]}}),
        ("extra/program_0.json", {"outputs": [0.5]}),
        ("extra/program_0.json", {"block": None}),
        ("extra/report.json", {"coverage": "x"}),
        ("extra/report.json", {"timings": {"phases": [["build", "x"]]}}),
        ("extra/weights.json", {"plan": 3, "blueprints": []}),
        ("extra/weights.json", {"blueprints": [1] * 9}),
    ],
)  # fmt: skip
def test_damaged_members_are_errors_with_the_path(path, tmp_path, member, change):
    data = json.loads(members(path)[1][member]) or {}
    bad = rewrite(path, tmp_path / "x.pt2", {member: json.dumps({**data, **change}).encode()})
    with pytest.raises(FileError, match=r"x\.pt2"):
        engine.load(bad, runtime="interpreter")


def test_errors_of_machines_name_the_file_too(path, tmp_path):
    module = engine.load(path, runtime="interpreter")
    engine.save(module, tmp_path / "bare.pt2")
    with pytest.raises(engine.errors.RuntimeUnavailable, match=r"bare\.pt2: .*program=True"):
        engine.load(tmp_path / "bare.pt2", runtime="interpreter")


@pytest.mark.parametrize(
    "text",
    [
        "LShift(1, 99999999999)", "LShift(s0, 99999999999)", "PowByNatural(10, 9999999999)", "FloatPow(10.0, 1e9)",
        "1e999", "9" * 90, "9999999999999*9999999999999", "(" * 120 + "s0" + "+1)" * 120, "+".join(["s0"] * 3000),
        "-" * 3000 + "s0", "s0**999999", "2**s0", "s0.is_integer", "exec(s0)", "[s0]", "s1", "s0 if s0 else s0",
    ],
)  # fmt: skip
def test_sizes_that_would_take_time_or_memory(text):
    symbols = read_symbols({"s0": {"integer": True, "positive": True}})
    for read in (read_size, read_relation):
        with pytest.raises(FileError):
            read(text, symbols)
    with pytest.raises(FileError):
        read_size(2**70, symbols)


def test_sizes_of_deep_models_are_read():
    symbols = read_symbols({"s0": {"integer": True, "positive": True}})
    text = "s0"
    for _ in range(20):
        text = f"FloorDiv({text} - 1, 2) + 1"
    size = read_size(text, symbols)
    assert [int(size.subs(symbols["s0"], value)) for value in (1 << 20, 1 << 21)] == [1, 2]


@pytest.mark.parametrize(
    "call",
    [
        ["__class__", [], None, [], "x", ""], ["add_input", 3, None, [], "x", ""],
        ["add_identity", [], None, [[True, "__init__", []]], "x", ""],
        ["add_identity", [], None, [[True, "reset", []]], "x", ""],
        ["add_identity", [], None, [[False, "__class__", 3]], "x", ""],
        ["add_identity", [], None, [[False, "a.b", 3]], "x", ""], ["add_.x", [], None, [], "x", ""],
        ["add_identity", [], None, [], 3, ""], [], "add_input", None,
    ],
)  # fmt: skip
def test_blueprints_tell_layers_nothing_but_settings(call):
    from engine.builder.blueprint import Blueprint

    with pytest.raises(FileError):
        Blueprint.from_json({"name": "x", "calls": [call], "profiles": [], "held": []})


def test_numbers_and_devices_of_other_types():
    for value in ({"device": 0}, {"device": None}, {"complex": [10**390, 0]}, {"range": [{}, 1]}, {"dict": [[[], 1]]}):
        with pytest.raises(FileError):
            read_value(value)
    assert math.isinf(read_value({"float": "inf"}))
    assert issubclass(FileError, EngineError)
