// Where the time went: from the run's start to its end, in total by phase, and step by step.
const PHASES = {
  rollout: "f1", rewards: "f7", update: "f2", sync: "f4", rest: "f6", start: "f8", load: "f7", sft: "f5", save: "f6",
  evaluate: "f3", export: "f7", reference: "f5",
};
const STAGES = { sft: ["SFT", "f5"], grpo: ["GRPO", "f1"], eval: ["evaluation", "f3"] };
const colourOf = (phase, i) => PHASES[phase] || `f${(i % 6) + 1}`;

function timeline() {
  const runs = page.runs.filter((run) => run.times.columns.length || run.times.spans.length);
  if (!runs.length) return null;
  return section("time", "Where the time went", "From the run's start to its end, in total by phase, and within each GRPO step.", runs.map((run, i) =>
    el("div", { class: "time" }, two ? el("h4", null, colourKey(page.runs.indexOf(run)), run.name) : null, wallClock(run.times.spans), inAll(run.times.totals), bySteps(run.times, i), sideBySide(run.times.lanes)),
  ));
}

function strip(parts, label) {
  const sum = parts.reduce((a, p) => a + p.seconds, 0) || 1;
  return el("div", { class: "strip", role: "img", "aria-label": label }, parts.map((p) => {
    const piece = el("i", { class: p.colour, title: `${p.name}: ${seconds(p.seconds)}` });
    piece.style.width = `${(100 * p.seconds) / sum}%`;
    return piece;
  }));
}

function phaseList(parts) {
  return el("div", { class: "phases" }, parts.map((p) => el("span", null, el("i", { class: `swatch ${p.colour}` }), p.name, el("b", null, p.text))));
}

function wallClock(spans) {
  if (!spans.length) return null;
  const end = spans[spans.length - 1].end;
  const parts = [];
  let at = 0;
  const sums = new Map();
  for (const span of spans) {
    if (span.start - at > end / 2000) parts.push({ name: "between", seconds: span.start - at, colour: "f9" });
    const [name, colour] = STAGES[span.stage] || [span.stage, "f6"];
    parts.push({ name, seconds: span.end - span.start, colour });
    sums.set(name, { name, colour, seconds: (sums.get(name) ? sums.get(name).seconds : 0) + span.end - span.start });
    at = span.end;
  }
  const between = parts.filter((p) => p.name === "between").reduce((a, p) => a + p.seconds, 0);
  if (between > end / 100) sums.set("between", { name: "between stages: starting, saving, stopped", colour: "f9", seconds: between });
  const list = [...sums.values()].map((s) => ({ ...s, text: seconds(s.seconds) }));
  return [el("h4", null, "From start to end"), strip(parts, `The run from start to end, ${seconds(end)}`), phaseList(list)];
}

function inAll(totals) {
  const sum = Object.values(totals).reduce((a, b) => a + b, 0);
  if (!sum) return null;
  const parts = Object.entries(totals).filter(([, s]) => s > 0).sort((a, b) => b[1] - a[1])
    .map(([name, s], i) => ({ name, seconds: s, colour: colourOf(name, i), text: `${seconds(s)} · ${((100 * s) / sum).toFixed(0)} %` }));
  return [el("h4", null, `In total, ${seconds(sum)}`), strip(parts, "Time by phase"), phaseList(parts)];
}

function bySteps(times) {
  if (!times.columns.length) return null;
  const phases = times.phases.map((p, i) => [p, colourOf(p, i)]);
  return [el("h4", null, "Step by step"), stack({ columns: times.columns, phases, form: "seconds", title: "Seconds of each step by phase", height: 190, top: null })];
}

// Learners and samplers that work at the same time, each with the time in which it had nothing to do.
function sideBySide(lanes) {
  return lanes.flatMap((lane) => {
    const idle = (100 * lane.idle) / (lane.work + lane.idle || 1);
    const phases = [["at work", lane.name === "samplers" ? "f1" : "f2"], ["idle", "f9"]];
    const title = `Seconds of each step that the ${lane.name} were at work and idle`;
    return [
      el("h4", null, `The ${lane.name}: idle for ${seconds(lane.idle)} of the steps, ${idle.toFixed(0)} %`),
      stack({ columns: lane.columns, phases, form: "seconds", title, height: 120, top: null }),
    ];
  });
}

// Stacked columns. columns: {first, last, parts: one number for each phase}. top: end of the axis, or null.
function stack({ columns, phases, form, title, height, top }) {
  const show = FORMS[form];
  const values = phases.map(() => el("b"));
  const where = el("span", null, "");
  const means = phases.map((_, p) => columns.reduce((a, c) => a + c.parts[p], 0) / columns.length);
  const legend = el("div", { class: "phases" }, phases.map(([name, colour], i) => el("span", null, el("i", { class: `swatch ${colour}` }), name, values[i])), where);
  const plot = svg("svg", { class: "plot", height, role: "img", tabindex: 0, "aria-label": `${title}. Mean: ${phases.map(([n], i) => `${n} ${show(means[i])}`).join(", ")}. Arrow keys move along the steps.` });
  const high = top || Math.max(...columns.map((c) => c.parts.reduce((a, b) => a + b, 0))) * 1.05 || 1;
  const left = 42, foot = 20;
  let width = 0;
  let at = null;
  const mark = svg("rect", { class: "f6", opacity: 0.16, y: 0, height: height - foot, visibility: "hidden" });

  function draw() {
    width = plot.clientWidth;
    if (!width) return;
    plot.setAttribute("viewBox", `0 0 ${width} ${height}`);
    const y = (v) => 6 + (1 - v / high) * (height - foot - 6);
    const w = (width - left) / columns.length;
    const parts = [];
    for (const t of ticks(0, high, height > 150 ? 4 : 2)) {
      parts.push(svg("path", { class: "rule", d: `M${left} ${y(t).toFixed(1)}H${width}` }));
      parts.push(svg("text", { x: left - 7, y: y(t) + 3.5, "text-anchor": "end" }, form === "share" ? `${Math.round(100 * t)} %` : seconds(t)));
    }
    const bars = phases.map(() => "");
    columns.forEach((c, i) => {
      let base = 0;
      const gap = w > 6 ? Math.min(4, w * 0.18) : 0;
      c.parts.forEach((v, p) => {
        if (v > 0) bars[p] += `M${(left + i * w).toFixed(2)} ${y(base).toFixed(2)}V${y(base + v).toFixed(2)}h${(w - gap).toFixed(2)}V${y(base).toFixed(2)}Z`;
        base += v;
      });
    });
    phases.forEach(([, colour], p) => parts.push(svg("path", { d: bars[p], class: colour })));
    const every = Math.ceil(columns.length / Math.max(2, Math.floor(width / 90)));
    columns.forEach((c, i) => {
      if (i % every === 0) parts.push(svg("text", { x: left + i * w, y: height - 4 }, i ? String(c.first) : `step ${c.first}`));
    });
    plot.replaceChildren(...parts, mark);
    pick(null);
  }

  function pick(i) {
    at = i;
    const c = i === null ? null : columns[i];
    values.forEach((v, p) => (v.textContent = show(c ? c.parts[p] : means[p])));
    where.textContent = c ? `step ${c.first}${c.last > c.first ? ` to ${c.last}, mean` : ""}` : `mean of ${columns.length === 1 ? "one step" : "all steps"}`;
    mark.setAttribute("visibility", c ? "visible" : "hidden");
    if (!c) return;
    const w = (width - left) / columns.length;
    mark.setAttribute("x", left + i * w);
    mark.setAttribute("width", Math.max(1, w));
  }

  plot.addEventListener("pointermove", (e) => {
    const x = e.clientX - plot.getBoundingClientRect().left - left;
    pick(Math.max(0, Math.min(columns.length - 1, Math.floor((x / (width - left)) * columns.length))));
  });
  plot.addEventListener("pointerleave", () => pick(null));
  plot.addEventListener("blur", () => pick(null));
  plot.addEventListener("keydown", (e) => {
    const move = { ArrowLeft: -1, ArrowRight: 1 }[e.key];
    if (!move) return;
    e.preventDefault();
    pick(Math.max(0, Math.min(columns.length - 1, (at === null ? (move > 0 ? -1 : columns.length) : at) + move)));
    live.textContent = `${where.textContent}: ${phases.map(([n], p) => `${n} ${values[p].textContent}`).join(", ")}`;
  });
  redraws.add(draw);
  return el("figure", null, legend, plot);
}
