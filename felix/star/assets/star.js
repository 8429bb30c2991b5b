// The page of `felix star collect`: draws the matrix that /events sends, and says what has changed.
// Layout depends on the nodes and the page's width alone: the same network looks the same every time.

const SVG = "http://www.w3.org/2000/svg";
const COLOURS = 12;
const BUSY_EDGES = 60;
const DENSE_EDGES = 260;
const WIDE_NODES = 8;
const HUGE_NODES = 20;
const LABEL_LENGTH = 20;
const CHANGES_SHOWN = 12;
const SAID_AT_ONCE = 4;
const WORD = { reachable: "yes", blocked: "no", pending: "not tried yet", unknown: "not known" };
const SIGN = { reachable: "✓", blocked: "✕", pending: "…", unknown: "?" };
const SAYS = { reachable: "reachable", blocked: "blocked", pending: "not tried yet", unknown: "not known" };
const VERDICT = { right: "as expected", wrong: "not as expected", unknown: "not all known yet", "": "" };

const at = (id) => document.getElementById(id);
const board = at("board");
const isStill = matchMedia("(prefers-reduced-motion: reduce)");
const parts = { nodes: new Map(), edges: new Map(), cells: [] };
let matrix = null;
let shape = "";
let colours = new Map();
let looking = "";
let pinned = "";
let waiting = null;
let pause = 0;
let ended = 0;

// --- Small tools ---

function make(name, attributes = {}, ...children) {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
}

function html(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
}

const keyOf = (from, to) => `${from}\n${to}`;
const colourOf = (id) => colours.get(id) ?? 0;
const round = (number) => Math.round(number * 10) / 10;
const shorten = (text, most) => (text.length > most ? `${text.slice(0, Math.max(1, most - 1))}…` : text);
const list = (words) => (words.length > 6 ? `${words.slice(0, 5).join(", ")} and ${words.length - 5} more` : words.join(", "));

// The n-th node of every group has the n-th colour: what plays the same part in two stages looks the same.
function pickColours({ nodes, groups }) {
  const count = new Map(groups.map((group) => [group.name, 0]));
  return new Map(nodes.map((node) => {
    const index = count.get(node.group);
    count.set(node.group, index + 1);
    return [node.id, index % COLOURS];
  }));
}

// --- Layout: each group is a circle of nodes in a box, boxes are in rows ---

function arrange({ nodes, groups }, hasCrossings, width) {
  const shown = nodes.filter((node) => node.state === "answering");
  const membersOf = new Map(groups.map((group) => [group.name, shown.filter((node) => node.group === group.name)]));
  const most = Math.max(1, ...[...membersOf.values()].map((members) => members.length));
  const radius = most <= 8 ? 30 : most <= 20 ? 22 : most <= 40 ? 15 : 11;
  const ring = Math.max(128, (most * radius * 3.2) / (2 * Math.PI));
  const spotsOf = new Map([...membersOf].map(([name, members]) => [name, spread(members.length, ring, hasCrossings)]));
  const spots = [...spotsOf.values()].flat();
  const reach = (axis) => Math.max(0, ...spots.map((spot) => Math.abs(spot[axis])));
  const hasHulls = groups.length > 1 || groups.some((group) => group.name);
  const head = hasHulls ? 58 : 0;
  const outside = Math.min(LABEL_LENGTH, Math.max(0, ...shown.map((node) => (isInside(node.label, radius) ? 0 : node.label.length))));
  const room = outside && outside * labelSize(radius) * 0.58 + 12;
  const box = {
    width: Math.max(2 * (reach("x") + radius + Math.max(46, room + 16)), 340),
    height: Math.max(2 * (reach("y") + radius + 34), 200) + head + (hasHulls ? 10 : 0),
  };
  const inRow = groups.length > 4 ? Math.ceil(Math.sqrt(groups.length * 1.6)) : 4;
  const columns = Math.max(1, Math.min(groups.length, Math.floor(width / 340), inRow));
  const rows = Math.ceil(groups.length / columns);
  const gap = 22;
  const places = new Map();
  const hulls = groups.map((group, index) => {
    const x = (index % columns) * (box.width + gap);
    const y = Math.floor(index / columns) * (box.height + gap);
    const middle = { x: x + box.width / 2, y: y + head + (box.height - head) / 2 };
    membersOf.get(group.name).forEach((node, position) => {
      const spot = spotsOf.get(group.name)[position];
      places.set(node.id, { x: middle.x + spot.x, y: middle.y + spot.y, away: Math.atan2(spot.y, spot.x) });
    });
    return { group, x, y, ...box };
  });
  const size = { width: columns * (box.width + gap) - gap, height: rows * (box.height + gap) - gap };
  return { places, hulls: hasHulls ? hulls : [], radius, size };
}

const labelSize = (radius) => Math.max(11, Math.min(15, radius * 0.66));
const isInside = (label, radius) => label.length <= 3 && radius > 20;

// Points of a circle around 0: four make a square, two a line (upright when edges lead to
// other groups, or those would lie on it), and the first of others is on top.
function spread(count, ring, isUpright) {
  const turn = count === 4 ? -0.75 * Math.PI : count === 2 && !isUpright ? Math.PI : -0.5 * Math.PI;
  const own = count === 1 ? 0 : ring;
  return Array.from({ length: count }, (_, position) => {
    const angle = turn + (2 * Math.PI * position) / count;
    return { x: own * Math.cos(angle), y: own * Math.sin(angle) };
  });
}

function curve(from, to, radius, headLength) {
  const dx = to.x - from.x;
  const dy = to.y - from.y;
  const length = Math.hypot(dx, dy) || 1;
  const bend = Math.min(0.17 * length, 90);
  const via = { x: (from.x + to.x) / 2 - (dy / length) * bend, y: (from.y + to.y) / 2 + (dx / length) * bend };
  const pull = (point, distance) => {
    const far = Math.hypot(via.x - point.x, via.y - point.y) || 1;
    return { x: point.x + ((via.x - point.x) / far) * distance, y: point.y + ((via.y - point.y) / far) * distance };
  };
  const start = pull(from, radius + 4);
  const tip = pull(to, radius + 5);
  const end = pull(to, radius + 5 + headLength);
  const middle = { x: 0.25 * start.x + 0.5 * via.x + 0.25 * end.x, y: 0.25 * start.y + 0.5 * via.y + 0.25 * end.y };
  const along = Math.hypot(tip.x - end.x, tip.y - end.y) || 1;
  const side = { x: (-(tip.y - end.y) / along) * headLength * 0.62, y: ((tip.x - end.x) / along) * headLength * 0.62 };
  const line = (last) => `M${round(start.x)} ${round(start.y)}Q${round(via.x)} ${round(via.y)} ${round(last.x)} ${round(last.y)}`;
  const head = `M${round(tip.x)} ${round(tip.y)}L${round(end.x + side.x)} ${round(end.y + side.y)}L${round(end.x - side.x)} ${round(end.y - side.y)}Z`;
  return { start, tip, middle, head, short: line(end), long: line(tip) };
}

// --- The graph ---

function drawGraph(before) {
  const width = at("stage").clientWidth || 600;
  const { places, hulls, radius, size } = arrange(matrix, crossings()[0].length > 0, width);
  const nextShape = JSON.stringify([[...places], hulls.map((hull) => [hull.group.name, hull.x, hull.y])]);
  const edges = matrix.edges.filter((edge) => places.has(edge.from) && places.has(edge.to));
  const isDense = edges.length > DENSE_EDGES;
  const isBusy = edges.length / Math.max(1, matrix.groups.length) > BUSY_EDGES;
  board.classList.toggle("dense", isDense);
  board.classList.toggle("busy", isBusy);
  const focused = document.activeElement?.closest?.(".node")?.dataset.id;
  if (nextShape !== shape) {
    shape = nextShape;
    at("graph").setAttribute("viewBox", `-6 -6 ${round(size.width + 12)} ${round(size.height + 12)}`);
    at("graph").style.maxWidth = `${round(size.width * 1.3)}px`;
    for (const layer of ["edges", "nodes"]) at(layer).replaceChildren();
    parts.edges.clear();
    parts.nodes.clear();
    for (const node of matrix.nodes) if (places.has(node.id)) drawNode(node, places.get(node.id), radius);
  }
  drawHulls(hulls);
  const alive = new Set();
  for (const edge of edges) {
    const key = keyOf(edge.from, edge.to);
    const looks = `${edge.state} ${edge.verdict ?? ""} ${isDense} ${isBusy}`;
    alive.add(key);
    const known = parts.edges.get(key);
    if (known?.dataset.looks === looks) continue;
    const line = curve(places.get(edge.from), places.get(edge.to), radius, isBusy ? 8 : radius > 20 ? 15 : radius > 12 ? 9 : 6);
    const drawn = drawEdge(edge, line, { isDense, thick: isDense ? 1 : isBusy ? 2 : radius > 20 ? 5 : 3, radius });
    drawn.dataset.looks = looks;
    if (before && known) drawn.classList.add("changed");
    known ? known.replaceWith(drawn) : at("edges").append(drawn);
    parts.edges.set(key, drawn);
  }
  for (const [key, drawn] of parts.edges) {
    if (!alive.has(key)) {
      drawn.remove();
      parts.edges.delete(key);
    }
  }
  for (const [id, drawn] of parts.nodes) drawn.setAttribute("aria-label", describe(id));
  if (focused && parts.nodes.has(focused) && document.activeElement !== parts.nodes.get(focused)) parts.nodes.get(focused).focus();
  look(looking);
}

function drawHulls(hulls) {
  at("hulls").replaceChildren(...hulls.map(({ group, x, y, width, height }) => {
    const silent = group.nodes - group.answering;
    const hull = make("g", { class: "hull", "data-group": group.name, "data-verdict": group.verdict });
    const text = (kind, where, words) => {
      const element = make("text", { class: kind, ...where });
      element.textContent = words;
      return element;
    };
    const title = make("title");
    title.textContent = group.name;
    const room = (width - 56 - chipText(group).length * 7.6) / 10;
    hull.append(
      title,
      make("rect", { x, y, width, height, rx: 20 }),
      text("name", { x: x + 20, y: y + 32 }, shorten(group.name || "no group", Math.floor(room))),
      text("count", { x: x + 20, y: y + 52 }, `${group.answering} of ${group.nodes} answer${silent ? `, ${silent} silent` : ""}`),
      text("verdict", { x: x + width - 20, y: y + 32 }, chipText(group)),
    );
    return hull;
  }));
}

function drawNode(node, place, radius) {
  const label = node.label;
  const group = make("g", {
    class: `node c${colourOf(node.id)}`, "data-id": node.id, role: "img", tabindex: parts.nodes.size ? "-1" : "0",
    transform: `translate(${round(place.x)} ${round(place.y)})`,
  });
  const words = isInside(label, radius) ? labelInside(label, radius) : labelBeside(label, radius, place.away);
  const title = make("title");
  title.textContent = `${label} ${node.url}`;
  group.append(
    title,
    make("circle", { class: "aura", r: radius + 9 }),
    make("circle", { class: "ring", r: radius + 6 }),
    make("circle", { class: "disc", r: radius }),
    words,
  );
  at("nodes").append(group);
  parts.nodes.set(node.id, group);
}

function labelInside(label, radius) {
  const text = make("text", { class: "inside", y: round(radius * 0.33), "font-size": round(radius * (label.length < 2 ? 0.95 : 0.62)) });
  text.textContent = label;
  return text;
}

function labelBeside(label, radius, away) {
  const size = labelSize(radius);
  const far = radius + 13;
  const sideways = Math.cos(away);
  const anchor = sideways > 0.3 ? "start" : sideways < -0.3 ? "end" : "middle";
  const lift = anchor === "middle" ? (Math.sin(away) > 0 ? size * 0.8 : -size * 0.1) : size * 0.35;
  const text = make("text", { class: "beside", x: round(far * sideways), y: round(far * Math.sin(away) + lift), "font-size": round(size), "text-anchor": anchor });
  text.textContent = shorten(label, LABEL_LENGTH);
  return text;
}

function drawEdge(edge, line, { isDense, thick, radius }) {
  const group = make("g", { class: `edge ${edge.state} c${colourOf(edge.from)}`, "data-from": edge.from, "data-to": edge.to, "data-state": edge.state, "data-verdict": edge.verdict ?? "" });
  group.style.setProperty("--thick", thick);
  if (edge.verdict === "wrong") group.append(make("path", { class: "halo", d: line.long }));
  if (edge.state === "reachable") {
    const path = make("path", { class: "line", d: line.short });
    if (!isDense) {
      const id = `fade-${edge.from}-${edge.to}`.replace(/[^\w-]/g, (letter) => `_${letter.codePointAt(0)}_`);
      const fade = make("linearGradient", { id, gradientUnits: "userSpaceOnUse", x1: round(line.start.x), y1: round(line.start.y), x2: round(line.tip.x), y2: round(line.tip.y) });
      fade.append(make("stop", { class: "from", offset: 0 }), make("stop", { class: "to", offset: 0.8 }));
      group.append(fade);
      path.style.stroke = `url(#${id})`;
    }
    group.append(path, make("path", { class: "head", d: line.head }));
    if (!isDense) group.append(makeBall(edge, line, thick));
  } else {
    group.append(make("path", { class: "line", d: line.long }));
    if (edge.state === "blocked" && !isDense) {
      const { x, y } = line.middle;
      const arm = thick > 4 ? 5 : 3;
      group.append(
        make("circle", { class: "cross-back", cx: round(x), cy: round(y), r: arm * 1.9 }),
        make("path", { class: "cross", d: `M${round(x - arm)} ${round(y - arm)}L${round(x + arm)} ${round(y + arm)}M${round(x + arm)} ${round(y - arm)}L${round(x - arm)} ${round(y + arm)}` }),
      );
    }
  }
  if (edge.verdict === "wrong") {
    const { x, y } = line.middle;
    const bang = make("text", { class: "bang", x: round(x), y: round(y + 4.5) });
    bang.textContent = "!";
    group.append(make("circle", { class: "badge", cx: round(x), cy: round(y), r: 9 }), bang);
  }
  return group;
}

function makeBall(edge, line, thick) {
  const start = [...keyOf(edge.from, edge.to)].reduce((sum, letter) => (sum * 31 + letter.codePointAt(0)) % 997, 7) / 997;
  const ball = make("circle", { class: "ball", r: thick > 4 ? 7 : thick > 2 ? 5 : 3.5 });
  ball.append(make("animateMotion", { dur: "2.6s", begin: `-${round(start * 26) / 10}s`, repeatCount: "indefinite", path: line.long }));
  return ball;
}

// --- What is said of a node, and looked at ---

function describe(id) {
  const nameOf = new Map(matrix.nodes.map((node) => [node.id, node.label]));
  const out = matrix.edges.filter((edge) => edge.from === id);
  const names = (state) => out.filter((edge) => edge.state === state).map((edge) => nameOf.get(edge.to));
  const words = [];
  if (names("reachable").length) words.push(`reaches ${list(names("reachable"))}`);
  if (names("blocked").length) words.push(`cannot reach ${list(names("blocked"))}`);
  if (names("pending").length) words.push(`has not tried ${list(names("pending"))}`);
  const wrong = out.filter((edge) => edge.verdict === "wrong").map((edge) => nameOf.get(edge.to));
  if (wrong.length) words.push(`not as expected: ${list(wrong)}`);
  return `${nameOf.get(id)} ${words.join("; ") || "has no targets here"}`;
}

function look(id) {
  looking = parts.nodes.has(id) ? id : "";
  board.classList.toggle("looking", Boolean(looking));
  const near = new Set([looking]);
  for (const drawn of parts.edges.values()) {
    const isLit = drawn.dataset.from === looking || drawn.dataset.to === looking;
    drawn.classList.toggle("lit", isLit);
    if (isLit) near.add(drawn.dataset.from).add(drawn.dataset.to);
  }
  for (const [other, drawn] of parts.nodes) drawn.classList.toggle("lit", near.has(other));
  for (const header of document.querySelectorAll("th[data-id]")) header.classList.toggle("near", Boolean(looking) && header.dataset.id === looking);
  at("detail").textContent = looking ? `${describe(looking)}.` : hint();
}

function hint() {
  const silent = matrix ? matrix.nodes.filter((node) => node.state === "silent") : [];
  if (silent.length) return `No answer from ${list(silent.map((node) => (node.group && matrix.groups.length > 1 ? `${node.label} (${node.group})` : node.label)))}.`;
  return parts.nodes.size ? "Point at a node, or go to it with the arrow keys." : "";
}

function walk(event) {
  const node = event.target.closest?.(".node");
  if (!node) return;
  const all = [...parts.nodes.values()];
  const here = all.indexOf(node);
  const next = { ArrowRight: here + 1, ArrowDown: here + 1, ArrowLeft: here - 1, ArrowUp: here - 1, Home: 0, End: all.length - 1 }[event.key];
  if (next !== undefined) {
    const other = all[(next + all.length) % all.length];
    for (const one of all) one.setAttribute("tabindex", one === other ? "0" : "-1");
    other.focus();
  } else if (event.key === "Enter" || event.key === " ") {
    pinned = pinned === node.dataset.id ? "" : node.dataset.id;
    look(pinned || node.dataset.id);
  } else if (event.key === "Escape") {
    pinned = "";
    look("");
  } else return;
  event.preventDefault();
}

// --- The tables ---

let tableShape = "";

function drawTables(before) {
  const nextShape = JSON.stringify([matrix.nodes.map((node) => [node.id, node.label, node.group]), crossings()]);
  if (nextShape !== tableShape) {
    tableShape = nextShape;
    parts.cells = [];
    const members = (name) => matrix.nodes.filter((node) => node.group === name);
    const cards = matrix.groups.map((group, index) => makeTable(`table-${index}`, group.name || (matrix.groups.length > 1 ? "no group" : "Table"), members(group.name), members(group.name), group.name));
    const [sources, targets] = crossings();
    const byId = (ids) => matrix.nodes.filter((node) => ids.includes(node.id));
    if (sources.length) cards.push(makeTable("table-between", "Between groups", byId(sources), byId(targets), null));
    at("tables").replaceChildren(...cards);
  }
  const edgeByKey = new Map(matrix.edges.map((edge) => [keyOf(edge.from, edge.to), edge]));
  const nodeById = new Map(matrix.nodes.map((node) => [node.id, node]));
  for (const cell of parts.cells) fillCell(cell, edgeByKey.get(keyOf(cell.dataset.from, cell.dataset.to)), nodeById.get(cell.dataset.from), before);
  for (const chip of document.querySelectorAll(".chip")) {
    const group = matrix.groups.find((one) => one.name === chip.dataset.group);
    chip.dataset.verdict = group.verdict;
    chip.textContent = chipText(group);
    chip.hidden = !group.verdict;
  }
}

function crossings() {
  const groupOf = new Map(matrix.nodes.map((node) => [node.id, node.group]));
  const crossing = matrix.edges.filter((edge) => groupOf.get(edge.from) !== groupOf.get(edge.to));
  return [[...new Set(crossing.map((edge) => edge.from))].sort(), [...new Set(crossing.map((edge) => edge.to))].sort()];
}

function makeTable(id, title, rows, columns, groupName) {
  const named = (node) => (groupName === null && node.group ? `${node.group} / ${node.label}` : node.label);
  const header = (node, scope) => html("th", { scope, "data-id": node.id, title: node.url }, html("span", { class: `swatch c${colourOf(node.id)}`, "aria-hidden": "true" }), named(node));
  const top = html("tr", {}, html("th", { class: "corner", scope: "col" }, "from \\ to"), ...columns.map((node) => header(node, "col")));
  const body = rows.map((from) => html("tr", {}, header(from, "row"), ...columns.map((to) => {
    if (from.id === to.id) return html("td", { class: "self" }, html("span", { "aria-hidden": "true" }, "–"), html("span", { class: "hidden" }, "itself"));
    if (groupName === null && from.group === to.group) return html("td", { class: "self" }, html("span", { class: "hidden" }, "same group"));
    const cell = html("td", { "data-from": from.id, "data-to": to.id });
    parts.cells.push(cell);
    return cell;
  })));
  const table = html("table", {}, html("caption", { class: "hidden" }, `Who reaches whom: ${title}. Rows are sources, columns are targets.`), html("thead", {}, top), html("tbody", {}, ...body));
  const scroll = html("div", { class: "scroll", tabindex: "0", role: "region", "aria-labelledby": id }, table);
  const bar = html("div", { class: "bar" }, html("h2", { id }, title));
  if (groupName !== null) bar.append(html("span", { class: "chip", "data-group": groupName }));
  return html("section", { class: `card${groupName === null ? " between" : ""}${columns.length > WIDE_NODES ? " wide" : ""}${columns.length > HUGE_NODES ? " huge" : ""}`, "aria-labelledby": id }, bar, scroll);
}

function fillCell(cell, edge, source, before) {
  const state = edge?.state ?? (source.state === "answering" ? "" : "none");
  const looks = `${state} ${edge?.verdict ?? ""} ${edge?.outcome ?? ""} ${edge?.expected ?? ""} ${source.state}`;
  if (cell.dataset.looks === looks) return;
  const wasKnown = cell.dataset.state === "reachable" || cell.dataset.state === "blocked";
  if (before && wasKnown && cell.dataset.state !== state && !isStill.matches) cell.animate({ transform: ["scale(1.14)", "none"] }, { duration: 900, easing: "ease-out" });
  Object.assign(cell.dataset, { looks, state, verdict: edge?.verdict ?? "" });
  const word = edge ? WORD[state] : state === "none" ? (source.state === "silent" ? "silent" : "not asked yet") : "not probed";
  const isShort = state === "reachable" || state === "blocked" || state === "none";
  const sign = html("span", { class: "sign", "aria-hidden": "true" }, SIGN[state] ?? "");
  cell.replaceChildren(...(SIGN[state] ? [sign, " "] : []), html("span", { class: isShort ? "word" : "hidden" }, word));
  if (edge?.verdict === "wrong") cell.append(html("small", {}, `expected ${WORD[edge.expected ? "reachable" : "blocked"]}`));
  const why = edge?.outcome && edge.outcome !== "ok" ? ` (${edge.outcome})` : "";
  const should = edge?.expected === undefined || edge.expected === null ? "" : `, expected ${edge.expected ? "reachable" : "blocked"}`;
  cell.title = edge ? `${SAYS[state]}${why}${should}` : word;
}

function chipText(group) {
  if (!group.verdict) return "";
  const total = group.right + group.wrong + group.unknown;
  if (group.verdict === "right") return `✓ ${total} of ${total} as expected`;
  if (group.verdict === "wrong") return `! ${group.wrong} of ${total} not as expected`;
  return `… ${group.unknown} of ${total} not known yet`;
}

// --- Tiles, changes, messages ---

function drawTiles() {
  const { nodes, answering, reachable, blocked, right, wrong, unknown, verdict } = matrix.summary;
  const of = (id, value, total) => at(id).replaceChildren(String(value), html("small", {}, ` of ${total}`));
  of("tile-answering", answering, nodes);
  at("tile-reachable").textContent = reachable;
  at("tile-blocked").textContent = blocked;
  at("tile-expected-box").dataset.verdict = verdict;
  at("tile-expected-box").hidden = !verdict;
  of("tile-expected", right, right + wrong + unknown);
  document.title = wrong ? `! ${wrong} wrong – Star` : "Star: who reaches whom";
  board.classList.toggle("judged", Boolean(verdict));
  board.classList.toggle("pair", matrix.groups.length < 2);
  board.classList.toggle("many", matrix.groups.length > 1);
  const empty = at("empty");
  empty.hidden = parts.nodes.size > 0;
  if (!nodes) {
    const example = `curl -d '{"id":"A","url":"http://10.0.0.2:9000/status"}' ${location.origin}/resources`;
    empty.replaceChildren("No resources yet. Add a probe:", html("code", {}, example));
  } else if (!parts.nodes.size) empty.textContent = matrix.nodes.some((node) => node.state === "pending") ? "Asking the probes…" : "No probe answers.";
}

// What was not known before is no change.
function findChanges(before) {
  const nameOf = new Map(matrix.nodes.map((node) => [node.id, node.group && matrix.groups.length > 1 ? `${node.group} ${node.label}` : node.label]));
  const was = new Map(before.edges.map((edge) => [keyOf(edge.from, edge.to), edge.state]));
  const changes = matrix.edges
    .filter((edge) => ["reachable", "blocked"].includes(was.get(keyOf(edge.from, edge.to))) && was.get(keyOf(edge.from, edge.to)) !== edge.state)
    .map((edge) => ({ words: `${nameOf.get(edge.from)} to ${nameOf.get(edge.to)}`, now: SAYS[edge.state], state: edge.state }));
  const stateOf = new Map(before.nodes.map((node) => [node.id, node.state]));
  for (const node of matrix.nodes) {
    const now = { answering: "answers", silent: "does not answer", pending: "asked anew" }[node.state];
    const was = stateOf.get(node.id);
    if (was === undefined) changes.unshift({ words: nameOf.get(node.id), now: "added", state: node.state });
    else if (was !== "pending" && was !== node.state) changes.unshift({ words: nameOf.get(node.id), now, state: node.state });
  }
  const still = new Set(matrix.nodes.map((node) => node.id));
  for (const node of before.nodes) if (!still.has(node.id)) changes.unshift({ words: node.label, now: "removed", state: "silent" });
  return changes;
}

function tell(changes) {
  if (!changes.length) return;
  const time = new Date().toLocaleTimeString([], { hour12: false });
  const items = changes.slice(0, CHANGES_SHOWN).map(({ words, now, state }) => html("li", {}, html("time", {}, time), `${words} `, html("b", { class: `to-${state}` }, now)));
  const log = at("changes");
  log.querySelector(".none")?.remove();
  log.prepend(...items);
  while (log.children.length > CHANGES_SHOWN) log.lastChild.remove();
  const said = changes.slice(0, SAID_AT_ONCE).map(({ words, now }) => `${words}: ${now}`).join(". ");
  at("said").textContent = changes.length > SAID_AT_ONCE ? `${said}. And ${changes.length - SAID_AT_ONCE} more changes.` : `${said}.`;
}

function show(next) {
  const before = matrix;
  matrix = next;
  colours = pickColours(next);
  if (pinned && !matrix.nodes.some((node) => node.id === pinned)) pinned = "";
  board.classList.toggle("pair", matrix.groups.length < 2);
  drawGraph(before);
  drawTables(before);
  drawTiles();
  look(looking);
  if (before) tell(findChanges(before));
}

// Only the newest of what came meanwhile is drawn, and a page that takes long to draw is drawn less often.
function showSoon(text) {
  const isWaiting = waiting !== null;
  waiting = text;
  if (isWaiting) return;
  setTimeout(() => {
    const newest = waiting;
    waiting = null;
    const started = performance.now();
    show(JSON.parse(newest));
    pause = 2 * (performance.now() - started);
    ended = performance.now();
  }, Math.max(0, ended + pause - performance.now()));
}

function say(state, words) {
  at("live").dataset.state = state;
  at("live-text").textContent = words;
}

// --- Start ---

function startSwitch(id, name) {
  at(id).addEventListener("click", () => {
    const isOff = board.classList.toggle(`no-${name}`);
    at(id).setAttribute("aria-pressed", String(!isOff));
  });
}

function startTheme() {
  const root = document.documentElement;
  const pick = (theme) => (theme === "auto" ? delete root.dataset.theme : (root.dataset.theme = theme));
  let kept = "auto";
  try { kept = localStorage.getItem("star-theme") ?? "auto"; } catch { /* storage is forbidden: nothing is kept */ }
  for (const choice of document.querySelectorAll("input[name=theme]")) {
    choice.checked = choice.value === kept;
    choice.addEventListener("change", () => {
      pick(choice.value);
      try { localStorage.setItem("star-theme", choice.value); } catch { /* as above */ }
    });
  }
  pick(kept);
}

function startLooking() {
  const graph = at("stage"); // not the SVG itself: Chromium makes that a stop of the Tab key when it listens for focus
  const idOf = (event) => event.target.closest?.(".node")?.dataset.id ?? "";
  graph.addEventListener("pointerover", (event) => idOf(event) && look(idOf(event)));
  graph.addEventListener("pointerout", (event) => idOf(event) && look(pinned));
  graph.addEventListener("focusin", (event) => look(idOf(event)));
  graph.addEventListener("focusout", () => look(pinned));
  graph.addEventListener("click", (event) => {
    pinned = idOf(event) === pinned ? "" : idOf(event);
    look(pinned);
  });
  graph.addEventListener("keydown", walk);
  at("tables").addEventListener("pointerover", (event) => {
    const header = event.target.closest?.("th[data-id]");
    look(header ? header.dataset.id : pinned);
  });
  at("tables").addEventListener("pointerleave", () => look(pinned));
  new ResizeObserver(() => matrix && drawGraph(null)).observe(at("stage"));
}

async function showExample() {
  const answer = await fetch("matrix/example");
  show(await answer.json());
  say("example", "Example");
}

function follow() {
  const events = new EventSource("events");
  events.addEventListener("open", () => say("live", "Live"));
  events.addEventListener("error", () => {
    say("lost", "Connection lost");
    if (events.readyState === EventSource.CLOSED) {
      events.close();
      setTimeout(follow, 3000);
    }
  });
  events.addEventListener("matrix", (event) => showSoon(event.data));
}

startSwitch("toggle-unreachable", "unreachable");
startSwitch("toggle-markers", "markers");
startTheme();
startLooking();
if (new URLSearchParams(location.search).get("example") === "true") showExample();
else follow();
