// The graph as data: nodes in a tree of modules, which rows are to be seen, edges between them, searching.
// Nothing here knows of the page, so that it can be tried without a browser.
"use strict";

const FIELDS = ["op", "color", "segment", "rule", "ruleAt", "reason", "module", "source", "shape", "dtype", "graphs", "why"];

function readGraph(data) {
  if (data.version !== 1) throw new Error("this page and its data do not fit");
  const nodes = data.nodes.map(([name, ...numbers], index) => {
    const node = { index, name, users: [], operands: [] };
    FIELDS.forEach((field, i) => { node[field] = data.texts[numbers[i]]; });
    if (node.color && !node.segment) node.segment = `(${node.color})`;
    return node;
  });
  for (let i = 0; i < data.edges.length; i += 2) {
    nodes[data.edges[i]].users.push(data.edges[i + 1]);
    nodes[data.edges[i + 1]].operands.push(data.edges[i]);
  }
  return { nodes, root: moduleTree(nodes), segments: data.segments, model: data.model, coverage: data.coverage };
}

// A module holds nodes and modules, in the order in which their first nodes run.
function moduleTree(nodes) {
  const make = (name, path, depth) => ({ name, path, depth, items: [], modules: new Map(), nodes: [], open: depth === 0 });
  const root = make("", "", 0);
  for (const node of nodes) {
    let module = root;
    module.nodes.push(node.index);
    for (const part of node.module ? node.module.split(".") : []) {
      let inner = module.modules.get(part);
      if (!inner) {
        inner = make(part, module.path ? `${module.path}.${part}` : part, module.depth + 1);
        module.modules.set(part, inner);
        module.items.push(inner);
      }
      module = inner;
      module.nodes.push(node.index);
    }
    module.items.push(node);
  }
  return root;
}

// Of a chain of modules with nothing else in them one row is enough: `encoder.layers`.
function only(module) {
  while (module.items.length === 1 && module.items[0].items) module = module.items[0];
  return module;
}

function visibleRows(graph) {
  const rows = [];
  const rowOf = new Int32Array(graph.nodes.length).fill(-1);
  const walk = (module, depth) => {
    for (const item of module.items) {
      if (!item.items) {
        rowOf[item.index] = rows.length;
        rows.push({ node: item, depth });
        continue;
      }
      const inner = only(item);
      const name = inner === item ? item.name : item.name + inner.path.slice(item.path.length);
      if (!inner.open) for (const index of inner.nodes) rowOf[index] = rows.length;
      rows.push({ module: inner, name, depth });
      if (inner.open) walk(inner, depth + 1);
    }
  };
  walk(graph.root, 0);
  return { rows, rowOf };
}

// How many nodes of a module run in each segment, most first.
function shares(graph, module) {
  const counts = new Map();
  for (const index of module.nodes) {
    const { segment } = graph.nodes[index];
    if (segment) counts.set(segment, (counts.get(segment) || 0) + 1);
  }
  return [...counts].sort((a, b) => b[1] - a[1]);
}

// Edges between rows that are to be seen, each once; those of one row where only that is asked for.
function visibleEdges(graph, rowOf, first, last, row) {
  const seen = new Set();
  const edges = [];
  for (const node of graph.nodes) {
    const from = rowOf[node.index];
    if (from < 0) continue;
    for (const user of node.users) {
      const to = rowOf[user];
      if (to < 0 || to === from) continue;
      if (row === undefined ? Math.max(from, to) < first || Math.min(from, to) > last : from !== row && to !== row) continue;
      const key = from * 1048576 + to;
      if (!seen.has(key)) {
        seen.add(key);
        edges.push([from, to]);
      }
    }
  }
  return edges;
}

function search(graph, text) {
  const words = text.toLowerCase().split(/\s+/).filter(Boolean);
  if (!words.length) return [];
  return graph.nodes
    .filter((node) => {
      const all = [node.name, node.op, node.rule, node.module, node.reason, node.segment, node.source, node.shape, node.dtype]
        .join(" ").toLowerCase();
      return words.every((word) => all.includes(word));
    })
    .map((node) => node.index);
}

// Unfold the modules around a node.
function reveal(graph, index) {
  let module = graph.root;
  for (const part of graph.nodes[index].module ? graph.nodes[index].module.split(".") : []) {
    module = module.modules.get(part);
    module.open = true;
  }
}

function foldAll(graph, open) {
  const walk = (module) => {
    module.open = open || module.depth === 0;
    module.modules.forEach(walk);
  };
  walk(graph.root);
}

// Unfold from above while few rows are to be seen: that is what a page begins with.
function unfoldSome(graph, most) {
  let level = [...graph.root.modules.values()].map(only);
  while (level.length) {
    level.forEach((module) => { module.open = true; });
    if (visibleRows(graph).rows.length > most) {
      level.forEach((module) => { module.open = false; });
      return;
    }
    level = level.flatMap((module) => [...module.modules.values()].map(only));
  }
}
