"""Forms of one computation against each other: what each fusion of the rules is worth, in milliseconds per call.

    python -m benchmarks.forms [--dtype float16] [--only attention,rotary] [--small]

Every line is one module, compiled once as the rules write it and once otherwise: without the fusion, or with a rule
that is not built in.  Without a GPU both are built and compared with eager, and not timed.
"""

from __future__ import annotations

import argparse
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

import engine
from benchmarks.models import _latency
from engine.dsl.source import builtin_sources
from engine.rules import RuleSet

# What TensorRT's layer for rotary embeddings asks for: caches of half the head size, one row per batch.
_ROTARY = """
def half_angles(c, b, n) = expand_to(trt.shuffle(trt.slice(c, start=[0], shape=[n], stride=[1], axes=[3]), reshape=[dim(c, 0), dim(c, 2), n]), [b, dim(c, 2), n])

convert rotary "Rotary embedding by its layer, where both halves of the angles are known to be equal."
  match aten.add.Tensor{aten.mul.Tensor{x: floating[_, _, _, D], c: floating[_, 1, _, D]}, aten.mul.Tensor{aten.cat([aten.neg(aten.slice.Tensor(x, 3, h, _, 1)), aten.slice.Tensor(x, 3, 0, h, 1)], 3), s: floating[_, 1, _, D]}}
  when  h + h == D
  emit  trt.rotary_embedding(x, half_angles(c, dim(x, 0), h), half_angles(s, dim(x, 0), h))
  over  arithmetic.add
"""  # noqa: E501

_UNGUARDED = """
convert unguarded "Attention that does not look for queries without any key."
  match aten.scaled_dot_product_attention(q: f32|f16|bf16[_, _, _, D], k: f32|f16|bf16[_, _, _, D], v: f32|f16|bf16[_, _, _, D], mask: tensor, 0.0, false, scale=s, enable_gqa=_)
  let   x = product(q, full(1.0 / sqrt(D) if s is none else s, q))
  emit  trt.attention(x, k, v, lift(mask, 4), norm_op=SOFTMAX, causal=false, decomposable=true)
"""  # noqa: E501


class Written(nn.Module):
    """Attention as transformers writes it with ``attn_implementation="eager"``."""

    def __init__(self, groups: int = 1) -> None:
        super().__init__()
        self.groups = groups

    def forward(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        if self.groups > 1:
            k, v = self.repeated(k), self.repeated(v)
        scores = q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5
        if mask is not None:
            scores = scores + mask
        return torch.softmax(scores, -1, dtype=torch.float32).to(q.dtype) @ v

    def repeated(self, x: torch.Tensor) -> torch.Tensor:
        b, g, s, d = x.shape
        return x[:, :, None].expand(b, g, self.groups, s, d).reshape(b, g * self.groups, s, d)


class Grouped(Written):
    def forward(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        k, v = self.repeated(k), self.repeated(v)
        return nn.functional.scaled_dot_product_attention(q, k, v, mask)


class Masked(nn.Module):
    def forward(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        allowed = torch.arange(k.shape[2], device=k.device) < lengths[:, None, None, None]
        return nn.functional.scaled_dot_product_attention(q, k, v, allowed.expand(-1, 1, q.shape[2], -1))


class Rotary(nn.Module):
    def __init__(self, length: int, size: int) -> None:
        super().__init__()
        angles = torch.outer(torch.arange(length), 10000 ** (-torch.arange(0, size, 2) / size))
        angles = torch.cat([angles, angles], -1)[None, None]
        self.register_buffer("cos", angles.cos())
        self.register_buffer("sin", angles.sin())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first, second = x.chunk(2, -1)
        return x * self.cos + torch.cat([-second, first], -1) * self.sin


class LayerNorm(nn.Module):
    def __init__(self, size: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(size)), nn.Parameter(torch.randn(size))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mean = x.mean(-1, keepdim=True)
        variance = (x - mean).pow(2).mean(-1, keepdim=True)
        return (x - mean) / torch.sqrt(variance + 1e-5) * self.weight + self.bias


class Gelu(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 0.5 * x * (1.0 + torch.tanh(0.7978845608 * (x + 0.044715 * torch.pow(x, 3.0))))


class Projections(nn.Module):
    """Query, key and value of one input, and what an attention would do with them."""

    def __init__(self, size: int, joined: bool) -> None:
        super().__init__()
        self.size, self.joined = size, joined
        self.layers = nn.ModuleList([nn.Linear(size, size) for _ in range(3)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.joined:
            weight = torch.cat([layer.weight for layer in self.layers])
            bias = torch.cat([layer.bias for layer in self.layers])
            q, k, v = nn.functional.linear(x, weight, bias).split(self.size, -1)
        else:
            q, k, v = (layer(x) for layer in self.layers)
        b, n, _ = x.shape
        q, k, v = (t.reshape(b, n, -1, 64).transpose(1, 2) for t in (q, k, v))
        return nn.functional.scaled_dot_product_attention(q, k, v)


class Form(NamedTuple):
    """A computation in two forms, ``(module, rules)`` each, and its inputs."""

    name: str
    inputs: tuple[Any, ...]
    fused: tuple[nn.Module, RuleSet | None]
    other: tuple[nn.Module, RuleSet | None]
    what: str


def without(folder: Path, *names: str) -> RuleSet:
    """The built-in rules but for some, ``file.name`` each (a file that exists twice counts as one)."""
    place = folder / "-".join(names)
    for source in builtin_sources():
        text = source.text
        for name in names:
            stem, _, rule = name.partition(".")
            if source.stem == stem:
                text = re.sub(rf"(?ms)^(simplify|lower|convert) {rule}\b.*?(?=^\S|\Z)", "", text)
        text = re.sub(r"(?m)^  over  (.*)\n", partial(_over, {name.partition(".")[2] for name in names}), text)
        target = place / Path(source.path).parent.name / Path(source.path).name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
    return RuleSet.load(place, builtin=False)


def _over(gone: set[str], line: re.Match[str]) -> str:
    rules = [rule for rule in line[1].split(", ") if rule.split(".")[-1] not in gone]
    return f"  over  {', '.join(rules)}\n" if rules else ""


def forms(folder: Path, small: bool) -> list[Form]:
    def heads(b: int, h: int, s: int, d: int) -> torch.Tensor:
        return torch.randn((2, min(h, 4), 16, 16) if small else (b, h, s, d))

    written = [f"attention.written{kind}" for kind in ("", "_scaled", "_masked", "_biased_and_masked",
                                                       "_scaled_and_masked", "_divided_and_masked")]  # fmt: skip
    plain = without(folder, *written)
    q, g = heads(8, 32, 512, 64), heads(8, 8, 512, 64)
    if small:
        g = g[:, :2]
    bert, vit = heads(8, 12, 512, 64), heads(8, 12, 197, 64)
    length = bert.shape[2]
    padding = torch.zeros(bert.shape[0], 1, length, length)
    padding[:, :, :, length // 2 :] = -1e4
    bias = torch.randn(1, bert.shape[1], length, length)
    lengths = torch.full((bert.shape[0],), length // 2)
    wide = torch.randn(*((2, 16, 64) if small else (8, 512, 768)))
    size = wide.shape[-1]
    projections = Projections(size, joined=False)
    joined = Projections(size, joined=True)
    joined.load_state_dict(projections.state_dict())
    norm, rotary, gelu = LayerNorm(size), Rotary(q.shape[2], q.shape[3]), Gelu()
    norms = without(folder, "normalization.layer_norm_divided")
    gelus = without(folder, "activation.gelu_tanh", "activation.gelu_tanh_cubed")
    group = q.shape[1] // g.shape[1]
    return [
        Form("attention", (vit, vit, vit, None), (Written(), None), (Written(), plain), "matmul, softmax, matmul"),
        Form("attention+mask", (bert, bert, bert, padding), (Written(), None), (Written(), plain), "the same, masked"),
        Form("attention+bias", (bert, bert, bert, bias), (Written(), None), (Written(), plain), "the same, a bias"),
        Form("grouped", (q, g, g, None), (Grouped(group), None), (Grouped(group), without(folder, "attention.grouped")),
             "keys repeated"),
        Form("empty rows", (bert, bert, bert, lengths), (Masked(), None),
             (Masked(), RuleSet.from_text(_UNGUARDED, builtin=True)), "no look for empty rows"),
        Form("layer norm", (wide,), (norm, None), (norm, norms), "mean, square, root"),
        Form("gelu", (wide,), (gelu, None), (gelu, gelus), "powers and tanh"),
        Form("rotary", (q,), (rotary, RuleSet.from_text(_ROTARY, builtin=True)), (rotary, None),
             "slices and cat (built in)"),
        Form("projections", (wide,), (joined, None), (projections, None), "three products (built in)"),
    ]  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    gpu = torch.cuda.is_available()
    parser.add_argument("--dtype", default="float16")
    parser.add_argument("--only", default="")
    parser.add_argument("--small", action="store_true", help="sizes for a trial")
    options = parser.parse_args()
    torch.manual_seed(0)
    folder = Path(tempfile.mkdtemp(prefix="forms-"))
    print(f"{'form':16} {'fused ms':>9} {'other ms':>9} {'other/fused':>11} {'error':>8} {'error':>8}  other")
    try:
        for form in forms(folder, options.small):
            if options.only and form.name not in options.only.split(","):
                continue
            print(_line(form, getattr(torch, options.dtype), "cuda" if gpu else "cpu"), flush=True)
    finally:
        shutil.rmtree(folder)
    return 0


def _line(form: Form, dtype: torch.dtype, device: str) -> str:
    times: list[float] = []
    errors: list[str] = []
    for module, rules in (form.fused, form.other):
        model = module.eval().to(device, dtype)
        inputs = tuple(_moved(value, device, dtype) for value in form.inputs)
        try:
            compiled = engine.compile(model, inputs, rules=() if rules is None else [rules])
            with torch.no_grad():
                expected, actual = model(*inputs).float(), compiled(*inputs).float()
                errors.append(f"{((actual - expected).abs().max() / expected.abs().max()).item():8.1e}")
                times.append(_latency(_call(compiled, inputs), 100) if device == "cuda" else float("nan"))
        except engine.EngineError as error:
            times.append(float("nan"))
            errors.append(f"{type(error).__name__}: {str(error)[:80]}")
    return (f"{form.name:16} {times[0]:9.4f} {times[1]:9.4f} {times[1] / times[0]:11.2f} {errors[0]:>8} {errors[1]:>8}"
            f"  {form.what}")  # fmt: skip


def _call(compiled: Callable[..., Any], inputs: Sequence[Any]) -> Callable[[], Any]:
    return lambda: compiled(*inputs)


def _moved(value: Any, device: str, dtype: torch.dtype) -> Any:
    if not isinstance(value, torch.Tensor):
        return value
    return value.to(device, dtype if value.is_floating_point() else None)


if __name__ == "__main__":
    sys.exit(main())
