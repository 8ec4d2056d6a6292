"""All models of the table."""

from __future__ import annotations

from functools import cache

from tests.model_table import timm_subjects, torchvision_subjects, zoo_subjects
from tests.model_table.subject import Subject

__all__ = ["LIBRARIES", "corpus"]

LIBRARIES = ("diffusers", "torchvision", "timm", "transformers")


@cache
def corpus() -> dict[tuple[str, str], Subject]:
    """Every model by library and name, in the order in which they are run."""
    found = [
        *zoo_subjects.subjects("diffusers"),
        *torchvision_subjects.subjects(),
        *timm_subjects.subjects(),
        *zoo_subjects.subjects("transformers"),
    ]
    return {(subject.library, subject.name): subject for subject in found}
