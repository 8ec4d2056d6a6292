// The page: rows of the graph, arcs for its edges, details of what is selected, and searching.
"use strict";

const ROW = 22;
const ARCS = 130;
const byId = (id) => document.getElementById(id);
const graph = readGraph(JSON.parse(byId("data").textContent));
const colors = new Map();
let rows = [];
let rowOf = new Int32Array(0);
let selected = null; // a node, or a module
let hits = [];
let hit = -1;

// Engines have hues far from those of their neighbours and from orange, which is PyTorch's: 13 before one comes again.
function color(segment) {
  return colors.get(segment) || "transparent";
}
{
  let engines = 0;
  for (const segment of graph.segments) {
    const hue = segment.color === "torch" ? 30 : 85 + ((engines * 100) % 260);
    if (segment.color !== "torch") engines += 1;
    colors.set(segment.name, `hsl(${hue}, ${segment.color === "torch" ? 75 : 55}%, 52%)`);
  }
}

function make(tag, attributes, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) {
    if (name === "class") element.className = value;
    else if (name === "style") element.style.cssText = value;
    else if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

function refresh() {
  ({ rows, rowOf } = visibleRows(graph));
  byId("height").style.height = `${rows.length * ROW}px`;
  draw();
}

function rowOfSelected() {
  if (!selected) return -1;
  return selected.items ? rows.findIndex((row) => row.module === selected) : rowOf[selected.index];
}

function draw() {
  const frame = byId("graph");
  const first = Math.max(0, Math.floor(frame.scrollTop / ROW) - 5);
  const last = Math.min(rows.length - 1, Math.ceil((frame.scrollTop + frame.clientHeight) / ROW) + 5);
  const own = rowOfSelected();
  const near = new Set(own < 0 ? [] : visibleEdges(graph, rowOf, 0, 0, own).flat());
  const shown = [];
  for (let i = first; i <= last; i += 1) shown.push(drawRow(rows[i], i, i === own, near.has(i)));
  byId("rows").replaceChildren(...shown);
  drawArcs(frame, first, last, own);
}

function drawRow(row, i, isSelected, isNear) {
  const { node, module } = row;
  const hit_ = node ? hitSet.has(node.index) : module.nodes.some((index) => hitSet.has(index));
  const classes = ["row", isSelected && "selected", isNear && !isSelected && "near", hit_ && "hit",
    node && node.color === "torch" && "torch"].filter(Boolean).join(" ");
  const indent = `top:${i * ROW}px;padding-left:${6 + row.depth * 16}px;`;
  const on = { onclick: () => choose(row), onmousemove: (event) => tip(event, row), onmouseleave: hideTip };
  if (node) {
    return make("div", { class: classes, style: `${indent}border-left-color:${color(node.segment)}`, role: "treeitem", ...on },
      make("span", { class: "mark" }), make("span", { class: "name" }, node.name),
      make("span", { class: "op" }, node.color ? node.op : node.op === "output" ? "" : "input"),
      make("span", { class: "shape" }, `${node.dtype}${node.shape}`));
  }
  const parts = shares(graph, module);
  const bar = make("span", { class: "bar" }, ...parts.map(([name, count]) =>
    make("span", { style: `flex:${count};background:${color(name)}` })));
  const torch = module.nodes.filter((index) => graph.nodes[index].color === "torch").length;
  const main = parts.length ? color(parts[0][0]) : "transparent";
  return make("div", { class: classes, style: `${indent}border-left-color:${main}`, role: "treeitem",
    "aria-expanded": String(module.open), ...on },
    make("span", { class: "mark" }, module.open ? "▾" : "▸"), make("span", { class: "name" }, row.name), bar,
    make("span", { class: "op" }, `${module.nodes.length} ${module.nodes.length === 1 ? "node" : "nodes"}${torch ? `, ${torch} in PyTorch` : ""}`));
}

function drawArcs(frame, first, last, own) {
  const canvas = byId("arcs");
  const scale = window.devicePixelRatio || 1;
  canvas.width = ARCS * scale;
  canvas.height = frame.clientHeight * scale;
  canvas.style.width = `${ARCS}px`;
  canvas.style.height = `${frame.clientHeight}px`;
  const context = canvas.getContext("2d");
  if (!context) return;
  context.scale(scale, scale);
  const arc = ([from, to]) => {
    const a = from * ROW + ROW / 2 - frame.scrollTop;
    const b = to * ROW + ROW / 2 - frame.scrollTop;
    const reach = Math.min(ARCS - 8, 10 + Math.sqrt(Math.abs(b - a)) * 4);
    context.beginPath();
    context.moveTo(ARCS - 2, a);
    context.bezierCurveTo(ARCS - reach, a, ARCS - reach, b, ARCS - 2, b);
    context.stroke();
  };
  context.strokeStyle = "#8886";
  for (const edge of visibleEdges(graph, rowOf, first, last)) arc(edge);
  if (own >= 0) {
    context.lineWidth = 2;
    for (const edge of visibleEdges(graph, rowOf, 0, 0, own)) {
      context.strokeStyle = edge[0] === own ? "#4a90d9" : "#d94a7b";
      arc(edge);
    }
  }
}

let hitSet = new Set();

function choose(row) {
  if (row.module) {
    row.module.open = !row.module.open;
    selected = row.module;
    describeModule(row.module);
  } else {
    select(row.node.index);
    return;
  }
  refresh();
}

function select(index, scroll) {
  selected = graph.nodes[index];
  if (rowOf[index] < 0 || !rows[rowOf[index]].node) {
    reveal(graph, index);
    ({ rows, rowOf } = visibleRows(graph));
    byId("height").style.height = `${rows.length * ROW}px`;
  }
  if (scroll) {
    const frame = byId("graph");
    frame.scrollTop = Math.max(0, rowOf[index] * ROW - frame.clientHeight / 2);
  }
  describe(selected);
  draw();
}

function links(indices) {
  const items = indices.slice(0, 60).flatMap((index, i) => [i ? ", " : "",
    make("a", { onclick: () => select(index, true) }, graph.nodes[index].name)]);
  return indices.length > 60 ? [...items, ` and ${indices.length - 60} more`] : items;
}

function describe(node) {
  const pairs = [
    ["op", node.color ? node.op : null],
    ["gives", `${node.dtype} ${node.shape}`.trim()],
    ["runs in", node.color ? `${node.color === "torch" ? "PyTorch" : "TensorRT"}, ${node.segment}` : null],
    ["rule", node.rule && `${node.rule}\n${node.ruleAt}`],
    ["reason", node.reason],
    ["module", node.module],
    ["line", node.source],
    ["graphs", node.graphs],
  ];
  const list = make("dl", {}, ...pairs.filter(([, text]) => text).flatMap(([name, text]) =>
    [make("dt", {}, name), make("dd", {}, text)]));
  if (node.operands.length) list.append(make("dt", {}, "reads"), make("dd", {}, ...links(node.operands)));
  if (node.users.length) list.append(make("dt", {}, "read by"), make("dd", {}, ...links(node.users)));
  byId("details").replaceChildren(make("h2", {}, node.name), list, node.why ? make("pre", {}, node.why) : "");
}

// What there is to read before anything is selected: what stays in PyTorch, by reason, most nodes first.
function describeGraph() {
  const reasons = new Map();
  for (const node of graph.nodes) {
    if (node.color !== "torch") continue;
    const key = node.reason || "no reason is known";
    reasons.set(key, [...(reasons.get(key) || []), node.index]);
  }
  const list = [...reasons].sort((a, b) => b[1].length - a[1].length).map(([reason, indices]) =>
    make("p", {}, `${reason}: `, ...links(indices)));
  byId("details").replaceChildren(
    make("h2", {}, list.length ? "In PyTorch, and why" : "Every node is in an engine"), ...list,
    make("p", { class: "hint" }, "Click a node for its rule, shapes and module; click a module to fold or unfold it."));
}

function describeModule(module) {
  const list = make("dl", {}, ...shares(graph, module).flatMap(([name, count]) => [
    make("dt", {}, make("span", { class: "chip", style: `background:${color(name)}` }), String(count)),
    make("dd", {}, name)]));
  const torch = module.nodes.filter((index) => graph.nodes[index].color === "torch");
  if (torch.length) list.append(make("dt", {}, "in PyTorch"), make("dd", {}, ...links(torch)));
  byId("details").replaceChildren(make("h2", {}, module.path), list);
}

function tip(event, row) {
  const { node, module } = row;
  const lines = node
    ? [node.name, node.color && node.op, `${node.dtype} ${node.shape}`.trim(), node.segment, node.rule, node.reason, node.source]
    : [module.path, ...shares(graph, module).map(([name, count]) => `${name}: ${count}`)];
  const box = byId("tip");
  box.textContent = lines.filter(Boolean).join("\n");
  box.hidden = false;
  box.style.left = `${Math.min(event.clientX + 14, window.innerWidth - 300)}px`;
  box.style.top = `${Math.min(event.clientY + 14, window.innerHeight - box.offsetHeight - 8)}px`;
}

function hideTip() {
  byId("tip").hidden = true;
}

function step(direction) {
  if (!hits.length) return;
  hit = (hit + direction + hits.length) % hits.length;
  select(hits[hit], true);
  byId("found").textContent = `${hit + 1} of ${hits.length}`;
}

function find() {
  hits = search(graph, byId("search").value);
  hitSet = new Set(hits);
  hit = -1;
  byId("found").textContent = byId("search").value.trim() ? `${hits.length} found` : "";
  draw();
}

function nextInTorch() {
  const outside = graph.nodes.filter((node) => node.color === "torch");
  if (!outside.length) return;
  const after = selected && !selected.items ? selected.index : -1;
  select((outside.find((node) => node.index > after) || outside[0]).index, true);
}

function begin() {
  byId("title").textContent = `${graph.model || "model"}: ${graph.coverage}% in TensorRT`;
  byId("legend").replaceChildren(...graph.segments.map((segment) => make("button", {
    role: "listitem",
    onclick: () => { byId("search").value = segment.name; find(); step(1); },
  }, make("span", { class: "chip", style: `background:${color(segment.name)}` }), `${segment.name} (${segment.nodes})`)));
  byId("search").addEventListener("input", find);
  byId("search").addEventListener("keydown", (event) => { if (event.key === "Enter") step(event.shiftKey ? -1 : 1); });
  byId("next").addEventListener("click", () => step(1));
  byId("torch").addEventListener("click", nextInTorch);
  byId("fold").addEventListener("click", () => { foldAll(graph, false); refresh(); });
  byId("unfold").addEventListener("click", () => { foldAll(graph, true); refresh(); });
  byId("graph").addEventListener("scroll", draw);
  byId("graph").addEventListener("keydown", (event) => {
    const own = rowOfSelected();
    const to = { ArrowDown: own + 1, ArrowUp: own - 1 }[event.key];
    if (to !== undefined && rows[to]) {
      event.preventDefault();
      if (rows[to].node) select(rows[to].node.index, true);
      else { selected = rows[to].module; describeModule(selected); draw(); }
    } else if ((event.key === "Enter" || event.key === " ") && own >= 0) {
      event.preventDefault();
      choose(rows[own]);
    }
  });
  window.addEventListener("resize", draw);
  unfoldSome(graph, 60);
  describeGraph();
  refresh();
}

begin();
