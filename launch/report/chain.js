// The table of a recipe's stages in their order. An arc leads to each stage from every stage that it reads.
const ROLES = { model: ["model", "s1"], data: ["data", "s3"], teacher: ["teacher", "s4"], reward: ["reward", "s5"], measured: ["measured", "s6"] };
const STATES = { done: "done", begun: "begun", new: "not yet run" };

const stateOf = (s) => el("span", { class: `state ${s.state}` }, el("i", { "aria-hidden": "true" }), STATES[s.state]);
const counted = (n) => (n ? Math.round(n).toLocaleString("en") : "–");

function stageLink(name) {
  return page.stages.some((s) => s.name === name) ? el("a", { class: "quiet", href: `#stage-${name}` }, name) : name;
}

function inputsOf(s) {
  if (!s.inputs.length) return el("span", { class: "soft" }, "outside the recipe");
  if (s.kind === "Compare") return `${s.inputs.length} evaluations`;
  return s.inputs.map((i, k) => [k ? ", " : null, i.stage, i.role === "model" ? null : el("span", { class: "soft" }, ` (${ROLES[i.role][0]})`)]);
}

function chainSection() {
  const rows = page.chain.map((s) => el(
    "tr", { class: s.state === "new" ? "new" : null },
    el("td", { class: "rail" }), el("td", { class: "name" }, stageLink(s.name)),
    el("td", { class: "text" }, stateOf(s), s.state === "begun" && s.done ? el("span", { class: "soft" }, s.total ? `, step ${s.done} of ${s.total}` : `, step ${s.done}`) : null),
    el("td", { class: "text" }, s.kind), el("td", { class: "text" }, inputsOf(s)), el("td", null, s.seconds ? seconds(s.seconds) : "–"), el("td", null, counted(s.sampled)), el("td", null, counted(s.trained)),
  ));
  const text = (title) => el("th", { class: "text", scope: "col" }, title);
  const head = [el("th", { "aria-hidden": "true" }), text("Stage"), text("State"), text("Kind"), text("Reads"), "time", "tokens sampled", "tokens trained on"];
  const box = table(head, rows, { class: "stages" });
  const arcs = svg("svg", { class: "arcs", "aria-hidden": "true" });
  box.append(arcs);
  redraws.add(() => drawArcs(arcs, rows));
  rows.forEach((row, i) => {
    row.addEventListener("pointerenter", () => mark(arcs, i));
    row.addEventListener("pointerleave", () => mark(arcs, null));
  });
  const roles = [...new Set(page.chain.filter((s) => s.kind !== "Compare").flatMap((s) => s.inputs.map((i) => i.role)))];
  const keys = roles.map((r) => el("span", null, svg("svg", { width: 16, height: 10, "aria-hidden": "true" }, svg("path", { class: `arc ${ROLES[r][1]}`, d: "M0 5H16" })), ROLES[r][0]));
  const old = page.left_out.length ? el("p", { class: "note" }, `Not shown, because their settings are no longer those of the recipe: ${page.left_out.join(", ")}.`) : null;
  return section("chain", "Stages", "In the order they run. The arcs lead from a stage to those that read it.", el("div", { class: "phases apart" }, keys), box, old);
}

// The height of a row depends on its text, so the arcs can only be drawn once the table has been laid out.
function drawArcs(arcs, rows) {
  const table = rows[0].closest("table");
  const width = rows[0].cells[0].offsetWidth;
  const top = table.offsetTop;
  const middle = (row) => row.offsetTop + row.offsetHeight / 2;
  const at = new Map(page.chain.map((s, i) => [s.name, i]));
  arcs.setAttribute("viewBox", `0 0 ${width} ${table.offsetHeight}`);
  Object.assign(arcs.style, { top: `${top}px`, left: `${table.offsetLeft}px`, width: `${width}px`, height: `${table.offsetHeight}px` });
  const x = width - 7;
  const longest = Math.max(1, ...page.chain.flatMap((s, i) => (s.kind === "Compare" ? [] : s.inputs.map((from) => i - at.get(from.stage)))));
  const lines = page.chain.flatMap((s, i) => (s.kind === "Compare" ? [] : s.inputs.map((from) => {
    const j = at.get(from.stage);
    const bulge = 6 + (x - 12) * Math.sqrt((i - j) / longest);
    const [a, b] = [middle(rows[j]), middle(rows[i])];
    const c = x - bulge * 1.32;
    return svg("path", { class: `arc ${ROLES[from.role][1]}`, "data-ends": `${i} ${j}`, d: `M${x} ${a}C${c} ${a + 2} ${c} ${b - 2} ${x} ${b}` });
  })));
  const dots = page.chain.map((s, i) => svg("circle", { class: `stop ${s.state}`, cx: x, cy: middle(rows[i]), r: 4 }));
  arcs.replaceChildren(...lines, ...dots);
}

function mark(arcs, row) {
  for (const arc of arcs.querySelectorAll(".arc")) arc.classList.toggle("off", row !== null && !arc.dataset.ends.split(" ").includes(String(row)));
}
