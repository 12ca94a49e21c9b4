(() => {
"use strict";
// Every text of a model is set as textContent: nothing here builds HTML from strings.
const SVG = "http://www.w3.org/2000/svg";
const ROW = 24, TOP = 30, LEFT = 52, RIGHT = 210;
const byId = (id) => document.getElementById(id);
const data = JSON.parse(byId("data").textContent);
const list = byId("prompt-list");
const isWide = data.experiments.length > 4;
const number = new Intl.NumberFormat("en-US");

function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

function drawn(tag, attributes = {}, text = null) {
  const made = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  if (text !== null) made.textContent = text;
  return made;
}

const plural = (n, word) => `${number.format(n)} ${word}${n === 1 ? "" : "s"}`;
const shownToken = (token) => token === null ? "(none)" : token.replace(/ /g, "␣").replace(/\n/g, "⏎").replace(/\t/g, "⇥");
const clip = (text, length) => text.length > length ? text.slice(0, length - 1) + "…" : text;
const verdict = (sequence) => sequence.correct === null ? "ungraded" : sequence.correct ? "right" : "wrong";
const ENDINGS = { length: "cut at the length limit", cut: "cut with its tree" };
const SIGNS = { right: "✓", wrong: "✕", ungraded: "○" };

/* ---- the list ---- */

const entries = data.prompts.map((prompt, place) => {
  const cells = prompt.cells.filter((cell) => cell !== null);
  const graded = cells.filter((cell) => cell[1] > 0);
  const solved = graded.filter((cell) => cell[2] > 0).length;
  return {
    ...prompt, place,
    haystack: `${prompt.index} ${prompt.text} ${prompt.target ?? ""}`.toLowerCase(),
    tokens: cells.reduce((sum, cell) => sum + cell[3], 0),
    rate: graded.length ? graded.reduce((sum, cell) => sum + cell[2] / cell[1], 0) / graded.length : 2,
    state: !graded.length ? "ungraded" : solved === graded.length ? "solved" : solved ? "differs" : "unsolved",
    item: null,
  };
});

function experimentName(experiment) {
  return experiment.folder ? `${experiment.title} (${experiment.folder})` : experiment.title;
}

function cellOf(cell, experiment) {
  if (cell === null) return element("span", { class: "cell" }, "–");
  const [sequences, graded, correct] = cell;
  const bar = element("span", { class: "bar" });
  const part = (kind, share) => { const i = element("i", { class: kind }); i.style.width = `${100 * share}%`; bar.append(i); };
  if (graded) { part("right", correct / sequences); part("wrong", (graded - correct) / sequences); }
  const says = !graded ? `${sequences} ungraded` : isWide ? `${correct}/${sequences}` : `${correct} of ${sequences} right`;
  const made = element("span", { class: "cell" }, element("span", {}, says), bar);
  made.title = made.dataset.name = experimentName(experiment);
  return made;
}

function makeItem(entry) {
  const row = element("button", { class: "row", type: "button", "aria-expanded": "false", id: `prompt-${entry.key}` },
    element("span", { class: "index" }, String(entry.index)),
    element("span", { class: "text" }, entry.text),
    ...entry.cells.map((cell, i) => cellOf(cell, data.experiments[i])));
  row.addEventListener("click", () => toggle(entry));
  return element("li", {}, row);
}

function refresh() {
  const words = byId("search").value.toLowerCase().split(/\s+/).filter(Boolean);
  const show = byId("show").value;
  const shown = entries.filter((entry) =>
    (show === "all" || entry.state === show) && words.every((word) => entry.haystack.includes(word)));
  const orders = {
    number: (a, b) => a.place - b.place,
    tokens: (a, b) => b.tokens - a.tokens || a.place - b.place,
    hard: (a, b) => a.rate - b.rate || a.place - b.place,
  };
  shown.sort(orders[byId("order").value]);
  list.replaceChildren(...shown.map((entry) => entry.item ??= makeItem(entry)));
  byId("count").textContent = shown.length === entries.length ? plural(shown.length, "prompt")
    : `${number.format(shown.length)} of ${plural(entries.length, "prompt")}`;
}

async function toggle(entry, open = !entry.item.classList.contains("open")) {
  entry.item.classList.toggle("open", open);
  entry.item.firstChild.setAttribute("aria-expanded", String(open));
  entry.item.querySelector(".panel")?.remove();
  if (!open) return;
  const panel = element("div", { class: "panel" });
  entry.item.append(panel);
  const available = data.experiments.map((_, i) => i).filter((i) => entry.cells[i] !== null);
  entry.available = available;
  entry.chosen ??= available.find((i) => data.experiments[i].kind !== "parallel") ?? available[0];
  await showExperiment(entry, panel, entry.chosen);
  if (entry.item.getBoundingClientRect().bottom > innerHeight) entry.item.scrollIntoView({ block: "start" });
}

/* ---- one prompt ---- */

async function unpack(id) {
  const packed = Uint8Array.from(atob(byId(id).textContent), (character) => character.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Response(stream).json();
}

async function showExperiment(entry, panel, chosen, focusTab = false) {
  const available = entry.available;
  entry.chosen = chosen;
  entry.width = panel.clientWidth;
  const detail = await unpack(`detail-${entry.key}-${chosen}`);
  const tabs = element("div", { class: "tabs", role: "tablist", "aria-label": "Experiment" });
  available.forEach((i, place) => {
    const tab = element("button", { type: "button", role: "tab", "aria-selected": String(i === chosen), tabindex: i === chosen ? "0" : "-1" },
      experimentName(data.experiments[i]));
    tab.addEventListener("click", () => showExperiment(entry, panel, i, true));
    tab.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (!step) return;
      event.preventDefault();
      const next = available[(place + step + available.length) % available.length];
      showExperiment(entry, panel, next, true);
    });
    tabs.append(tab);
  });
  const target = detail.target === null ? "No target." : `Target ${clip(detail.target, 80)}.`;
  const saved = detail.naive > detail.generated ? ` of ${number.format(detail.naive)} without shared prefixes` : "";
  const note = element("div", { class: "note", role: "status" });
  panel.replaceChildren(
    element("p", { class: "problem-text" }, detail.prompt + (detail.isCut ? " …" : "")),
    tabs,
    element("p", { class: "totals" },
      `${target} ${plural(detail.sequences.length, "sequence")}, ${plural(detail.generated, "token")} generated${saved}.`),
    // A box of its own: the note sticks to the window's edge over the tree, and never over what is above it.
    legend(detail), element("div", {}, treeOf(detail, note, panel.clientWidth - 28), note));
  say(note, element("p", { class: "empty" }, detail.forks.length
    ? "Point at a fork to read what was said around it, or at a sequence to read how it ends."
    : "Point at a sequence to read how it ends."));
  if (focusTab) tabs.querySelector("[aria-selected=true]").focus();
}

function legend(detail) {
  const made = element("p", { class: "legend" });
  const kinds = new Set(detail.sequences.map(verdict));
  const sample = (name, text) => {
    const svg = drawn("svg", { width: 44, height: 14, class: "tree-sample" });
    svg.append(drawn("path", { d: "M1 7H33", class: `run ${name}` }));
    if (name !== "shared") svg.append(mark(name, 37, 7));
    made.append(element("span", {}, svg, text));
  };
  if (kinds.has("right")) sample("right", "right");
  if (kinds.has("wrong")) sample("wrong", "wrong");
  if (kinds.has("ungraded")) sample("ungraded", "ungraded");
  if (detail.forks.length) sample("shared", "shared by the sequences below");
  return made;
}

function mark(kind, x, y) {
  if (kind === "wrong") return drawn("path", { class: "mark wrong", d: `M${x - 4} ${y - 4}l8 8m0 -8l-8 8` });
  return drawn("circle", { class: `mark ${kind}`, cx: x, cy: y, r: kind === "right" ? 5 : 4 });
}

/* ---- the tree ---- */

// Children stand below their parent, the last fork first: then no line crosses another.
function rowsOf(sequences) {
  const children = new Map();
  sequences.forEach((sequence, i) => {
    const key = sequence.parent ?? -1;
    if (!children.has(key)) children.set(key, []);
    children.get(key).push(i);
  });
  const order = [], stack = [...(children.get(-1) ?? [])].reverse();
  while (stack.length) {
    const i = stack.pop();
    order.push(i);
    const below = [...(children.get(i) ?? [])].sort((a, b) => sequences[a].fork - sequences[b].fork || b - a);
    stack.push(...below);
  }
  return { order, children };
}

function niceStep(length) {
  const rough = Math.max(1, length / 6), power = 10 ** Math.floor(Math.log10(rough));
  return [1, 2, 5, 10].map((factor) => factor * power).find((step) => step >= rough) ?? rough;
}

function treeOf(detail, note, width) {
  const sequences = detail.sequences;
  const { order, children } = rowsOf(sequences);
  const longest = Math.max(1, ...sequences.map((sequence) => sequence.tokens));
  const plotWidth = Math.max(260, width - LEFT - RIGHT);
  const x = (position) => LEFT + position / longest * plotWidth;
  const y = new Map(order.map((sequence, row) => [sequence, TOP + row * ROW + ROW / 2]));
  const height = TOP + order.length * ROW + 6;
  const svg = drawn("svg", { class: "tree", width: LEFT + plotWidth + RIGHT, height, role: "group",
    "aria-label": `Branch tree of ${plural(sequences.length, "sequence")} and ${plural(detail.forks.length, "fork")}` });
  drawAxis(svg, x, longest, height);
  const groups = new Map();
  for (const i of order) groups.set(i, drawSequence(svg, i, detail, children, x, y));
  const items = [...order.map((i) => ({ group: groups.get(i), open: () => sayEnding(note, i, detail) }))];
  detail.forks.forEach((fork) => items.push({
    group: drawFork(svg, fork, sequences, x, y),
    open: () => sayFork(note, fork),
    mates: [groups.get(fork.parent), groups.get(fork.child)],
  }));
  connect(svg, items, groups);
  return svg;
}

function drawAxis(svg, x, longest, height) {
  const step = niceStep(longest);
  for (let position = 0; position <= longest; position += step) {
    svg.append(drawn("line", { class: "axis", x1: x(position), x2: x(position), y1: TOP - 6, y2: height }),
      drawn("text", { x: x(position), y: 14, "text-anchor": position ? "middle" : "start" }, number.format(position)));
  }
  svg.append(drawn("text", { x: x(longest) + 16, y: 14 }, "tokens"));
}

function drawSequence(svg, i, detail, children, x, y) {
  const sequence = detail.sequences[i], row = y.get(i), kind = verdict(sequence);
  const start = x(sequence.fork), end = Math.max(start + 3, x(sequence.tokens));
  const forks = (children.get(i) ?? []).map((child) => detail.sequences[child].fork);
  const lastFork = forks.length ? x(Math.max(sequence.fork, ...forks)) : start;
  const answer = sequence.answer === null ? "no answer" : clip(sequence.answer.replace(/\s+/g, " "), 18);
  const group = drawn("g", { class: "item sequence", tabindex: "-1", role: "button",
    "aria-label": `Sequence ${i}, ${kind}, ${sequence.answer === null ? "no answer" : "answer " + clip(sequence.answer, 60)}, ${plural(sequence.tokens, "token")}` });
  group.append(drawn("rect", { class: "hit", x: start, y: row - ROW / 2, width: end - start + RIGHT, height: ROW }));
  if (sequence.parent !== null && y.has(sequence.parent)) {
    const above = y.get(sequence.parent);
    group.append(drawn("path", { class: "drop", d: `M${start} ${above}V${row - 7}Q${start} ${row} ${start + 7} ${row}` }));
  }
  const from = sequence.parent === null ? start : Math.min(start + 7, end);
  if (lastFork > from) group.append(drawn("path", { class: "run shared", d: `M${from} ${row}H${lastFork}` }));
  group.append(drawn("path", { class: `run ${kind}`, d: `M${Math.max(from, lastFork)} ${row}H${Math.max(end - 5, from, lastFork)}` }),
    mark(kind, end, row),
    drawn("text", { class: `label name-${kind}`, x: end + 13, y: row + 4 }, `${SIGNS[kind]} ${answer}`),
    drawn("text", { x: LEFT - 14, y: row + 4, "text-anchor": "end" }, String(i)));
  svg.append(group);
  return group;
}

function drawFork(svg, fork, sequences, x, y) {
  const group = drawn("g", { class: "item fork", tabindex: "-1", role: "button",
    "aria-label": `Fork at token ${fork.position}: ${shownToken(fork.kept)} or ${shownToken(fork.new)}, entropy ${fork.entropy}, threshold ${fork.threshold}` });
  const place = x(fork.position), row = y.get(fork.parent) ?? y.get(fork.child);
  group.append(drawn("circle", { class: "hit", cx: place, cy: row, r: 9 }), drawn("circle", { class: "knot", cx: place, cy: row, r: 4.2 }));
  svg.append(group);
  return group;
}

// One tab stop for the whole tree; arrows walk from item to item, in reading order.
function connect(svg, items, groups) {
  const place = (item) => {
    const knot = item.group.querySelector(".knot");
    const at = knot ?? item.group.querySelector(".label");
    return knot ? [Number(at.getAttribute("cy")), Number(at.getAttribute("cx"))] : [Number(at.getAttribute("y")) - 4, Number(at.getAttribute("x"))];
  };
  const ordered = items.map((item) => ({ ...item, at: place(item) })).sort((a, b) => a.at[0] - b.at[0] || a.at[1] - b.at[1]);
  const choose = (item) => {
    for (const other of ordered) other.group.classList.remove("current");
    for (const group of groups.values()) group.classList.remove("path");
    item.group.classList.add("current");
    item.mates?.forEach((group) => group?.classList.add("path"));
    for (const other of ordered) other.group.setAttribute("tabindex", other === item ? "0" : "-1");
    item.open();
  };
  ordered.forEach((item, i) => {
    item.group.addEventListener("mouseenter", () => choose(item));
    item.group.addEventListener("click", () => item.group.focus());
    item.group.addEventListener("focus", () => choose(item));
    item.group.addEventListener("keydown", (event) => {
      const next = { ArrowRight: i + 1, ArrowLeft: i - 1, Home: 0, End: ordered.length - 1 }[event.key]
        ?? (event.key === "ArrowDown" ? ordered.findIndex((other) => other.at[0] > item.at[0] + 1) : undefined)
        ?? (event.key === "ArrowUp" ? ordered.findLastIndex((other) => other.at[0] < item.at[0] - 1) : undefined);
      if (next === undefined) return;
      event.preventDefault();
      event.stopPropagation();
      ordered[Math.max(0, Math.min(ordered.length - 1, next))].group.focus();
    });
  });
  (ordered.find((item) => item.group.classList.contains("fork")) ?? ordered[0])?.group.setAttribute("tabindex", "0");
}

/* ---- what is said beside the tree ---- */

function say(note, ...parts) { note.replaceChildren(...parts); }

function sayFork(note, fork) {
  const heading = element("h4", {}, `Fork at token ${number.format(fork.position)}`,
    element("span", {}, `entropy ${fork.entropy.toFixed(3)}`), element("span", {}, `threshold ${fork.threshold.toFixed(3)}`));
  const line = (kind, name, token, after) => [element("dt", {}, name),
    element("dd", {}, element("p", {}, element("mark", { class: kind }, shownToken(token)), after))];
  const body = element("dl", { class: "fork-text" },
    element("dd", { class: "lead" }, element("p", {}, fork.before || "(the start of the generation)")),
    ...line("kept", `sequence ${fork.parent ?? "?"} went on`, fork.kept, fork.afterKept),
    ...line("new", `sequence ${fork.child} began`, fork.new, fork.afterNew));
  const parts = [heading, body];
  if (fork.sampled !== fork.kept) parts.push(element("p", { class: "swap" }, `Sampled was ${shownToken(fork.sampled)}; the branch kept the likeliest token.`));
  say(note, ...parts);
}

function sayEnding(note, i, detail) {
  const sequence = detail.sequences[i];
  const heading = element("h4", {}, `Sequence ${i} is ${verdict(sequence)}`,
    element("span", {}, sequence.answer === null ? "no answer" : `answer ${clip(sequence.answer, 100)}`),
    element("span", {}, plural(sequence.tokens, "token") + (sequence.fork ? `, ${number.format(sequence.fork)} from its parent` : "")));
  if (sequence.finish && sequence.finish !== "stop") heading.append(element("span", {}, ENDINGS[sequence.finish] || "ended in an error"));
  say(note, heading, element("p", {}, "… " + sequence.ending));
}

/* ---- keys ---- */

document.addEventListener("keydown", (event) => {
  const typing = /^(INPUT|SELECT|TEXTAREA)$/.test(document.activeElement?.tagName ?? "");
  if (event.key === "/" && !typing && !event.ctrlKey && !event.metaKey) {
    event.preventDefault();
    byId("search").focus();
    return;
  }
  const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
  const rows = [...list.querySelectorAll(".row")];
  if (event.key === "Escape") {
    const item = document.activeElement?.closest?.("#prompt-list > li.open");
    const entry = item && entries.find((candidate) => candidate.item === item);
    if (entry) { toggle(entry, false); item.firstChild.focus(); }
  } else if (step && document.activeElement?.id === "search" && step > 0) {
    event.preventDefault();
    rows[0]?.focus();
  } else if (step && document.activeElement?.classList.contains("row")) {
    const next = rows[rows.indexOf(document.activeElement) + step];
    event.preventDefault();
    (next ?? (step < 0 ? byId("search") : null))?.focus();
  }
});

byId("filters").addEventListener("submit", (event) => event.preventDefault());
for (const id of ["search", "show", "order"]) byId(id).addEventListener("input", refresh);
document.documentElement.style.setProperty("--columns", String(data.experiments.length));
document.documentElement.style.setProperty("--cell", isWide ? "64px" : "112px");
byId("list-head").append(element("span", {}, "no."), element("span", {}, "prompt"),
  ...data.experiments.map((experiment) => element("span", {}, experimentName(experiment))));
refresh();
let resizing = 0;
addEventListener("resize", () => {
  clearTimeout(resizing);
  resizing = setTimeout(() => {
    for (const entry of entries) {
      const panel = entry.item?.querySelector(".panel");
      if (panel && panel.clientWidth !== entry.width) showExperiment(entry, panel, entry.chosen);
    }
  }, 200);
});
const linked = /^#prompt-(\d+)$/.exec(location.hash);
const entry = linked && entries.find((candidate) => candidate.key === Number(linked[1]));
if (entry) { toggle(entry, true); entry.item.scrollIntoView(); }
})();
