"""Forms of one computation against each other: what each fusion of the rules is worth, in milliseconds per call.

    python -m benchmarks.forms [--dtype float16] [--only attention,rotary] [--small]

Every line is one module, compiled once with the fusion and once otherwise: without the rules for it, or, where a
fusion is only used where ``tune`` measured it (``projections.rules``), with other rules alone.  Timed are replays of
CUDA graphs, because the host time of a call is more than what some forms take.  Without a GPU both are built and
compared with eager, and not timed.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

import engine
from benchmarks.models import _latency
from engine.rules import RuleSet
from engine.runtime import enable_cudagraphs

# Linear layers of one input as one product, whether that was measured or not.
_JOINED = Path(__file__).parents[1] / "rules" / "lowering" / "projections.rules"

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
    """Rotary embedding as transformers writes it; ``pairs``: of neighbours (GPT-J) instead of halves (Llama)."""

    def __init__(self, size: int, pairs: bool = False) -> None:
        super().__init__()
        self.pairs = pairs
        self.register_buffer("frequencies", 10000 ** (-torch.arange(0, size, 2) / size))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        positions = torch.arange(x.shape[2], device=x.device)
        angles = (positions[None, :, None].float() * self.frequencies.float()).to(x.dtype)
        if self.pairs:
            cos, sin = (f(angles)[:, None].repeat_interleave(2, 3) for f in (torch.cos, torch.sin))
            turned = torch.stack((-x[..., 1::2], x[..., ::2]), -1).flatten(-2)
        else:
            angles = torch.cat((angles, angles), -1)
            cos, sin = angles.cos()[:, None], angles.sin()[:, None]
            half = x.shape[-1] // 2
            turned = torch.cat((-x[..., half:], x[..., :half]), -1)
        return x * cos + turned * sin


class RMSNorm(nn.Module):
    """As transformers' Llama: in float32, and the weight after the conversion back."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(size))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = x.float()
        return self.weight * (y * torch.rsqrt(y.pow(2).mean(-1, keepdim=True) + 1e-6)).to(x.dtype)


class Windows(nn.Module):
    """Swin's attention in shifted windows: ``count`` windows an image, each with a mask of its own."""

    def __init__(self, count: int, heads: int, length: int) -> None:
        super().__init__()
        self.register_buffer("bias", torch.randn(1, heads, length, length))
        self.register_buffer("mask", torch.randn(count, length, length).round().clamp(-1, 0) * 100)

    def forward(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        _, h, n, d = q.shape
        scores = (q * d**-0.5) @ k.transpose(-2, -1) + self.bias
        masked = scores.view(-1, self.mask.shape[0], h, n, n) + self.mask[None, :, None]
        return torch.softmax(masked.view(-1, h, n, n), -1) @ v


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


class GeluErf(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * 0.5 * (1.0 + torch.erf(x / 1.4142135623730951))


class Projections(nn.Module):
    """Query, key and value of one input, and what an attention does with them; heads of 64."""

    def __init__(self, size: int, groups: int = 1) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(size, size // n) for n in (1, groups, groups)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        b, n, _ = x.shape
        q, k, v = (layer(x).reshape(b, n, -1, 64).transpose(1, 2) for layer in self.layers)
        return nn.functional.scaled_dot_product_attention(q, k, v, enable_gqa=k.shape[1] != q.shape[1])


class Gated(nn.Module):
    """Llama's feed-forward network."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.gate, self.up = nn.Linear(size, 4 * size, bias=False), nn.Linear(size, 4 * size, bias=False)
        self.down = nn.Linear(4 * size, size, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down(nn.functional.silu(self.gate(x)) * self.up(x))


class Block(nn.Module):
    """A layer of Llama; heads of 64, four of the query to one of the key."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList([RMSNorm(size), RMSNorm(size)])
        self.q, self.o = nn.Linear(size, size, bias=False), nn.Linear(size, size, bias=False)
        self.k, self.v = (nn.Linear(size, size // 4, bias=False) for _ in range(2))
        self.rotary, self.attention, self.gated = Rotary(64), Grouped(4), Gated(size)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        b, n, _ = x.shape
        y = self.norms[0](x)
        q, k, v = (layer(y).view(b, n, -1, 64).transpose(1, 2) for layer in (self.q, self.k, self.v))
        y = self.attention(self.rotary(q), self.rotary(k), v, None)
        x = x + self.o(y.transpose(1, 2).reshape(b, n, -1))
        return x + self.gated(self.norms[1](x))


class Int8Linear(nn.Module):
    """A linear layer with int8 weights, as PT2E writes it; ``activations`` in int8 as well."""

    def __init__(self, size: int, activations: bool) -> None:
        super().__init__()
        import torch.ao.quantization.fx._decomposed

        self.activations = activations
        weight = torch.randn(size, size) * size**-0.5
        self.scale = (weight.abs().amax() / 127).item()
        self.register_buffer("weight", (weight / self.scale).round().to(torch.int8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        ops = torch.ops.quantized_decomposed
        if self.activations:
            how = (0.03, 0, -128, 127, torch.int8)
            x = ops.dequantize_per_tensor(ops.quantize_per_tensor(x, *how), *how)
        w = ops.dequantize_per_tensor(self.weight, self.scale, 0, -127, 127, torch.int8, out_dtype=x.dtype)
        return nn.functional.linear(x, w)


class Form(NamedTuple):
    """A module with its inputs, compiled with the rules ``fused`` and with ``other``; none: the built-in ones.

    ``instead`` is what is compiled with ``other``, where that is another module.
    """

    name: str
    module: nn.Module
    inputs: tuple[Any, ...]
    fused: RuleSet | None
    other: RuleSet | None
    what: str
    instead: nn.Module | None = None


def forms(small: bool) -> list[Form]:
    def heads(b: int, h: int, s: int, d: int) -> torch.Tensor:
        return torch.randn((2, min(h, 4), 16, 16) if small else (b, h, s, d))

    q, g = heads(8, 32, 512, 64), heads(8, 8, 512, 64)
    if small:
        g = g[:, :2]
    bert, vit = heads(8, 12, 512, 64), heads(8, 12, 197, 64)
    window = heads(512, 3, 49, 32)
    length = bert.shape[2]
    padding = torch.zeros(bert.shape[0], 1, length, length)
    padding[:, :, :, length // 2 :] = -1e4
    bias = torch.randn(1, bert.shape[1], length, length)
    lengths = torch.full((bert.shape[0],), length // 2)
    wide = torch.randn(*((2, 16, 256) if small else (8, 512, 2048)))
    size = wide.shape[-1]

    everything = RuleSet.load()
    written = everything.without("attention.written*", "attention_operands.query_scaled")
    text = _JOINED.read_text(encoding="utf-8").replace("  needs setting.tune\n", "")
    joined = RuleSet.from_text(text, "joined", builtin=True)
    unguarded = RuleSet.from_text(_UNGUARDED, builtin=True)
    parts = everything.without("rotary.rotary")
    turned = everything.without("rotary.rotary_of_*")
    rms = everything.without("normalization.rms_norm_*")
    norms = everything.without("normalization.layer_norm_divided")
    gelus = everything.without("activation.gelu_*")
    floats = nn.Linear(size, size, bias=False)
    swin = Windows(2 if small else 64, window.shape[1], window.shape[2])
    return [
        Form("attention", Written(), (vit, vit, vit, None), None, written, "matmul, softmax, matmul"),
        Form("attention+mask", Written(), (bert, bert, bert, padding), None, written, "the same, masked"),
        Form("attention+bias", Written(), (bert, bert, bert, bias), None, written, "the same, a bias"),
        Form("grouped", Grouped(q.shape[1] // g.shape[1]), (q, g, g, None), None,
             everything.without("attention_operands.grouped"), "keys repeated"),
        Form("windows", swin, (window, window, window), None, written, "matmul, two masks, softmax, matmul"),
        Form("empty rows", Masked(), (bert, bert, bert, lengths), None, unguarded, "no look for empty rows"),
        Form("layer norm", LayerNorm(size), (wide,), None, norms, "mean, square, root"),
        Form("rms norm", RMSNorm(size), (wide,), None, rms, "as written"),
        Form("gelu", Gelu(), (wide,), None, gelus, "powers and tanh"),
        Form("gelu erf", GeluErf(), (wide,), None, gelus, "erf"),
        Form("rotary", Rotary(q.shape[3]), (q,), None, turned, "slices and cat, as written"),
        Form("rotary parts", Rotary(q.shape[3]), (q,), None, parts, "slices and products of halves"),
        Form("rotary pairs", Rotary(q.shape[3], pairs=True), (q,), None, turned, "slices and stack, as written"),
        Form("projections", Projections(size), (wide,), joined, None, "three products (built in)"),
        Form("grouped proj.", Projections(size, 4), (wide,), joined, None, "three products (built in)"),
        Form("gated", Gated(size), (wide,), joined, None, "two products (built in)"),
        Form("llama", Block(size), (wide,), None, turned, "rotary as written"),
        Form("llama rms", Block(size), (wide,), None, rms, "RMS norms as written"),
        Form("llama joined", Block(size), (wide,), joined, None, "separate products (built in)"),
        Form("int8 weight", Int8Linear(size, False), (wide,), None, None, "the weight in floats", floats),
        Form("int8 linear", Int8Linear(size, True), (wide,), None, None, "all in floats", floats),
    ]  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    gpu = torch.cuda.is_available()
    parser.add_argument("--dtype", default="float16")
    parser.add_argument("--only", default="")
    parser.add_argument("--small", action="store_true", help="sizes for a trial")
    options = parser.parse_args()
    torch.manual_seed(0)
    print(f"{'form':16} {'fused ms':>9} {'other ms':>9} {'other/fused':>11} {'error':>8} {'error':>8}  other")
    for form in forms(options.small):
        if options.only and form.name not in options.only.split(","):
            continue
        print(_line(form, getattr(torch, options.dtype), "cuda" if gpu else "cpu"), flush=True)
    return 0


def _line(form: Form, dtype: torch.dtype, device: str) -> str:
    times: list[float] = []
    errors: list[str] = []
    for module, rules in ((form.module, form.fused), (form.instead or form.module, form.other)):
        model = module.eval().to(device, dtype)
        inputs = tuple(_moved(value, device, dtype) for value in form.inputs)
        try:
            compiled = engine.compile(model, inputs, rules=() if rules is None else [rules])
            with torch.no_grad():
                expected, actual = model(*inputs).float(), compiled(*inputs).float()
                errors.append(f"{((actual - expected).abs().max() / expected.abs().max()).item():8.1e}")
                if device != "cuda":
                    times.append(float("nan"))
                    continue
                with enable_cudagraphs(compiled):
                    times.append(_latency(_call(compiled, inputs), 100))
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
