"""Architectures beside the public model list, spread over families: each can be asked for its coverage.

``python -m tests.zoo`` does that for all of them in every form.
"""

from __future__ import annotations

from tests.models import Entry
from tests.zoo import further_diffusers, further_timm, further_torchvision, further_transformers

__all__ = ["FURTHER"]

FURTHER: dict[str, Entry] = {
    name: Entry(name, builder)
    for module in (further_transformers, further_timm, further_torchvision, further_diffusers)
    for name, builder in module.FURTHER.items()
}
