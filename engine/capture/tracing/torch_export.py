"""Calling torch.export: retried in other modes where the first fails for its own reasons; composite ops stay whole."""

from __future__ import annotations

import re
import sys
import traceback
from collections import Counter
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import nn
from torch._C._dynamo.eval_frame import reset_code
from torch.export import ExportedProgram
from torch.export.dynamic_shapes import refine_dynamic_shapes_from_suggested_fixes
from torch.export.graph_signature import InputKind
from torch.utils import _pytree as pytree

from engine.capture.diagnosis import capture_error, essence
from engine.capture.examples import Examples
from engine.capture.functional.idle_writes import without_idle_writes
from engine.capture.functional.program import FunctionalProgram, functional_program
from engine.capture.functional.writes import NotShown
from engine.capture.pytrees import register_from_error
from engine.capture.sizes.asked_sizes import asked_sizes, asked_sizes_by_source
from engine.capture.sizes.branches import Branch, observed_answers, observed_branches
from engine.capture.sizes.dim_relations import relations_left_to_capture
from engine.capture.sizes.fixed_sizes import observed_fixes
from engine.capture.tracing.assertions import assumed_assertions
from engine.capture.tracing.assignments import assignments, check_assignments
from engine.capture.tracing.constant_values import ConstantValues
from engine.capture.tracing.data_reads import traced_reads
from engine.capture.tracing.decomposition_cache import remembered_composites
from engine.capture.tracing.primitives import primitives_by_aten
from engine.capture.tracing.size_arguments import sizes_as_arguments
from engine.capture.tracing.torchscript import refuse_packed, refuse_scripted
from engine.capture.tracing.unchanged import unchanged
from engine.capture.tracing.value_branches import ValueBranches, WrittenAnew
from engine.capture.tracing.written_tensors import with_written_buffers
from engine.distributed.shards import export_shards, holds_shards
from engine.errors import CaptureError
from engine.graph.recurrence import whole_recurrence
from engine.graph.symbolic.all_sizes import holds_for_all
from engine.graph.symbolic.layouts import layouts_by_hint
from engine.graph.symbolic.proofs import Proofs, answers_for_all_sizes
from engine.graph.symbolic.pytorch_logs import quiet_pytorch
from engine.graph.symbolic.roots import roots_of_sizes
from engine.process.pytorch_modes import autocast_is_on

Program: TypeAlias = ExportedProgram | FunctionalProgram
"""What is imported; its graph writes to nothing."""

# Relations between dims that torch.export asks for, one at a time, before we give up.
_MOST_REFINEMENTS = 4


@dataclass
class Seen:
    """What was seen while a model was exported.

    Attributes:
        proofs: what holds for all sizes that were asked for, which is no guard.
        branches: what the model asked of sizes.
        notes: what was decided for the user.
    """

    proofs: Proofs = field(default_factory=lambda: Proofs({}))
    branches: list[Branch] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def export(model: nn.Module, examples: Examples) -> tuple[Program, Seen]:
    """Export and decompose, in strict mode where the other fails for reasons that strict mode may not share."""
    seen = Seen()
    asked = examples.dynamic_shapes
    try:
        program = _export_refined(model, examples, seen, strict=False)
    except CaptureError:
        raise
    except Exception as error:
        refuse_scripted(model, error)
        refuse_packed(model, error)
        if holds_shards(model) or not _strict_may_help(error, seen):
            raise capture_error(type(model).__name__, error, branches=seen.branches) from error
        found, strict_error = _export_strictly(model, examples, asked)
        if found is None or _is_fixed(found[1]):
            raise capture_error(type(model).__name__, error, strict_error, seen.branches) from error
        return found
    if _is_fixed(seen) and not holds_shards(model):
        refined = examples.dynamic_shapes
        found, _ = _export_strictly(model, examples, asked)
        if found is not None and not _is_fixed(found[1]):
            return found
        examples.dynamic_shapes = refined
    return program, seen


def _export_strictly(
    model: nn.Module, examples: Examples, dynamic_shapes: Any
) -> tuple[tuple[Program, Seen] | None, Exception | None]:
    """What strict mode makes of a model; it reads Python code, and knows that ``int(n)`` of a size is a size."""
    seen = Seen()
    examples.dynamic_shapes = dynamic_shapes
    try:
        program = _export_refined(model, examples, seen, strict=True)
    except Exception as error:
        return None, error
    seen.notes.append("exported in strict mode, because the other mode failed")
    return (program, seen), None


def _is_fixed(seen: Seen) -> bool:
    """Whether the model makes Python numbers of sizes, which are others for other sizes that were asked for."""
    numbers = (branch.relation for branch in seen.branches if branch.fixes)
    return any(
        relation.free_symbols <= seen.proofs.ranges.keys() and not holds_for_all(relation, seen.proofs.ranges)
        for relation in numbers
    )


def _export_refined(model: nn.Module, examples: Examples, seen: Seen, *, strict: bool) -> Program:
    """Export, and do again with what torch.export found dims must be, where that keeps what the user asked."""
    if strict:
        # It reads Python code itself, and makes ops of assertions, which no engine has.
        return _export_as_refined(model, examples, seen, strict=True)
    assumed: dict[str, None] = {}
    constants = ConstantValues(model)
    with ValueBranches() as written, assumed_assertions(assumed, written.asked, constants.truth):
        while True:
            try:
                program = _export_as_refined(model, examples, seen, strict=False)
                break
            except WrittenAnew:
                continue
    changed = sorted(constants.read.keys() & set(program.graph_signature.buffers_to_mutate.values()))
    if changed:
        raise CaptureError(
            f"the model decides something by the values of {', '.join(changed)}, and changes them: a graph decides "
            "nothing by values. Call model.eval() first, or decide outside of the model"
        )
    if constants.read:
        names = list(constants.read)
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        seen.notes.append(
            f"the model decides by the values of {', '.join(names[:3])}{more}, as they are: a refit does not ask again"
        )
    seen.notes.extend(
        f"the compiled model does not check what the model asserts of values at {line}" for line in assumed
    )
    seen.notes.extend(
        f"both sides of a branch on values are computed, and one is chosen, at {line}" for line in written.lines
    )
    return program


def _export_as_refined(model: nn.Module, examples: Examples, seen: Seen, *, strict: bool) -> Program:
    for _ in range(_MOST_REFINEMENTS):
        try:
            return _export_once(model, examples, seen, strict=strict)
        except Exception as error:
            if register_from_error(error):
                continue
            refined, found = _refined(str(error), examples.dynamic_shapes)
            if refined is None or any(fix.startswith("_") for fix in found):
                loosened = _loosened(examples.dynamic_shapes, error)
                program = None if loosened is None else _try_loosened(model, examples, seen, loosened, strict=strict)
                if program is None and _is_of_solver(error):
                    with relations_left_to_capture():
                        program = _try_loosened(model, examples, seen, examples.dynamic_shapes, strict=strict)
                if program is not None:
                    return program
            if refined is None:
                raise
            seen.notes.extend(f"the model needs {fix}" for fix in found)
            examples.dynamic_shapes = refined
    return _export_once(model, examples, seen, strict=strict)


def _loosened(dynamic_shapes: Any, error: Exception) -> Any:
    """``dynamic_shapes`` with hints for named dims, where torch.export fails to prove guards for all their sizes.

    Its solver knows little of quotients and products, and what it suggests instead leaves out sizes for which the
    model works.  With hints it leaves the guards to us.  None where that would change nothing.
    """
    if not any(_is_of_solver(each) for each in (error, error.__context__)):
        return None
    # The sizes of derived dims (2 * n) follow from their root, which must keep its name.
    leaves = pytree.tree_leaves(dynamic_shapes)
    derived = [leaf for leaf in leaves if hasattr(leaf, "root")]
    kept = {*(leaf.__name__ for leaf in derived), *(leaf.root.__name__ for leaf in derived)}
    # Hints do not say that two dims are equal, which operators that compare nothing have to be told.
    names = Counter(leaf.__name__ for leaf in leaves if hasattr(leaf, "__name__"))
    kept.update(name for name, count in names.items() if count > 1)

    def loose(leaf: Any) -> Any:
        if not hasattr(leaf, "__name__") or leaf.__name__ in kept:
            return leaf
        return torch.export.Dim.DYNAMIC(min=leaf.min or None, max=leaf.max if leaf.max < 1 << 31 else None)

    loosened = pytree.tree_map(loose, dynamic_shapes)
    changed = any(a is not b for a, b in zip(leaves, pytree.tree_leaves(loosened), strict=True))
    return loosened if changed else None


def _is_of_solver(error: BaseException | None) -> bool:
    """Whether torch.export has traced the model, and failed over the relations of its dims."""
    if "Constraints violated" in str(error):
        return True
    frames = traceback.walk_tb(error.__traceback__ if error is not None else None)
    return any(frame.f_code.co_name == "produce_guards_and_solve_constraints" for frame, _ in frames)


def _try_loosened(
    model: nn.Module, examples: Examples, seen: Seen, dynamic_shapes: Any, *, strict: bool
) -> Program | None:
    """The program with other dynamic shapes; None where that does not help."""
    asked, found = examples.dynamic_shapes, list(seen.branches)
    examples.dynamic_shapes = dynamic_shapes
    try:
        return _export_once(model, examples, seen, strict=strict)
    except Exception:
        examples.dynamic_shapes, seen.branches[:] = asked, found
        return None


def _export_once(model: nn.Module, examples: Examples, seen: Seen, *, strict: bool) -> Program:
    """Export and decompose; ``seen`` gets what the model asks of sizes, also where the export fails."""
    seen.branches.clear()
    seen.proofs.clear()
    _forget_control_flow()
    fixes: list[Branch] = []
    # Strict mode reads Python code itself, and knows what reading ``.data`` means.
    reads = nullcontext() if strict else traced_reads()
    arguments = sizes_as_arguments()
    asked = (
        asked_sizes_by_source(model, examples, seen.proofs.ranges)
        if strict
        else asked_sizes(examples, seen.proofs.ranges)
    )
    questions = observed_answers(seen.branches) if strict else observed_branches(seen.branches)
    with (
        quiet_pytorch(),
        unchanged(model),
        torch.no_grad(),
        whole_recurrence(),
        asked,
        layouts_by_hint(),
        answers_for_all_sizes(seen.proofs),
        questions,
        observed_fixes(fixes),
        reads,
        arguments,
    ):
        try:
            with assignments() as assigned:
                program = _called(model, examples, strict=strict)
        except Exception:
            # Of a program that was made they say nothing more than its sizes do.
            seen.branches.extend(fixes)
            raise
    check_assignments(assigned, program, strict=strict)
    return without_writes(program, seen)


def _called(model: nn.Module, examples: Examples, *, strict: bool) -> ExportedProgram:
    asked = examples.dynamic_shapes
    if holds_shards(model):
        return export_shards(model, examples.args, examples.kwargs, dynamic_shapes=asked)
    return torch.export.export(model, examples.args, examples.kwargs, dynamic_shapes=asked, strict=strict)


def _forget_control_flow() -> None:
    """Let PyTorch trace ``torch.cond`` and its kin anew.

    It does so with ``torch.compile``, which would hold the sizes of an earlier export against those of this one.
    """
    frames = sys.modules.get("torch._dynamo.convert_frame")
    if frames is None:
        return
    with frames.compile_lock:
        for reference in [*frames.input_codes.seen, *frames.output_codes.seen]:
            code = reference()
            if code is not None and Path(code.co_filename).parent.name == "_higher_order_ops":
                reset_code(code)


def without_writes(program: ExportedProgram, seen: Seen) -> Program:
    """The program made functional, composites whole: as it is where that is shown right, traced once more elsewhere.

    Raises ``CaptureError`` where the model writes to tensors that share their memory.
    """
    program = without_idle_writes(program)
    try:
        if autocast_is_on():
            raise NotShown("the casts of the autocast around it are not in it")
        with quiet_pytorch(), torch.no_grad(), layouts_by_hint(), answers_for_all_sizes(seen.proofs):
            return functional_program(program)
    except NotShown as reason:
        seen.notes.append(f"the exported program was traced once more to make it functional: {reason}")
    return decomposed(program, seen)


def decomposed(program: ExportedProgram, seen: Seen) -> ExportedProgram:
    """The program made functional, with an empty table: composites stay whole.

    Meanwhile outputs, and inputs where need be, are flat tuples: building the containers that the model
    takes and returns (key-value caches, say) may itself make tensors, which tracing would then take for
    constants that nobody knows.

    Raises ``CaptureError`` where the model writes to tensors that share their memory.
    """
    program = with_written_buffers(program)
    call = program.module_call_graph[0].signature
    assert call is not None
    specs, names, inputs = (call.in_spec, call.out_spec), call.forward_arg_names, program.example_inputs
    call.out_spec = _flat(call.out_spec)
    # Without example inputs no guards are generated, which nobody would run.
    program.example_inputs = None
    if not _is_plain(call.in_spec):
        call.in_spec = pytree.tree_structure((tuple(range(call.in_spec.num_leaves)), {}))
        specs_of_inputs = program.graph_signature.input_specs
        call.forward_arg_names = [s.arg.name for s in specs_of_inputs if s.kind is InputKind.USER_INPUT]
    try:
        with (
            quiet_pytorch(),
            torch.no_grad(),
            whole_recurrence(),
            layouts_by_hint(),
            answers_for_all_sizes(seen.proofs),
            remembered_composites(),
            primitives_by_aten(program.graph_module),
            roots_of_sizes(),
        ):
            made = program.run_decompositions({})
    finally:
        (call.in_spec, call.out_spec), call.forward_arg_names = specs, names
        program.example_inputs = inputs
    result = made.module_call_graph[0].signature
    assert result is not None
    (result.in_spec, result.out_spec), result.forward_arg_names = specs, names
    made.example_inputs = inputs
    return made


def functional(program: ExportedProgram, seen: Seen) -> Program:
    """A program that somebody brings, :func:`without_writes`; raises ``CaptureError`` where PyTorch does not do it."""
    try:
        return without_writes(program, seen)
    except (CaptureError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        text = str(error) or type(error).__name__
        raise CaptureError(
            f"PyTorch could not make the exported program functional (run_decompositions): {type(error).__name__}: "
            f"{essence(text)}\n  try: export it in another mode (torch.export.export(.., strict=True)), with what it "
            "writes to registered as buffers (register_buffer), each under one name"
        ) from error


def _flat(spec: pytree.TreeSpec) -> pytree.TreeSpec:
    return pytree.tree_structure(tuple(range(spec.num_leaves)))


def _is_plain(spec: pytree.TreeSpec) -> bool:
    """Whether a structure is made of tuples, lists and dicts alone."""
    children = spec.children() if callable(getattr(spec, "children", None)) else spec.children_specs
    return spec.type in (None, tuple, list, dict) and all(map(_is_plain, children))


def _strict_may_help(error: Exception, seen: Seen) -> bool:
    text = f"{type(error).__name__} {error}"
    if any(sign in text for sign in ("Constraints violated", "conflicts between user")):
        return any(branch.fixes for branch in seen.branches)
    return "data-dependent" not in text


def _refined(message: str, dynamic_shapes: Any) -> tuple[Any, list[str]]:
    """``dynamic_shapes`` with torch.export's suggestions, and these; None where they would take away what was asked.

    Taken are relations between dims (``b = a``, ``b = 2*a``) and bounds for dims that have none.
    """
    if "Suggested fixes:" not in message or dynamic_shapes is None:
        return None, []
    suggestion = message.split("Suggested fixes:")[1].split("\n\n")[0]
    fixes = [line.strip() for line in suggestion.splitlines() if " = " in line]
    named = _named_dims(dynamic_shapes)
    for fix in fixes:
        name, _, value = fix.partition(" = ")
        asked = named.get(name)
        if re.fullmatch(r"-?\d+", value.strip()):
            return None, fixes
        if value.startswith("Dim(") and asked is not None:
            bounded = {end: getattr(asked, end) for end in ("min", "max")}
            if ("max=" in value and bounded["max"] < 1 << 31) or ("min=" in value and bounded["min"] > 1):
                return None, fixes
    try:
        refined = refine_dynamic_shapes_from_suggested_fixes("Suggested fixes:\n" + "\n".join(fixes), dynamic_shapes)
    except Exception:
        # The suggestions name dims that the user wrote as hints: there is nothing to put them in.
        return None, fixes
    return refined, fixes


def _named_dims(dynamic_shapes: Any) -> dict[str, Any]:
    leaves = pytree.tree_leaves(dynamic_shapes)
    return {leaf.__name__: leaf for leaf in leaves if hasattr(leaf, "__name__")}


__all__ = ["Program", "Seen", "decomposed", "export", "functional", "without_writes"]
