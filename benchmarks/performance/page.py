"""``docs/performance.md`` and its plots, from files of measurements and nothing else."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

TITLES = {
    "engine": "this package",
    "engine_inductor": "this package, `torch_segments=\"inductor\"`",
    "onnx": "ONNX, TensorRT's parser",
    "torch_tensorrt": "Torch-TensorRT",
    "inductor": "`torch.compile`, `reduce-overhead`",
    "onnxruntime": "ONNX Runtime, TensorRT-RTX",
    "eager": "eager",
}  # fmt: skip
_EXPLAINED = """\
Written by `python -m benchmarks.performance --page`, from the files that are named; nothing here was written by hand.
Each backend compiles in a process of its own and is timed alone. *ms* is the median of back-to-back calls, with CUDA
graphs where the backend can be recorded; *seconds* go from the exported program to the first result (from the model,
for `torch.compile`); *memory* is the peak of the host's beyond what there was after the export, in weights of the
model; *error* is the largest difference to float32 by its largest value.
"""


def write_page(sources: Sequence[Path], docs: Path) -> Path:
    """Write the page.

    Raises:
        SystemExit: a file holds no measurements of engines: it is from a CPU, or of small models.
    """
    parts = ["# Performance", _EXPLAINED]
    for source in sources:
        data = json.loads(source.read_text(encoding="utf-8"))
        if data["small"] or data["machine"]["device"] == "cpu":
            raise SystemExit(f"{source} is from a run that shows that the harness works: its times are none of engines")
        parts += _section(source, data, docs)
    page = docs / "performance.md"
    page.write_text("\n\n".join(part.strip("\n") for part in parts) + "\n", encoding="utf-8")
    return page


def _section(source: Path, data: dict[str, Any], docs: Path) -> list[str]:
    machine, rows = data["machine"], data["rows"]
    packages = ", ".join(f"{name} {version}" for name, version in machine["packages"].items())
    parts = [
        f"## {machine['device']}, {machine['date']}",
        f"`{source.name}`: commit `{machine['commit']}`, CUDA {machine['cuda']}, Python {machine['python']}, "
        f"{packages}. Processes that compiled at the same time, which seconds include: {data['at_once']}.",
    ]
    for dtype in dict.fromkeys(row["dtype"] for row in rows):
        here = [row for row in rows if row["dtype"] == dtype]
        parts.append(f"### {dtype}")
        plot = docs / f"performance_{source.stem}_{dtype}.svg"
        if _plotted(here, plot, f"{machine['device']}, {dtype}"):
            parts.append(f"![milliseconds a call over those of this package]({plot.name})")
        ratio = _over_best(here)
        if ratio is not None:
            parts.append(f"This package over the best of the others, geometric mean: {ratio:.2f}.")
        parts.append("ms a call\n\n" + _table(here, _milliseconds, "{:.3f}"))
        parts.append("seconds to the first result\n\n" + _table(here, lambda row: row.get("total"), "{:.1f}"))
        parts.append("peak host memory, in weights\n\n" + _table(here, lambda row: row.get("host"), "{:.2f}"))
        parts.append("error\n\n" + _table(here, lambda row: row.get("error"), "{:.1e}"))
        failed = [row for row in here if "error_text" in row]
        if failed:
            words = [f"- {row['model']}, {TITLES[row['backend']]}: {_one_line(row['error_text'])}" for row in failed]
            parts.append("What failed:\n\n" + "\n".join(words))
    return parts


def _milliseconds(row: dict[str, Any]) -> float | None:
    found = row.get("graph_ms", row.get("ms"))
    return None if found is None else float(found)


def _table(rows: Iterable[dict[str, Any]], value: Callable[[dict[str, Any]], Any], text: str) -> str:
    rows = list(rows)
    backends = [name for name in TITLES if any(row["backend"] == name for row in rows)]
    cells = {(row["model"], row["backend"]): value(row) for row in rows}
    lines = ["| model | " + " | ".join(TITLES[name] for name in backends) + " |", "|---|" + "---|" * len(backends)]
    for model in dict.fromkeys(row["model"] for row in rows):
        found = [cells.get((model, name)) for name in backends]
        lines.append(f"| {model} | " + " | ".join("-" if n is None else text.format(n) for n in found) + " |")
    return "\n".join(lines)


def _over_best(rows: Iterable[dict[str, Any]]) -> float | None:
    times: dict[str, dict[str, float]] = {}
    for row in rows:
        found = _milliseconds(row)
        if found is not None and row["backend"] != "eager":
            times.setdefault(row["model"], {})[row["backend"]] = found
    ratios = []
    for each in times.values():
        ours = min((ms for name, ms in each.items() if name.startswith("engine")), default=None)
        others = min((ms for name, ms in each.items() if not name.startswith("engine")), default=None)
        if ours is not None and others is not None:
            ratios.append(math.log(ours / others))
    return math.exp(statistics.fmean(ratios)) if ratios else None


def _plotted(rows: list[dict[str, Any]], path: Path, title: str) -> bool:
    """Draw milliseconds over those of this package; without matplotlib there is no plot."""
    try:
        import matplotlib
    except ImportError:
        print("without matplotlib the page has no plots: pip install matplotlib")
        return False
    matplotlib.use("svg")
    from matplotlib import pyplot

    # The same measurements give the same file.
    matplotlib.rcParams["svg.hashsalt"] = "performance"
    cells = {(row["model"], row["backend"]): _milliseconds(row) for row in rows}
    models = [model for model in dict.fromkeys(row["model"] for row in rows) if cells.get((model, "engine"))]
    backends = [name for name in TITLES if name not in ("engine", "eager") and any(b == name for _, b in cells)]
    if not models or not backends:
        return False
    figure, axes = pyplot.subplots(figsize=(9, 1 + 0.45 * len(models)))
    height = 0.8 / len(backends)
    for index, name in enumerate(backends):
        over = [(cells.get((model, name)) or math.nan) / (cells[model, "engine"] or math.nan) for model in models]
        places = [place + index * height for place in range(len(models))]
        axes.barh(places, over, height, label=TITLES[name].replace("`", ""))
    axes.axvline(1.0, color="black", linewidth=1)
    axes.set_yticks([place + 0.4 for place in range(len(models))], models)
    axes.invert_yaxis()
    axes.set_xlabel("milliseconds a call over those of this package: more than 1 is slower")
    axes.set_title(title)
    axes.legend()
    figure.savefig(path, bbox_inches="tight", metadata={"Date": None})
    pyplot.close(figure)
    return True


def _one_line(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


__all__ = ["write_page"]
