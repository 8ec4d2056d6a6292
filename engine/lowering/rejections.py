"""What TensorRT rejected, and which tile caused it: that pair of a node and a rule is not tried again."""

from __future__ import annotations

from engine.graph.provenance import model_line, module_path
from engine.lowering.lowered_graph import LoweredGraph
from engine.lowering.subgraphs import Subgraphs
from engine.partitioner import Segment, Tile
from engine.report import Fallback


class Rejections(dict[tuple[str, str], str]):
    """(node name, rule id) -> why TensorRT rejected what that rule makes of that node.

    ``graph`` is the model's graph, ``subgraphs`` are the graphs inside its ops; both are tiled without what is here.
    """

    def __init__(self, graph: LoweredGraph, subgraphs: Subgraphs) -> None:
        super().__init__()
        self._graph = graph
        self._subgraphs = subgraphs

    def reject(self, segment: Segment, error: Exception) -> list[Fallback]:
        """Note which tiles of a segment to give up after an error of TensorRT, and return them for the report.

        TensorRT names the layer at fault when it can.  When it does not, the rules of the segment that have an
        alternative give way first, one rule at a time; when none is left, the whole segment goes to PyTorch.
        """
        found = []
        for tile in self._blamed(segment, error):
            reason = f"{tile.rule.id} ({tile.rule.where}): TensorRT rejected it: {_tensorrt_says(error)}"
            self[tile.node.name, tile.rule.id] = reason
            node = tile.node
            op = self._graph.mirror.op(node)
            found.append(Fallback(node.name, op, reason, model_line(node), module_path(node)))
        return found

    def _blamed(self, segment: Segment, error: Exception) -> list[Tile]:
        node = getattr(error, "node", None)
        every = list(segment.every_tile())
        tiles = [chosen for chosen in every if chosen.node is node]
        if tiles:
            return tiles
        named = set()
        for layer in getattr(error, "failed_layers", ()):
            rule_id, _, rest = layer.partition("/")
            named.add((rest.partition("/")[0], rule_id))
        tiles = [chosen for chosen in every if (chosen.node.name, chosen.rule.id) in named]
        if tiles:
            return tiles
        # Constants that the engine makes of narrower ones can be held as they are.
        constants = [constant for chosen in segment.tiles for constant in chosen.below()]
        if constants:
            return constants
        # Loops and conditionals are where TensorRT fails without a name; those inside others give way first.
        inside = [chosen for chosen in every if chosen.size > 1 and chosen not in segment.tiles]
        outside = [chosen for chosen in segment.tiles if chosen.size > 1]
        for tiles in (inside, outside):
            tiles = [chosen for chosen in tiles if self._has_alternative(chosen)]
            if tiles:
                return tiles
        if outside:
            return outside
        by_rule = sorted(segment.tiles, key=lambda chosen: chosen.rule.rank)
        for rule_id in dict.fromkeys(chosen.rule.id for chosen in by_rule):
            tiles = [chosen for chosen in segment.tiles if chosen.rule.id == rule_id]
            if all(map(self._has_alternative, tiles)):
                return tiles
        return list(segment.tiles)

    def _has_alternative(self, chosen: Tile) -> bool:
        inside = (graph for graph in self._subgraphs if graph.mirror.graph is chosen.node.graph)
        return next(inside, self._graph).has_alternative(chosen, self)


def _tensorrt_says(error: Exception) -> str:
    """TensorRT's own words in an error, without what was put around them; one line for a table."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    # A build or a load that failed is introduced by a line of ours.
    words = lines[1:] if len(lines) > 1 and not hasattr(error, "node") else lines[:1]
    return " ".join(line for line in words[:3] if not line.startswith("layers named")) or type(error).__name__


__all__ = ["Rejections"]
