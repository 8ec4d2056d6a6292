"""Decoders of transformers with caches: their exports, `generate`, and one engine for prompt and answer."""

import logging

import pytest
import torch

import engine
import engine.torch_compile.backend
from engine.generation import Generator
from tests.zoo.request import declare_torchvision_operators

declare_torchvision_operators()

import transformers  # noqa: E402
from transformers.integrations import executorch  # noqa: E402

SIZES = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "vocab_size": 64, "bos_token_id": 1, "eos_token_id": None, "pad_token_id": 0,
}  # fmt: skip
GPT2 = {"n_embd": 32, "n_layer": 2, "n_head": 4, "vocab_size": 64, "n_positions": 64, "bos_token_id": 1}
GEMMA = {**SIZES, "head_dim": 8, "sliding_window": 8, "layer_types": ["sliding_attention", "full_attention"]}
T5 = {"d_model": 32, "d_ff": 64, "d_kv": 8, "num_layers": 2, "num_heads": 4, "vocab_size": 64, "eos_token_id": None}
EXPERTS = {**SIZES, "num_local_experts": 4, "num_experts_per_tok": 2}
WHISPER = {
    "vocab_size": 64, "d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4,
    "decoder_attention_heads": 4, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64, "num_mel_bins": 8,
    "max_source_positions": 20, "max_target_positions": 64, "bos_token_id": 1, "eos_token_id": None, "pad_token_id": 0,
    "decoder_start_token_id": 1, "suppress_tokens": None, "begin_suppress_tokens": None,
}  # fmt: skip
MODELS = {
    "Llama": ("LlamaForCausalLM", "LlamaConfig", SIZES),
    "Qwen3": ("Qwen3ForCausalLM", "Qwen3Config", {**SIZES, "head_dim": 8}),
    "Gemma3": ("Gemma3ForCausalLM", "Gemma3TextConfig", GEMMA),
    "Mistral": ("MistralForCausalLM", "MistralConfig", {**SIZES, "head_dim": 8, "sliding_window": 8}),
    "Phi": ("PhiForCausalLM", "PhiConfig", SIZES),
    "GPT2": ("GPT2LMHeadModel", "GPT2Config", {**GPT2, "eos_token_id": None}),
    "Mixtral": ("MixtralForCausalLM", "MixtralConfig", EXPERTS),
    "Whisper": ("WhisperForConditionalGeneration", "WhisperConfig", WHISPER),
    "T5": ("T5ForConditionalGeneration", "T5Config", {**T5, "decoder_start_token_id": 0}),
}
# Those with a test of their own, and those with an encoder.
NOT_ALONE = ("Llama", "T5", "Whisper")
SLOW = pytest.mark.slow
STATIC = {"cache_implementation": "static"}


def made(name):
    torch.manual_seed(0)
    model, config, sizes = MODELS[name]
    found = getattr(transformers, model)(getattr(transformers, config)(**sizes)).eval()
    found.generation_config.cache_implementation = None
    return found


def prompt(batch=1, length=6):
    return torch.randint(3, 64, (batch, length), generator=torch.Generator().manual_seed(1))


@pytest.fixture(autouse=True)
def without_gradients():
    torch._dynamo.reset()
    with torch.no_grad():
        yield


# ------------------------------------------------------------------------------------ exports with static caches


def exported(kind, model, call, strict):
    model.generation_config.cache_implementation = "static"
    model.generation_config.cache_config = {"batch_size": 1, "max_cache_len": 16, "device": "cpu"}
    if kind == "convert":
        return executorch.convert_and_export_with_cache(model, strict=strict)
    if kind == "decoder":
        return executorch.TorchExportableModuleForDecoderOnlyLM(model).export(**call, strict=strict)
    return executorch.TorchExportableModuleWithStaticCache(model)


@pytest.mark.parametrize(
    ("name", "kind", "strict"),
    [
        ("Llama", "convert", False),
        pytest.param("Gemma3", "decoder", True, marks=SLOW),
        *(
            pytest.param(name, kind, strict, marks=SLOW)
            for name in ("Llama", "Qwen3", "Gemma3", "Mistral", "Phi", "GPT2")
            for kind, strict in (("convert", True), ("decoder", False), ("module", None))
        ),
    ],
)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_static_caches_are_kept(name, kind, strict):
    model, tokens = made(name), prompt(1, 12)
    calls = [{"input_ids": tokens[:, i : i + 1], "cache_position": torch.tensor([i])} for i in range(12)]
    expected = model(tokens, use_cache=False).logits[0]
    compiled = engine.compile(exported(kind, model, calls[0], strict), (), calls[0], runtime="interpreter")
    assert compiled.report.coverage == 1
    assert len(compiled.report.segments) == 1
    assert len(compiled.states) == 6
    for _ in range(2):  # a second sequence begins at position 0 again
        for call, wanted in zip(calls, expected, strict=True):
            torch.testing.assert_close(compiled(**call)[0, -1], wanted, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", [pytest.param(name, marks=SLOW) for name in MODELS if name not in NOT_ALONE])
def test_one_engine_reads_the_prompt_and_writes_the_answer(name):
    model = made(name)
    generator = Generator(model, max_cache_len=20)
    assert len(generator.module.report.segments) == 1
    for given in (prompt(), prompt(1, 5)):
        wanted = model.generate(given, max_new_tokens=12, do_sample=False)
        assert generator.generate(given, 12).tolist() == wanted.tolist()


# ------------------------------------------------------------------------------------ generate


def plain():
    return {"input_ids": prompt()}


def padded():
    mask = (torch.arange(6) >= torch.tensor([[0], [1], [3]])).long()
    return {"input_ids": prompt(3) * mask, "attention_mask": mask}


def repeated():
    return {"input_ids": torch.tensor([[5, 6, 7, 8, 9, 5, 6, 7, 8, 9, 5, 6]])}


def spoken():
    return {"input_features": torch.randn(1, 8, 40, generator=torch.Generator().manual_seed(2))}


def slow(*values):
    return pytest.param(*values, marks=SLOW)


@pytest.mark.parametrize(
    ("name", "most", "given", "options"),
    [
        ("Llama", 2, padded, STATIC),
        ("Llama", 2, plain, {}),
        slow("Llama", 2, plain, STATIC),
        slow("Llama", 2, plain, {**STATIC, "num_beams": 3}),
        slow("Llama", 2, plain, {**STATIC, "repetition_penalty": 1.3, "no_repeat_ngram_size": 2}),
        slow("Llama", 2, plain, {"do_sample": True, "top_k": 10, "top_p": 0.9}),
        slow("Llama", 2, padded, {"num_beams": 2}),
        slow("Llama", 4, repeated, {"prompt_lookup_num_tokens": 3}),
        slow("GPT2", 2, plain, {**STATIC, "num_beams": 3}),
        slow("GPT2", 2, padded, {}),
        slow("Qwen3", 2, plain, {**STATIC, "do_sample": True}),
        slow("Gemma3", 3, plain, STATIC),  # its window fills up, then turns
        slow("Gemma3", 4, plain, {}),
        slow("Gemma3", 3, padded, STATIC),
        slow("Mistral", 3, plain, STATIC),
        slow("Mistral", 4, plain, {}),
        slow("Mixtral", 2, plain, STATIC),
        slow("Mixtral", 2, plain, {}),
        slow("Phi", 2, padded, {}),
        slow("T5", 2, padded, STATIC),
        slow("T5", 3, plain, {"num_beams": 3}),
        slow("Whisper", 2, spoken, STATIC),
        slow("Whisper", 3, spoken, {"num_beams": 2}),
    ],
)
def test_generate_gives_eagers_tokens(name, most, given, options, capfd, caplog):
    model = made(name)

    def generate():
        torch.manual_seed(3)
        return model.generate(**given(), max_new_tokens=10, **{"do_sample": False, **options})

    wanted, reports = generate(), []
    capfd.readouterr()
    caplog.clear()
    with engine.observe(after_compile=lambda event: reports.append(event.report)):
        model.forward = torch.compile(model.forward, backend="engine", options={"runtime": "interpreter"})
        assert torch.equal(generate(), wanted)
        count = len(reports)
        assert torch.equal(generate(), wanted)
    assert 0 < count <= most
    assert len(reports) == count, "a second call made engines"
    assert [(report.coverage, len(report.segments)) for report in reports] == [(1.0, 1)] * count
    assert capfd.readouterr().err == ""
    warned = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert [record for record in warned if not record.name.startswith("transformers")] == []


@pytest.mark.slow
def test_generate_with_its_own_compile_config():
    model = made("Llama")
    options = {"max_new_tokens": 8, "do_sample": False, "cache_implementation": "static"}
    wanted, reports = model.generate(prompt(), **options), []
    config = transformers.CompileConfig(backend="engine", mode=None, options={"runtime": "interpreter"})
    config._compile_all_devices = True  # transformers compiles on GPUs only
    with engine.observe(after_compile=lambda event: reports.append(event.report)):
        assert torch.equal(model.generate(prompt(), **options, compile_config=config), wanted)
    assert [len(report.segments) for report in reports] == [1]  # the prompt is read in eager PyTorch
