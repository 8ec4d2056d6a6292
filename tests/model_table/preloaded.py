"""What every process of the table imports, once: it is a fork of one that did."""

import engine.compiler
from tests.model_table import judge, processes
from tests.model_table.corpus import corpus

corpus()

# Libraries load their modules when they are first asked for them.
from diffusers import AutoencoderKL, SD3Transformer2DModel  # noqa: E402
from timm import create_model  # noqa: E402
from transformers import BertModel, ViTModel  # noqa: E402

__all__ = ["AutoencoderKL", "BertModel", "SD3Transformer2DModel", "ViTModel", "create_model", "engine", "judge", "processes"]
