"""What every process of the table imports, once: it is a fork of one that did."""

import importlib

from tests.model_table.corpus import corpus

corpus()

for module in ("engine.compiler", "tests.model_table.judge", "tests.model_table.processes"):
    importlib.import_module(module)

# Libraries load their modules when they are first asked for them.
for library, names in {
    "diffusers": ("AutoencoderKL", "SD3Transformer2DModel", "UNet2DConditionModel"),
    "timm": ("create_model",),
    "transformers": ("BertModel", "LlamaForCausalLM", "ViTModel"),
}.items():
    for name in names:
        getattr(importlib.import_module(library), name)
