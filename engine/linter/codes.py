"""The codes of what tools find in rules files, each with an explanation, a wrong example and a right one.

The examples are tests: each wrong one has its code and each right one has none.
"""

from __future__ import annotations

from dataclasses import dataclass

from engine.dsl.vocabulary import suggestion
from engine.errors import SettingsError


@dataclass(frozen=True, slots=True)
class Code:
    """What a finding of one kind means.

    Attributes:
        summary: one line.
        why: what goes wrong, and what to do.
        wrong: rules that have it.
        right: the same rules without it.
        error: whether such rules are wrong, or only not as they could be.
    """

    code: str
    name: str
    summary: str
    why: str
    wrong: str
    right: str
    error: bool = False

    def explained(self) -> str:
        """The whole explanation, for people."""
        kind = "error" if self.error else "warning"
        parts = [f"{self.code} {self.name} ({kind}): {self.summary}", self.why]
        for title, example in (("Wrong:", self.wrong), ("Right:", self.right)):
            if example:
                parts.append(title + "\n\n" + "\n".join(f"    {line}".rstrip() for line in example.splitlines()))
        if not self.error and self.code != "R201":
            parts.append(
                "A finding that is right as it is has the reason in a comment on its line or above its rule:\n\n"
                f"    # allow {self.name}: the reason"
            )
        return "\n\n".join(parts)


_TEST = "  test  x: f32[2, 3]"

_ALL = (
    Code(
        "R001", "invalid", "The file does not load.",
        "Something is no rule, names an op, a layer or an argument that there is not, or contradicts another rule. The "
        "message says what and where. Nothing else is looked for in a file before it loads.",
        "lower a\n  match aten.gellu(x)\n  emit  x\n" + _TEST,
        "lower a\n  match aten.gelu(x)\n  emit  aten.relu(x)\n" + _TEST,
        error=True,
    ),
    Code(
        "R002", "unregistered", "An op is named that nothing which is loaded registers.",
        "The rule was not checked and will not apply, until the package that registers the op is imported: "
        "`engine --import MODULE rules check FILE`. A name may also be misspelt; rules write `aten.gelu` for "
        "`torch.ops.aten.gelu`.",
        "lower a\n  match acme.gelu(x)\n  emit  aten.relu(x)\n" + _TEST,
        "lower a\n  match aten.gelu(x)\n  emit  aten.relu(x)\n" + _TEST,
        error=True,
    ),
    Code(
        "R003", "inactive", "The installed TensorRT cannot serve a rule.",
        "A `needs` clause does not hold, or a layer is missing. Such a rule is kept and does nothing here.",
        "lower a\n  match aten.gelu(x)\n  needs trt >= 99.0\n  emit  aten.relu(x)\n" + _TEST,
        "lower a\n  match aten.gelu(x)\n  emit  aten.relu(x)\n" + _TEST,
    ),
    Code(
        "R004", "never", "A guard is false whatever the rule matches.",
        "The pattern says the rank of a tensor, and a guard asks for another rank or for a dim that is not there. So "
        "the rule never applies.",
        "lower a\n  match aten.gelu(x: f32[_, _])\n  when  rank(x) == 3\n  emit  aten.relu(x)\n" + _TEST,
        "lower a\n  match aten.gelu(x: f32[..])\n  when  rank(x) == 3\n  emit  aten.relu(x)\n  test  x: f32[2, 3, 4]",
        error=True,
    ),
    Code(
        "R005", "outputs", "The right side has more values than the op has outputs.",
        "So the rule never applies.",
        "lower a\n  match aten.gelu(x)\n  emit  (x, aten.relu(x))\n" + _TEST,
        "lower a\n  match aten.gelu(x)\n  emit  aten.relu(x)\n" + _TEST,
        error=True,
    ),
    Code(
        "R006", "grows", "A `simplify` rule gives more ops than it takes.",
        "Rules of this kind must leave fewer nodes, so that rewriting ends; one that does not is never applied. Make "
        "it a `lower` rule.",
        "simplify a\n  match aten.neg(x)\n  emit  aten.abs(aten.abs(x))\n" + _TEST,
        "lower a\n  match aten.neg(x)\n  emit  aten.mul.Tensor(x, -1.0)\n" + _TEST,
        error=True,
    ),
    Code(
        "R101", "dead", "Nothing uses a macro, a named pattern or a host function, or one side of an `if`.",
        "Remove it. What only test lines use is used.",
        "def twice(x) = aten.add.Tensor(x, x)\n\n"
        "lower a\n  match aten.gelu(x)\n  emit  aten.relu(x)\n" + _TEST,
        "def twice(x) = aten.add.Tensor(x, x)\n\n"
        "lower a\n  match aten.gelu(x)\n  emit  twice(aten.relu(x))\n" + _TEST,
    ),
    Code(
        "R102", "shadowed", "A rule comes before this one that always takes what this one matches.",
        "An earlier `simplify` or `lower` rule tests less than this rule and has no guard, so this rule never gets its "
        "turn. Give the earlier one a guard, or this one `over`, or remove it. `lower` rules run before `convert` "
        "rules, built-in ones before a user's too, and `over` orders rules of one kind only: where a built-in `lower` "
        "rule is in the way, leave it out by `rules=[engine.RuleSet.load(\"my.rules\").without(\"file.rule\")]`.",
        "lower first\n  match aten.silu(x)\n  emit  aten.mul.Tensor(x, aten.sigmoid(x))\n" + _TEST
        + "\n\nconvert second\n  match aten.silu(x: f32[..])\n  emit  trt.activation(x, type=SIGMOID)\n" + _TEST,
        "lower first\n  match aten.silu(x)\n  when  dtype(x) != f32\n"
        "  emit  aten.mul.Tensor(x, aten.sigmoid(x))\n  test  x: f16[2]\n  reject x: f32[2]"
        "\n\nconvert second\n  match aten.silu(x: f32[..])\n  emit  trt.activation(x, type=SIGMOID)\n" + _TEST,
    ),
    Code(
        "R103", "duplicate", "Something is said twice.",
        "Two rules, two macros, two guards, two `let` or two test lines are the same but for their names. Keep one. A "
        "macro of a user's file may repeat one of the prelude, which every file may use: "
        "`engine rules doc macro` lists those.",
        "lower a\n  match aten.gelu(x)\n  emit  aten.relu(x)\n" + _TEST + "\n" + _TEST,
        "lower a\n  match aten.gelu(x)\n  emit  aten.relu(x)\n" + _TEST + "\n  test  x: f16[4]",
    ),
    Code(
        "R104", "untested", "Nothing shows that a rule is right.",
        "A rule has at least one `test` line: an instance on which it must fire, and on which both sides must agree. "
        "`engine rules verify` runs it and varies it.",
        "lower a\n  match aten.gelu(x)\n  emit  aten.relu(x)",
        "lower a\n  match aten.gelu(x)\n  emit  aten.relu(x)\n" + _TEST,
    ),
    Code(
        "R105", "unread", "A name is bound that nothing reads.",
        "A `let`, an argument that the pattern captures, a dim, or a parameter. Write `_` for what may be anything, or "
        "remove it. Names that test lines give a value are read.",
        "lower a\n  match aten.gelu(x)\n  let   n = rank(x)\n  emit  aten.relu(x)\n" + _TEST,
        "lower a\n  match aten.gelu(x)\n  emit  aten.relu(x)\n" + _TEST,
    ),
    Code(
        "R106", "over-wide", "A pattern takes calls whose arguments it does not look at.",
        "`..` stands for arguments of any value. Where one of them changes the result, a rule that does not read it is "
        "wrong for all values but one. Leave `..` out, so that arguments have their defaults; or name those that do "
        "not matter: `alpha=_`. Arguments that only say where a tensor lies (`layout`, `device`, `pin_memory`, "
        "`memory_format`, `non_blocking`, `generator`) or that only gradients read are not counted.",
        "lower a\n  match aten.gelu(x, ..)\n  emit  aten.relu(x)\n" + _TEST,
        "lower a\n  match aten.gelu(x)\n  emit  aten.relu(x)\n" + _TEST,
    ),
    Code(
        "R107", "needless", "Something changes nothing.",
        "A guard that the pattern makes true, an `over` for a rule that comes later anyway or never matches the same "
        "node, `..` where no argument is left, an `if` with equal sides, a `let` that renames, a comment that allows "
        "what is not there. Remove it.",
        "lower a\n  match aten.gelu(x: f32[_, _])\n  when  rank(x) == 2\n  emit  aten.relu(x)\n" + _TEST,
        "lower a\n  match aten.gelu(x: f32[_, _])\n  emit  aten.relu(x)\n" + _TEST,
    ),
    Code(
        "R201", "unformatted", "A file is not in its one layout.",
        "`engine rules fmt FILE` writes it so.",
        "lower a match aten.gelu(x)\nemit aten.relu(x)\n" + _TEST,
        "lower a\n  match aten.gelu(x)\n  emit  aten.relu(x)\n" + _TEST,
        error=True,
    ),
)  # fmt: skip

CODES = {code.code: code for code in _ALL}
BY_NAME = {code.name: code for code in _ALL}


def find(name: str) -> Code:
    """The code of a number or name, in any letters.

    Raises:
        SettingsError: there is none.
    """
    found = CODES.get(name.upper()) or BY_NAME.get(name.lower().replace("_", "-"))
    if found is None:
        raise SettingsError(f"there is no code {name}; {suggestion(name, [*CODES, *BY_NAME])}")
    return found


__all__ = ["BY_NAME", "CODES", "Code", "find"]
