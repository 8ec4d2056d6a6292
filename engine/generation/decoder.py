"""What of a language model becomes the engine: a step from tokens to the next token, with a static cache."""

from __future__ import annotations

import contextlib
import copy
import inspect
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from engine.errors import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Decoder(nn.Module):
    """Tokens [batch, count] and their positions [count] to the next token [batch, 1].

    The cache is transformers' ``StaticCache``, as its own module for export holds it; its tensors are buffers that a
    call writes to.

    Args:
        longest: rows of the cache: prompt and answer together, in tokens.
        do_sample: draw the token; ``forward`` then takes numbers in [0, 1) to draw with, [batch, 1].
        temperature: what the scores are divided by before their softmax.
        top_k: only so many of the likeliest tokens are drawn from; all of them if None.
        padded: prompts may have tokens at the left that are none; ``forward`` then takes how many, [batch].
    """

    def __init__(
        self,
        model: PreTrainedModel,
        batch_size: int,
        longest: int,
        *,
        do_sample: bool = False,
        temperature: float = 1.0,
        top_k: int | None = None,
        padded: bool = False,
    ) -> None:
        from transformers.integrations.executorch import TorchExportableModuleWithStaticCache

        super().__init__()
        with _static_cache(model):
            self.steps = TorchExportableModuleWithStaticCache(model, batch_size=batch_size, max_cache_len=longest)
        known = inspect.signature(model.forward).parameters
        if padded and "attention_mask" not in known:
            raise InputError(f"{type(model).__name__} takes no attention_mask, so that prompts cannot be padded")
        self.call = _Call(model, {"logits_to_keep": 1} if "logits_to_keep" in known else {})
        self.steps.model = self.call  # type: ignore[assignment]
        self.has_positions = "position_ids" in known
        if top_k is not None and not 0 < top_k <= model.config.get_text_config().vocab_size:
            raise InputError(f"top_k={top_k} is not between 1 and the size of the vocabulary")
        self.longest, self.do_sample, self.temperature, self.top_k = longest, do_sample, temperature, top_k

    def forward(
        self,
        input_ids: torch.Tensor,
        cache_position: torch.Tensor,
        uniforms: torch.Tensor | None = None,
        padding: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """The next token of each sequence."""
        with self.call.given({} if padding is None else self._without(padding, cache_position)):
            scores = self.steps(input_ids=input_ids, cache_position=cache_position)[:, -1]
        if uniforms is None:
            return scores.argmax(-1, keepdim=True)
        tokens = None
        if self.top_k is not None:
            scores, tokens = scores.topk(self.top_k)
        up_to = (scores.float() / self.temperature).softmax(-1).cumsum(-1)
        # The first token whose sum exceeds its number; the last sum is rounded, and need not be one.
        drawn = (up_to <= uniforms * up_to[:, -1:]).sum(-1, keepdim=True).clamp(max=up_to.shape[-1] - 1)
        return drawn if tokens is None else tokens.gather(-1, drawn)

    def _without(self, padding: torch.Tensor, cache_position: torch.Tensor) -> dict[str, torch.Tensor]:
        """What tells a model which rows of the cache are tokens, and that positions begin behind the others."""
        rows = torch.arange(self.longest, device=padding.device)
        given = {"attention_mask": (rows >= padding[:, None]).long()}
        if self.has_positions:
            given["position_ids"] = (cache_position - padding[:, None]).clamp(min=0)
        return given


class _Call(nn.Module):
    """A model that is called with more than transformers' module for export passes on.

    Args:
        always: arguments of every call: the scores of the last position only, so that there is no product with the
            vocabulary for a whole prompt.
    """

    def __init__(self, model: PreTrainedModel, always: dict[str, Any]) -> None:
        super().__init__()
        self.model, self.always = model, always
        self._more: dict[str, Any] = {}

    @contextlib.contextmanager
    def given(self, more: dict[str, Any]) -> Iterator[None]:
        """Arguments of the calls inside."""
        self._more = more
        try:
            yield
        finally:
            self._more = {}

    def forward(self, **arguments: Any) -> Any:
        return self.model(**{**arguments, **self.always, **self._more})


@contextlib.contextmanager
def _static_cache(model: PreTrainedModel) -> Iterator[None]:
    """Transformers asks the configuration of the model whether its cache is static; the model keeps its own."""
    before = getattr(model, "generation_config", None)
    if before is None:
        raise InputError(
            f"a language model of transformers is wanted, one that has `generate`, and {type(model).__name__} has none"
        )
    try:
        model.generation_config = copy.deepcopy(before)
        model.generation_config.cache_implementation = "static"
        model.generation_config.use_cache = True
        yield
    finally:
        model.generation_config = before


__all__ = ["Decoder"]
