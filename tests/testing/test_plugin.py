"""The plugin of pytest: rules files as tests, in a project of a user."""

import pytest

SQUARE = """
lower square
  match aten.square(x: floating[.., N])
  when  N % 2 == 0
  emit  aten.mul.Tensor(x, {factor})
  test  x: f32[2, 4]
  test  x: f16[B=2..4, 8]
  reject x: f32[2, {odd}]
"""


@pytest.fixture
def run(pytester):
    def run(*arguments, **files):
        for name, text in files.items():
            (pytester.path / name.replace("__", ".")).write_text(text)
        return pytester.runpytest_inprocess("-p", "engine.testing.plugin", "-p", "no:cacheprovider", *arguments)

    return run


def test_each_line_is_a_test(run):
    done = run("-v", my__rules=SQUARE.format(factor="x", odd=3))
    done.assert_outcomes(passed=3)
    done.stdout.fnmatch_lines(
        ["my.rules::square::test x: f32?2, 4? PASSED*", "my.rules::square::reject x: f32?2, 3? PASSED*"]
    )


def test_one_line_can_be_run(run):
    run("my.rules::square::test x: f32[2, 4]", my__rules=SQUARE.format(factor="x", odd=3)).assert_outcomes(passed=1)
    run("my.rules::square").assert_outcomes(passed=3)
    run("-k", "reject").assert_outcomes(passed=1, deselected=2)


def test_a_failure_is_told_as_verify_does(run):
    done = run(my__rules=SQUARE.format(factor="2.0", odd=4))
    done.assert_outcomes(failed=3)
    done.stdout.fnmatch_lines(
        [
            "*/my.rules:6: my.square is wrong on its own line:",
            "  test x: f32?2, 4?",
            "    my.square, output 0, * values: Tensor-likes are not *",
            "*/my.rules:8: my.square is wrong on its own line:",
            "    my.square fires on a graph that it must reject",
        ]
    )
    assert "engine/testing" not in done.stdout.str()


def test_a_file_that_does_not_load_is_an_error(run):
    done = run(
        my__rules="lower square\n  match aten.squared(x)\n  emit x\n", other__rules=SQUARE.format(factor="x", odd=3)
    )
    done.assert_outcomes(errors=1)
    done.stdout.fnmatch_lines(["*my.rules:2:9: error: there is no op `aten.squared`", "*did you mean `aten.square`*"])


def test_a_line_of_a_family_is_run_for_the_members_that_take_it(run):
    text = """
convert logic for OP in aten.logical_and, aten.bitwise_and.Tensor
  match OP(x: bool[..], y: bool[..])
  when  rank(x) == rank(y)
  emit  trt.elementwise(x, y, op=AND)
  test  x: bool[2, 3], y: bool[2, 3]
"""
    run(my__rules=text).assert_outcomes(passed=1)
    none = text.replace("x: bool[2, 3], y: bool[2, 3]", "x: bool[2, 3], y: bool[4, 5]")
    done = run(my__rules=none)
    done.assert_outcomes(failed=1)
    done.stdout.fnmatch_lines(["*it describes no instance of the rule: *"])


def test_ops_that_nothing_registers(run):
    text = "lower own\n  match plugin_tests.own(x: f32[..])\n  emit  aten.neg(x)\n  test  x: f32[2]\n"
    done = run(my__rules=text)
    done.assert_outcomes(failed=1)
    done.stdout.fnmatch_lines(["*nothing that is loaded registers plugin_tests.own*conftest.py*"])
    own = (
        "import torch\n"
        "@torch.library.custom_op('plugin_tests::own', mutates_args=())\n"
        "def own(x: torch.Tensor) -> torch.Tensor:\n    return -x\n"
        "own.register_fake(torch.empty_like)\n"
    )
    run(conftest__py=own).assert_outcomes(passed=1)


def test_rules_of_a_capability_that_is_not_here_are_skipped(run):
    text = SQUARE.format(factor="x", odd=3).replace("  when", "  needs trt >= 999.0\n  when")
    run("-rs", my__rules=text).assert_outcomes(skipped=3)


def test_which_files_and_with_which_others(run, pytester):
    files = {
        "my__rules": SQUARE.format(factor="by_itself(x)", odd=3).replace(
            "aten.mul.Tensor(x, by_itself(x))", "by_itself(x)"
        )
    }
    run(**files, shared__rules="def by_itself(x) = aten.mul.Tensor(x, x)\n").assert_outcomes(errors=1)
    pytester.makeini("[pytest]\nengine_rules = shared.rules\nengine_rules_files = my.*\n")
    run(wrong__rules="lower").assert_outcomes(passed=3)
    pytester.makeini("[pytest]\nengine_rules_files = other/*.rules\n")
    run().assert_outcomes()
