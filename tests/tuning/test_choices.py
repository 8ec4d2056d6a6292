"""Choices: what is left out or used at places of one structure, and that every way is right."""

import pytest
import torch
from torch import nn

import engine
from engine.matcher.choices import Choices, Site
from engine.pipeline.compilation import Compilation, captured_model
from engine.report import Report
from engine.settings import CompilationSettings
from engine.tuning.parts import NoPart, Parts, copied
from engine.tuning.questions import questions, ways
from engine.tuning.recorder import Recorder, by_site
from engine.tuning.ways import Compiler, run
from tests.comparison import assert_agrees
from tests.tuning.models import blocks, example_inputs

SETTINGS = CompilationSettings(tune=True)


def captured_of(model, args=example_inputs, **given):
    return captured_model(model, args, None, given.get("dynamic_shapes"), SETTINGS, Report("model"), values=True)


def placed(captured, choices=None):
    compilation = Compilation.lowered(copied(captured), RULES, SETTINGS, Report("model"), choices=choices)
    compilation.place()
    return compilation


RULES = engine.RuleSet.load()


def sites_of(captured):
    recorder = Recorder()
    uses = recorder.uses(placed(captured, recorder))
    return {places[0].site.rule: places for places in by_site(uses)}


def test_equal_blocks_are_one_site():
    found = sites_of(captured_of(blocks(4)))
    assert len(found["attention.fused_attention"]) == 4
    assert len(found["normalization.layer_norm"]) == 4
    assert len(found["linear.linear"]) == 12


def test_blocks_of_other_shapes_are_other_sites():
    sites = [
        sites_of(captured_of(blocks(1), (torch.randn(2, length, 16),)))["attention.fused_attention"][0].site
        for length in (6, 6, 7)
    ]
    assert sites[0] == sites[1] != sites[2]


def test_names_and_values_are_no_part_of_a_structure():
    class Renamed(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = blocks(1)

        def forward(self, tensor):
            return self.inner(tensor * 3)

    one = sites_of(captured_of(blocks(1)))["linear.linear"][0].site
    other = sites_of(captured_of(Renamed().eval()))["linear.linear"][0].site
    assert one == other


def test_a_rule_that_is_left_out_is_used_nowhere_of_that_structure():
    captured = captured_of(blocks(3))
    site = sites_of(captured)["attention.fused_attention"][0].site
    rules = [tile.rule.id for tile in placed(captured, Choices([site])).graph.tiles]
    assert "attention.fused_attention" not in rules
    assert rules.count("attention.matmul_attention") == 3
    elsewhere = Choices([Site(site.rule, "0" * 32)])
    assert [t.rule.id for t in placed(captured, elsewhere).graph.tiles].count("attention.fused_attention") == 3


def test_optional_rules_are_used_where_that_was_chosen_and_nowhere_else():
    captured = captured_of(blocks(2))
    found = sites_of(captured)
    assert found["projections.three_projections"][0].optional
    before = [tile.rule.id for tile in placed(captured).graph.tiles]
    assert before.count("linear.linear") == 6
    chosen = Choices(used=[found["projections.three_projections"][0].site])
    after = [tile.rule.id for tile in placed(captured, chosen).graph.tiles]
    assert "linear.linear" not in after
    assert after.count("linear.matmul") + after.count("linear.matmul_transposed") == 2


def test_without_the_setting_optional_rules_are_inactive():
    rules = RULES.with_settings(CompilationSettings())
    assert not rules.optional
    reasons = {rule.id: reason for rule, reason in rules.inactive}
    assert reasons["projections.three_projections"] == "needs tune=True"
    tuned = RULES.with_settings(SETTINGS)
    assert {"projections.three_projections", "half_sums.attention_of_half"} <= tuned.optional
    asked = RULES.with_settings(CompilationSettings(tune=True, use_fp32_acc=True))
    assert "half_sums.attention_of_half" not in asked.optional
    half = "other_forms.linear_of_half_sums"
    assert half in tuned.optional
    assert half not in {rule.id for rule in asked.rules}


# Two of the four are the others' ways of the other sizes.
@pytest.mark.parametrize(
    ("is_dynamic", "dtype"),
    [
        (True, torch.float32),
        (False, torch.float16),
        pytest.param(True, torch.float16, marks=pytest.mark.slow),
        pytest.param(False, torch.float32, marks=pytest.mark.slow),
    ],
)
def test_every_way_of_every_question_is_right(is_dynamic, dtype):
    model = Mixed().eval().to(dtype)
    shapes = ({0: torch.export.Dim("batch", min=1, max=4)},) if is_dynamic else None
    captured = captured_of(model, (torch.randn(2, 3, 6, 6).to(dtype),), dynamic_shapes=shapes)
    recorder = Recorder()
    uses = recorder.uses(placed(captured, recorder))
    asked = questions(Parts(copied(captured)), uses, frozenset())
    compiler = Compiler.of(RULES, SETTINGS, "interpreter")
    tried = set()
    for question in asked:
        inputs = [
            captured.ranges[argument.symbol].opt
            if argument.shape is None
            else torch.randn([2 if not isinstance(n, int) else n for n in argument.shape]).to(argument.dtype)
            for argument in question.part.captured.arguments
        ]
        expected = question.part.captured.run(inputs)
        for way in ways(question, compiler):
            tried.add(way.name)
            for actual, wanted in zip(run(compiler.built(way.compilation), inputs), expected, strict=True):
                torch.testing.assert_close(actual, wanted, rtol=2e-2, atol=2e-2)
    assert "with other_forms.layer_norm_written" in tried
    assert "with other_forms.group_norm_written" in tried
    assert "with other_forms.conv_as_product" in tried
    assert "without attention.fused_attention" in tried
    if dtype is torch.float16:
        assert "with other_forms.conv_of_eight_channels" in tried
        assert "with half_sums.conv_of_half[0]" in tried


class Mixed(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.point = nn.Conv2d(3, 16, 3, padding=1), nn.GroupNorm(4, 16), nn.Conv2d(16, 16, 1)
        self.blocks = blocks(1)

    def forward(self, x):
        x = self.point(torch.relu(self.norm(self.conv(x))))
        return self.blocks(x.flatten(2).transpose(1, 2))


def test_a_tuned_model_is_right_whatever_is_chosen():
    model = blocks(2)
    captured = captured_of(model)
    for places in sites_of(captured).values():
        site, optional = places[0].site, places[0].optional
        choices = Choices(used=[site]) if optional else Choices([site])
        assert_agrees(placed(captured, choices).build("interpreter"), model, *example_inputs)


def test_what_spans_a_model_is_no_local_choice():
    parts = Parts(copied(captured_of(blocks(12))))
    computing = [node.name for node in parts.captured.graph.nodes if node.op == "call_function"]
    with pytest.raises(NoPart, match="nodes with all that is between them"):
        parts.part([computing[0], computing[-1]])
    with pytest.raises(NoPart, match="none of the nodes is in the captured graph"):
        parts.part(["nothing"])
    one = parts.part([computing[0]])
    assert len(one.captured.graph.nodes) < 40
