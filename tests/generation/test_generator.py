"""``engine.generation``: the tokens of eager ``generate``, drawn or the likeliest, one sequence after the other."""

import pytest
import torch

from engine.errors import InputError
from engine.generation import Generator
from tests.zoo.request import declare_torchvision_operators

declare_torchvision_operators()

from transformers import LlamaConfig, LlamaForCausalLM  # noqa: E402

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


def llama(device="cpu"):
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, bos_token_id=1, eos_token_id=None, pad_token_id=0,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval().to(device)


def prompt(batch, length, seed=0, device="cpu"):
    return torch.randint(3, 64, (batch, length), generator=torch.Generator().manual_seed(seed)).to(device)


@pytest.fixture(scope="module")
def greedy():
    model = llama()
    before = model.generation_config
    generator = Generator(model, batch_size=2, max_cache_len=16)
    assert model.generation_config is before
    assert before.cache_implementation is None
    return model, generator


@pytest.fixture(scope="module")
def drawing():
    model = llama()
    return model, Generator(model, max_cache_len=16, do_sample=True, temperature=0.5, top_k=10)


def expected(model, tokens, count):
    return model.generate(tokens, max_new_tokens=count, do_sample=False)


def drawn(model, tokens, uniforms, temperature, top_k):
    """Tokens drawn with given numbers, by eager PyTorch without a cache."""
    for number in uniforms:
        scores = model(tokens).logits[:, -1].topk(top_k)
        up_to = (scores.values / temperature).softmax(-1).cumsum(-1)
        place = torch.searchsorted(up_to, number[:, None] * up_to[:, -1:], right=True)
        tokens = torch.cat([tokens, scores.indices.gather(-1, place)], 1)
    return tokens


@pytest.mark.parametrize("length", [1, 2, 7])
def test_one_sequence_after_the_other(greedy, length):
    model, generator = greedy
    assert generator.module.report.coverage == 1.0
    for seed in (0, 1):
        tokens = prompt(2, length, seed)
        assert torch.equal(generator.generate(tokens, 8), expected(model, tokens, 8))


@pytest.mark.parametrize("device", DEVICES)
def test_steps_of_an_engine_of_their_own_go_on_with_the_cache(device):
    model = llama(device)
    generator = Generator(model, batch_size=2, max_cache_len=16, separate_steps=True)
    assert generator.steps is not generator.module
    assert generator.steps.report.coverage == 1.0
    for length, seed in ((1, 0), (5, 1), (2, 2)):
        tokens = prompt(2, length, seed, device)
        assert torch.equal(generator.generate(tokens, 8), expected(model, tokens, 8))


def test_the_whole_cache_and_no_more(greedy):
    model, generator = greedy
    tokens = prompt(2, 9)
    assert torch.equal(generator.generate(tokens, 8), expected(model, tokens, 8))
    with pytest.raises(InputError, match="at most 8 new ones do"):
        generator.generate(tokens, 9)


def test_tokens_are_drawn_with_the_given_numbers(drawing):
    model, generator = drawing
    tokens = prompt(1, 5)
    uniforms = torch.rand(8, 1, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        wanted = drawn(model, tokens, uniforms, 0.5, 10)
    assert torch.equal(generator.generate(tokens, 8, uniforms=uniforms), wanted)
    assert not torch.equal(wanted, expected(model, tokens, 8))
    torch.manual_seed(1)
    first = generator.generate(tokens, 8)
    torch.manual_seed(1)
    assert torch.equal(generator.generate(tokens, 8), first)


def test_sequences_end(greedy):
    model, generator = greedy
    tokens = prompt(2, 4)
    whole = expected(model, tokens, 8)
    last = int(whole[0, 6])
    ended = generator.generate(tokens, 8, eos_token_id=last)
    first = int((whole[0, 4:] == last).nonzero()[0]) + 4
    assert torch.equal(ended[0, : first + 1], whole[0, : first + 1])
    assert bool((ended[0, first:] == last).all())
    before = [int(token) for token in whole[1, 4:]]
    upto = before.index(last) + 1 if last in before else len(before)
    assert torch.equal(ended[1, 4 : 4 + upto], whole[1, 4 : 4 + upto])


def test_progress_is_shown_on_stderr(greedy, capsys):
    _, generator = greedy
    generator.generate(prompt(2, 3), 4, progress=True)
    shown = capsys.readouterr()
    assert "4/4" in shown.err
    assert "a second" in shown.err
    assert not shown.out


@pytest.mark.parametrize(
    ("tokens", "options", "said"),
    [
        (prompt(1, 4), {}, r"it is \[2, length\]"),
        (prompt(2, 4).float(), {}, "tokens are ints"),
        (prompt(2, 4)[:, :0], {}, "one token at least"),
        (prompt(2, 4), {"uniforms": torch.rand(4, 2)}, "do_sample=True"),
    ],
    ids=["batch", "dtype", "empty", "uniforms"],
)
def test_what_does_not_fit_is_said_before_anything_runs(greedy, tokens, options, said):
    _, generator = greedy
    with pytest.raises(InputError, match=said):
        generator.stream(tokens, 4, **options)


def test_numbers_have_one_for_each_token_and_sequence(drawing):
    _, generator = drawing
    with pytest.raises(InputError, match=r"it is \[4, 1\]"):
        generator.stream(prompt(1, 4), 4, uniforms=torch.rand(1, 4))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"batch_size": 0}, "batch_size is at least 1"),
        ({"temperature": 0.0}, "the likeliest token"),
        ({"top_k": 65}, "size of the vocabulary"),
    ],
)
def test_generators_that_cannot_be(options, said):
    with pytest.raises(InputError, match=said):
        Generator(llama(), **options)


def test_a_model_that_does_not_generate():
    with pytest.raises(InputError, match="Linear has none"):
        Generator(torch.nn.Linear(4, 4))


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_on_a_gpu_a_step_is_a_replayed_graph(dtype):
    model = llama("cuda").to(dtype)
    generator = Generator(model, max_cache_len=32)
    for seed in (0, 1):
        tokens = prompt(1, 6, seed, "cuda")
        found = generator.generate(tokens, 20)
        same = (found == expected(model, tokens, 20)).float().mean()
        assert same == 1.0 if dtype is torch.float32 else same > 0.5


def test_prompts_of_several_lengths_are_padded_at_the_left():
    model = llama()
    generator = Generator(model, batch_size=3, max_cache_len=16, padded=True)
    assert [segment.backend for segment in generator.module.report.segments] == ["tensorrt"]
    tokens = prompt(3, 6)
    for lengths in ((6, 4, 1), (5, 6, 6)):
        mask = (torch.arange(6) >= 6 - torch.tensor(lengths)[:, None]).long()
        found = generator.generate(tokens, 8, attention_mask=mask)
        wanted = model.generate(tokens, attention_mask=mask, max_new_tokens=8, do_sample=False)
        assert found.tolist() == wanted.tolist()
        pairs = zip(tokens, lengths, strict=True)
        alone = [expected(model, row[None, 6 - length :], 8)[0, length:] for row, length in pairs]
        assert found[:, 6:].tolist() == [row.tolist() for row in alone]
    assert generator.generate(tokens, 8).tolist() == expected(model, tokens, 8).tolist()
    for wrong in (torch.tensor([[1, 1, 0]] * 3), torch.tensor([[0, 1, 0, 1, 1, 1]] * 3), torch.zeros(3, 6)):
        with pytest.raises(InputError, match="attention_mask"):
            generator.generate(tokens, 8, attention_mask=wrong)


def test_padding_for_a_generator_that_expects_none(greedy):
    _, generator = greedy
    with pytest.raises(InputError, match="padded=True"):
        generator.generate(prompt(2, 3), 4, attention_mask=torch.tensor([[0, 1, 1], [1, 1, 1]]))
    wanted = generator.generate(prompt(2, 3), 4)
    assert torch.equal(generator.generate(prompt(2, 3), 4, attention_mask=torch.ones(2, 3)), wanted)
