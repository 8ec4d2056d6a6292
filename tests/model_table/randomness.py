"""Random weights of which a comparison can see what becomes of them."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from tests.model_table.subject import Call
from tests.zoo.request import awake

__all__ = ["settled"]

_SMALL = 1e-2


def settled(model: nn.Module, call: Call | None = None) -> nn.Module:
    """The model in eval mode, with no parameter that hides a branch and with statistics of a random batch.

    Parameters that start at zero become random (new heads, biases), and so do those that start at one small number:
    scales of layers at 1e-6 would hide what the layers compute. ``call`` gives batch norms their statistics; with those
    that they start with, activations of a deep random network vanish or grow without end.
    """
    awake(model)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.is_floating_point() and parameter.numel() > 1 and parameter.abs().max() < _SMALL:
                first = parameter.flatten()[0]
                if bool((parameter == first).all()):
                    parameter.normal_(mean=0.3, std=0.02)
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm) and module.track_running_stats]
    if call is not None and norms:
        before = [norm.momentum for norm in norms]
        for norm in norms:
            norm.momentum = None
        model.train()
        with torch.no_grad():
            model(*call[0], **call[1])
        for norm, momentum in zip(norms, before, strict=True):
            norm.momentum = momentum
    return model.eval()
