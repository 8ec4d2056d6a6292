"""``Generator``: a language model compiled to one engine that reads the prompt and writes tokens."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, cast

import torch

from engine.capture.inputs import Input
from engine.compiled.module import CompiledModule
from engine.compiler import compile
from engine.errors import InputError
from engine.generation.decoder import Decoder
from engine.generation.progress import counted

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Generator:
    """One engine with two profiles, one token at a time and up to the whole cache for a prompt.

    The cache is a state of the module and written in place; the token is chosen inside the engine.  On a GPU a step is
    a replayed CUDA graph.  Every prompt begins a new sequence.

    Args:
        model: a decoder of transformers with weights, in evaluation mode, on the device it shall run on.
        batch_size: how many sequences are written beside each other.
        max_cache_len: prompt and answer together, in tokens.
        do_sample: draw tokens by their probability; otherwise the likeliest is taken.
        temperature: what the scores are divided by before their softmax.
        top_k: only so many of the likeliest tokens are drawn from; all of them if None.
        padded: prompts of several lengths, padded at the left; calls then take an ``attention_mask``.
        separate_steps: a second engine for the tokens after the prompt. The weights are held twice; that engine takes
            one token a sequence, so that forms for a single row apply to it at batch 1, where weights are quantised or
            ``tune=True``.
        settings: those of :func:`engine.compile`.

    Attributes:
        module: the :class:`engine.CompiledModule`; its report says what runs where.
        steps: the one that reads single tokens; ``module`` itself unless ``separate_steps`` is set.

    Raises:
        InputError: the model cannot generate, or an argument is out of range.
        CaptureError: torch.export cannot take the model.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        batch_size: int = 1,
        max_cache_len: int = 1024,
        *,
        do_sample: bool = False,
        temperature: float = 1.0,
        top_k: int | None = None,
        padded: bool = False,
        separate_steps: bool = False,
        **settings: Any,
    ) -> None:
        if batch_size < 1 or max_cache_len < 2:
            raise InputError(
                f"batch_size is at least 1 and max_cache_len at least 2; these are {batch_size} and {max_cache_len}"
            )
        if temperature <= 0:
            raise InputError(
                f"temperature is above 0, not {temperature}; without do_sample the likeliest token is taken"
            )
        self.batch_size, self.max_cache_len, self.do_sample, self.padded = batch_size, max_cache_len, do_sample, padded
        decoder = Decoder(
            model, batch_size, max_cache_len, do_sample=do_sample, temperature=temperature, top_k=top_k, padded=padded
        ).eval()
        self.device = next(model.parameters()).device
        one, many = (1, 1, 1), (2, max(2, max_cache_len // 2), max_cache_len)
        more: dict[str, Any] = {}
        if do_sample:
            more["uniforms"] = torch.full((batch_size, 1), 0.5, device=self.device)
        if padded:
            more["padding"] = torch.zeros(batch_size, dtype=torch.int64, device=self.device)

        def compiled(*counts: tuple[int, int, int]) -> CompiledModule:
            inputs: dict[str, Any] = {
                "input_ids": Input(profiles=[_profile((batch_size,), count) for count in counts], dtype=torch.int64),
                "cache_position": Input(profiles=[_profile((), count) for count in counts], dtype=torch.int64),
            }
            with torch.no_grad():
                module = cast(CompiledModule, compile(decoder, (), {**inputs, **more}, **settings))
            if self.device.type == "cuda":
                module.set_cuda_graphs(True)
            return module

        self.module = self.steps = compiled(one, many)
        if separate_steps:
            self.steps = compiled(one)
            self.steps.states.share(self.module.states)

    def stream(
        self,
        prompt: torch.Tensor,
        max_new_tokens: int,
        *,
        attention_mask: torch.Tensor | None = None,
        uniforms: torch.Tensor | None = None,
    ) -> Iterator[torch.Tensor]:
        """Give tokens [batch, 1] as they come, for a prompt [batch, length] of ints.

        Args:
            attention_mask: [batch, length], 0 for what is padding at the left of a prompt and 1 for its tokens.
            uniforms: numbers in [0, 1) to draw tokens with, [max_new_tokens, batch]; PyTorch's own random numbers by
                default.

        Raises:
            InputError: the prompt has another batch or dtype, prompt and answer do not fit the cache, the mask has
                zeros elsewhere, or numbers or padding were given to a generator that was made without.
        """
        self._check(prompt, max_new_tokens, uniforms)
        padding = self._padding(prompt, attention_mask)
        if uniforms is None and self.do_sample:
            uniforms = torch.rand(max_new_tokens, self.batch_size, device=self.device)
        return self._steps(prompt.to(self.device, torch.int64), max_new_tokens, uniforms, padding)

    def generate(
        self,
        prompt: torch.Tensor,
        max_new_tokens: int,
        *,
        eos_token_id: int | None = None,
        attention_mask: torch.Tensor | None = None,
        uniforms: torch.Tensor | None = None,
        progress: bool = False,
    ) -> torch.Tensor:
        """The prompt and what follows it, [batch, length + new tokens].

        Args:
            eos_token_id: the token that ends a sequence; it is repeated until the last sequence has ended.
            attention_mask, uniforms: as in :meth:`stream`.
            progress: show a line with the tokens so far and tokens a second, on stderr.
        """
        tokens = [prompt.to(self.device, torch.int64)]
        ended = torch.zeros(prompt.shape[0], 1, dtype=torch.bool, device=self.device)
        stream = self.stream(prompt, max_new_tokens, attention_mask=attention_mask, uniforms=uniforms)
        for token in counted(stream, max_new_tokens) if progress else stream:
            if eos_token_id is not None:
                token = token.masked_fill(ended, eos_token_id)
                ended = ended | (token == eos_token_id)
            tokens.append(token)
            if eos_token_id is not None and bool(ended.all()):
                break
        return torch.cat(tokens, 1)

    @torch.no_grad()
    def _steps(
        self, prompt: torch.Tensor, count: int, uniforms: torch.Tensor | None, padding: torch.Tensor | None
    ) -> Iterator[torch.Tensor]:
        # What an earlier sequence left in the cache is never read: the mask ends at the position.
        positions = torch.arange(self.max_cache_len, device=self.device)
        token, begin = prompt, 0
        for step in range(count):
            module = self.steps if step else self.module
            end = begin + token.shape[1]
            more = {} if uniforms is None else {"uniforms": uniforms[step, :, None].to(self.device, torch.float32)}
            if padding is not None:
                more["padding"] = padding
            token = module(input_ids=token, cache_position=positions[begin:end], **more)
            yield token
            begin = end

    def _check(self, prompt: torch.Tensor, count: int, uniforms: torch.Tensor | None) -> None:
        if prompt.dim() != 2 or prompt.shape[0] != self.batch_size or prompt.shape[1] < 1:
            raise InputError(
                f"the prompt has the shape {list(prompt.shape)}; it is [{self.batch_size}, length], one token at least"
            )
        if prompt.is_floating_point() or prompt.is_complex() or prompt.dtype is torch.bool:
            raise InputError(f"the prompt is {prompt.dtype}; tokens are ints")
        if count < 1 or prompt.shape[1] + count - 1 > self.max_cache_len:
            raise InputError(
                f"{prompt.shape[1]} tokens and {count} new ones do not fit max_cache_len={self.max_cache_len}; at most "
                f"{self.max_cache_len - prompt.shape[1] + 1} new ones do"
            )
        if uniforms is not None and not self.do_sample:
            raise InputError("uniforms are for generators that draw tokens: Generator(.., do_sample=True)")
        if uniforms is not None and tuple(uniforms.shape) != (count, self.batch_size):
            raise InputError(f"uniforms have the shape {list(uniforms.shape)}; it is {[count, self.batch_size]}")

    def _padding(self, prompt: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor | None:
        """How many tokens at the left of each prompt are none, [batch]; None where the engine does not ask."""
        kept = torch.ones_like(prompt, dtype=torch.bool) if mask is None else mask.to(prompt.device) != 0
        if kept.shape != prompt.shape:
            raise InputError(f"attention_mask has the shape {list(kept.shape)}, and the prompt {list(prompt.shape)}")
        if not bool(kept[:, -1].all()) or bool((kept[:, :-1] & ~kept[:, 1:]).any()):
            raise InputError("attention_mask may have zeros at the left only, and a one at the right of each prompt")
        if self.padded:
            return (~kept).sum(1).to(self.device)
        if not bool(kept.all()):
            raise InputError("prompts that are padded are for generators that expect it: Generator(.., padded=True)")
        return None


def _profile(lead: tuple[int, ...], counts: tuple[int, int, int]) -> dict[str, tuple[int, ...]]:
    names = ("min_shape", "opt_shape", "max_shape")
    return {name: (*lead, count) for name, count in zip(names, counts, strict=True)}


__all__ = ["Generator"]
