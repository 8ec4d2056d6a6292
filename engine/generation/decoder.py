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
    ) -> None:
        from transformers.integrations.executorch import TorchExportableModuleWithStaticCache

        super().__init__()
        with _static_cache(model):
            self.steps = TorchExportableModuleWithStaticCache(model, batch_size=batch_size, max_cache_len=longest)
        if "logits_to_keep" in inspect.signature(model.forward).parameters:
            self.steps.model = _LastScores(model)  # type: ignore[assignment]
        if top_k is not None and not 0 < top_k <= model.config.get_text_config().vocab_size:
            raise InputError(f"top_k={top_k} is not between 1 and the size of the vocabulary")
        self.do_sample, self.temperature, self.top_k = do_sample, temperature, top_k

    def forward(
        self, input_ids: torch.Tensor, cache_position: torch.Tensor, uniforms: torch.Tensor | None = None
    ) -> torch.Tensor:
        """The next token of each sequence."""
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


class _LastScores(nn.Module):
    """A model that computes the scores of the last position only: no product with the vocabulary for a whole prompt."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, **arguments: Any) -> Any:
        return self.model(**arguments, logits_to_keep=1)


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
