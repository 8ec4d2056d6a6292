"""Every model that we know can be asked for its coverage, in every float dtype, with a batch of one or several sizes.

What ``torch.export`` itself cannot take is in ``NOT_EXPORTED``, and ends in a ``CaptureError`` with the model's line.
"""

import re

import pytest
import torch

import engine
from tests.models import ZOO
from tests.zoo.__main__ import ALL
from tests.zoo.forms import FORMS, cast, covered, exported

_EVERY = tuple(map(str, FORMS))
_HALF = tuple(str(form) for form in FORMS if form.dtype != torch.float32)
_DYNAMIC = tuple(str(form) for form in FORMS if form.dynamic)

_ASKS_DATA = "Could not guard on data-dependent expression"
_FIXES_BATCH = "the model fixes a size at"

# Model -> forms and part of the message. PyTorch's own export ends in an error there too.
NOT_EXPORTED: dict[str, tuple[tuple[str, ...], str]] = {
    # `if is_global_attn`, which is read from the mask
    "LongformerModel": (_EVERY, _ASKS_DATA),
    "LEDModel": (_EVERY, _ASKS_DATA),
    # Lengths from buffers: `if length <= max_pad`
    "EncodecModel": (_EVERY, _ASKS_DATA),
    # Loops over the images of a batch
    "SuperPointForKeypointDetection": (_DYNAMIC, _FIXES_BATCH),
    "RTDetrForObjectDetection": (_DYNAMIC, _FIXES_BATCH),
    "LlavaForConditionalGeneration": (_DYNAMIC, _FIXES_BATCH),
    # PyTorch has no Fourier transform of half precision on a CPU.
    "FNetModel": (_HALF, "Unsupported dtype"),
    # Computes in float32 on the way, which its half weights do not take: it does not run in PyTorch either.
    "AutoencoderTiny": (_HALF, "should be the same"),
    "raft_small": (_HALF, "should be the same"),
    # `len(set(lengths))`, which are read from the mask
    "Lumina2Transformer2DModel": (_EVERY, "unhashable type"),
    # Detection: what is found is counted in Python.
    "fcos_resnet50_fpn": (_EVERY, _ASKS_DATA),
}

# Model -> ops that stay in PyTorch.
LEFT: dict[str, set[str]] = {
    # TensorRT-RTX has no layer for the places of true elements.
    "SuperPointForKeypointDetection": {"aten.nonzero.default", "aten.index.Tensor"},
}

# Models that compute something in float64, which is for the user to give up.
IN_DOUBLE = ("FluxTransformer2DModel",)
_NO_DOUBLE = "TensorRT has no float64 tensors; truncate_double=True uses float32"

# Quick ones of several families; all of them take an hour.
IN_CI = [
    ("AlbertModel", "float16-dynamic"),
    ("BartModel", "float16-dynamic"),
    ("MambaForCausalLM", "bfloat16-static"),
    ("DeepseekV3ForCausalLM", "float16-dynamic"),
    ("OlmoeForCausalLM", "bfloat16-dynamic"),
    ("Dinov2Model", "bfloat16-dynamic"),
    ("eva02_tiny_patch14_224", "float16-static"),
    ("mambaout_femto", "bfloat16-dynamic"),
    ("SD3Transformer2DModel", "bfloat16-static"),
    ("swin3d", "float16-dynamic"),
]
REST = [(name, str(form)) for name in ALL for form in FORMS if (name, str(form)) not in IN_CI]


def _check(name, form):
    form = next(each for each in FORMS if str(each) == form)
    built = cast(form.dtype, ALL[name].build("small", dynamic=form.dynamic))
    outcome = covered(built)
    forms, message = NOT_EXPORTED.get(name, ((), ""))
    if str(form) in forms:
        assert outcome.error.startswith("CaptureError: ")
        assert message in outcome.error
        assert re.search(r"\n  (at|the model fixes a size at) .*\.py:\d+ in ", outcome.error)
        assert exported(built) != ""
    else:
        assert outcome.error == ""
        wanted = {_NO_DOUBLE} if name in IN_DOUBLE else set()
        assert {reason for _, _, reason in outcome.left if reason == _NO_DOUBLE} == wanted
        assert {op for _, op, reason in outcome.left if reason != _NO_DOUBLE} == LEFT.get(name, set())
        assert (outcome.coverage == 1.0) == (not outcome.left)


@pytest.mark.parametrize(("name", "form"), IN_CI)
def test_model_can_be_asked_for_its_coverage(name, form):
    _check(name, form)


def test_a_line_of_torchvision_is_the_models():
    built = ZOO["vit_b_16"].build("small", dynamic=False)
    with pytest.raises(engine.EngineError, match=r"\n  at .*torchvision/models/vision_transformer\.py:\d+ in "):
        engine.coverage(built.model, (torch.randn(2, 3, 40, 32),))


@pytest.mark.slow
@pytest.mark.parametrize(("name", "form"), REST)
def test_model_can_be_asked_for_its_coverage_in_every_form(name, form):
    _check(name, form)
