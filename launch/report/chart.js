// Line charts. All charts of a stage share one crosshair. of: {name, runs}, the runs whose points are drawn.
const smoothing = { window: 1 }; // points in each mean; 0: chosen for each line by its length
const cursors = new Map(); // "name of the runs:x axis" -> functions of its charts that show a step (null: none)
const axisOf = (key) => (key.startsWith("eval:") ? "grpo" : key.slice(0, key.indexOf(":")));

function pointAt(axis, step) {
  for (const show of cursors.get(axis) || []) show(step);
}

function xEnd(axis, of) {
  let end = 1;
  for (const run of of.runs) {
    for (const [key, p] of Object.entries(run.points)) if (axisOf(key) === axis) end = Math.max(end, p.x[p.x.length - 1]);
  }
  return end;
}

// For each point, the mean of the `window` points around it; near the ends, of as many as there are.
function smooth(y, window) {
  const reach = Math.floor(window / 2);
  const sums = [0];
  for (const v of y) sums.push(sums[sums.length - 1] + v);
  return y.map((_, i) => {
    const a = Math.max(0, i - reach);
    const b = Math.min(y.length, i + reach + 1);
    return (sums[b] - sums[a]) / (b - a);
  });
}

function ticks(low, high, count) {
  const raw = (high - low) / count;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 2.5, 5, 10].map((m) => m * power).find((s) => s >= raw * 0.999);
  const out = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + step * 1e-9; i++) out.push(i * step);
  return out;
}

function extent(lines, form) {
  let low = Infinity;
  let high = -Infinity;
  for (const line of lines) {
    line.y.forEach((v, i) => {
      const e = line.error ? line.error[i] || 0 : 0;
      low = Math.min(low, v - e);
      high = Math.max(high, v + e);
    });
  }
  if (form === "share") return [0, Math.min(1, high > 0.6 ? 1 : high * 1.1) || 1];
  if (low >= 0 && low < 0.6 * high) low = 0;
  if (high <= 0 && high > 0.6 * low) high = 0;
  if (high === low) [low, high] = [low - (Math.abs(low) || 1) * 0.5, high + (Math.abs(high) || 1) * 0.5];
  const pad = 0.06 * (high - low);
  return [low === 0 ? 0 : low - pad, high === 0 ? 0 : high + pad];
}

// One line for each curve and run. With two runs, the colour tells the run and the dashes tell the curve.
function linesOf(chart, of) {
  const out = [];
  chart.curves.forEach((curve, c) => {
    of.runs.forEach((run, r) => {
      const p = run.points[curve.key];
      if (!p) return;
      const errors = curve.error.includes(":") ? run.points[curve.error] : null;
      const at = errors ? new Map(errors.x.map((x, i) => [x, errors.y[i]])) : null;
      out.push({
        label: two ? `${run.name}, ${curve.label}` : curve.label, short: curve.label, run: r, curve: c,
        colour: (two ? r : c) % 6 + 1, dash: two && !curve.error ? c % 4 : 0, x: p.x, y: p.y, pooled: p.pooled,
        dots: curve.error !== "", hollow: curve.error === "-", error: at ? p.x.map((x) => at.get(x)) : null,
      });
    });
  });
  return out;
}

function key(line) {
  const mark = line.dots
    ? svg("circle", { cx: 8, cy: 5, r: 3.6, class: line.hollow ? `hollow s${line.colour}` : `dots f${line.colour}` })
    : svg("path", { d: "M0 5H16", class: `line s${line.colour} d${line.dash}` });
  return svg("svg", { width: 16, height: 10, "aria-hidden": "true" }, mark);
}

// The legend. With two runs and several curves it has an item for each curve, with both runs' values in their colours.
function items(chart, lines, names, values) {
  if (!two && lines.length === 1) return [el("span", { class: "item" }, values)];
  if (!two || chart.curves.length === 1) return lines.map((l, i) => el("span", { class: "item" }, key(l), el("span", null, names[i]), values[i]));
  return chart.curves.map((curve, c) => {
    const own = lines.map((l, i) => i).filter((i) => lines[i].curve === c);
    return own.length ? el("span", { class: "item" }, key({ ...lines[own[0]], colour: 6 }), el("span", null, curve.label), own.map((i) => values[i])) : null;
  });
}

function nearest(xs, x) {
  let low = 0;
  let high = xs.length - 1;
  while (high - low > 1) {
    const mid = (low + high) >> 1;
    if (xs[mid] <= x) low = mid;
    else high = mid;
  }
  return x - xs[low] <= xs[high] - x ? low : high;
}

function summary(chart, lines) {
  const form = FORMS[chart.form];
  const parts = lines.map((l) => {
    const n = l.x.length - 1;
    return `${l.label}: ${form(l.y[0])} at step ${l.x[0]}, ${form(l.y[n])} at step ${l.x[n]}`;
  });
  return `${chart.title}. ${parts.join("; ")}. Arrow keys move along the steps.`;
}

// The window for a line of n points until the reader chooses one: the smoothed line then has about 24 bends.
const calm = (n) => (n >= 24 ? 2 * Math.floor(n / 24) + 1 : 1);

function lineChart(chart, height = 132, of = page) {
  const lines = linesOf(chart, of);
  if (!lines.length) return null;
  const axis = `${of.name}:${axisOf(chart.curves[0].key)}`;
  const form = FORMS[chart.form];
  const values = lines.map((l) => el("b", two && chart.curves.length > 1 ? { class: `t${l.colour}` } : null));
  const names = lines.map((l) => (two && chart.curves.length === 1 ? of.runs[l.run].name : l.short));
  const where = el("span", null, "");
  const legend = el("div", { class: "legend" }, items(chart, lines, names, values), el("span", { class: "item" }, where));
  const plot = svg("svg", { class: "plot", height, role: "img", tabindex: 0, "aria-label": summary(chart, lines) });
  const pooled = Math.max(...lines.map((l) => l.pooled));
  const figure = el(
    "figure", { class: "chart" },
    el("figcaption", null, el("h4", null, chart.title), el("div", { class: "hint" }, chart.hint, pooled > 1 ? ` A point stands for ${pooled} steps.` : "")),
    legend, plot,
  );
  const state = { width: 0, x: null, y: null, cross: null };
  const end = xEnd(axisOf(chart.curves[0].key), of);

  function draw() {
    const width = plot.clientWidth;
    if (!width) return;
    state.width = width;
    const left = 42, right = 8, top = 8, bottom = 20;
    const [low, high] = extent(lines, chart.form);
    const x = (v) => left + (v / end) * (width - left - right);
    const y = (v) => top + ((high - v) / (high - low)) * (height - top - bottom);
    Object.assign(state, { x, y });
    plot.setAttribute("viewBox", `0 0 ${width} ${height}`);
    const parts = [];
    for (const t of ticks(low, high, height > 200 ? 5 : 3)) {
      parts.push(svg("path", { class: "rule", d: `M${left} ${y(t).toFixed(1)}H${width - right}` }));
      const text = chart.form === "share" ? `${Number((100 * t).toFixed(1))} %` : tick(Number(t.toPrecision(6)));
      parts.push(svg("text", { x: left - 7, y: y(t) + 3.5, "text-anchor": "end" }, text));
    }
    for (const t of ticks(0, end, Math.max(2, Math.min(8, Math.floor(width / 110)))).filter(Number.isInteger)) {
      parts.push(svg("text", { x: x(t), y: height - 4, "text-anchor": t === 0 ? "start" : "middle" }, t === 0 ? "step 0" : String(t)));
    }
    for (const l of lines) parts.push(...(l.dots ? drawDots(l, x, y) : drawLine(l, x, y)));
    state.cross = svg("g");
    parts.push(state.cross);
    plot.replaceChildren(...parts);
    show(null);
  }

  function show(step) {
    if (!state.cross) return;
    const marks = [];
    let shown = null;
    lines.forEach((l, i) => {
      const n = step === null ? l.x.length - 1 : nearest(l.x, step);
      const near = step === null || !l.dots || Math.abs(l.x[n] - step) <= end / 40;
      const error = l.error && l.error[n] !== undefined ? ` ± ${chart.form === "share" ? (100 * l.error[n]).toFixed(1) : number(l.error[n])}` : "";
      values[i].textContent = near ? form(l.y[n]) + error : "–";
      if (step !== null && near && !l.dots) {
        shown = l.x[n];
        const y = l.soft ? l.soft[n] : l.y[n];
        marks.push(svg("circle", { cx: state.x(l.x[n]), cy: state.y(y), r: 3, class: `dots f${l.colour}` }));
      }
    });
    where.textContent = step === null ? "" : `step ${shown === null ? Math.round(step) : shown}`;
    const at = shown === null ? step : shown;
    state.cross.replaceChildren(...(step === null ? [] : [svg("path", { class: "cross", d: `M${state.x(at)} 8V${height - 20}` }), ...marks]));
  }

  plot.addEventListener("pointermove", (e) => {
    const box = plot.getBoundingClientRect();
    const step = ((e.clientX - box.left - 42) / (state.width - 50)) * end;
    pointAt(axis, Math.max(0, Math.min(end, step)));
  });
  plot.addEventListener("pointerleave", () => pointAt(axis, null));
  let keyStep = null;
  plot.addEventListener("keydown", (e) => {
    const xs = lines[0].x;
    const moves = { ArrowLeft: -1, ArrowRight: 1, Home: -xs.length, End: xs.length };
    if (e.key === "Escape") pointAt(axis, (keyStep = null));
    if (!(e.key in moves)) return;
    e.preventDefault();
    const from = keyStep === null ? (moves[e.key] > 0 ? -1 : xs.length) : nearest(xs, keyStep);
    keyStep = xs[Math.max(0, Math.min(xs.length - 1, from + moves[e.key]))];
    pointAt(axis, keyStep);
    live.textContent = `Step ${keyStep}: ${lines.map((l, i) => `${l.label} ${values[i].textContent}`).join(", ")}`;
  });
  plot.addEventListener("blur", () => pointAt(axis, (keyStep = null)));
  if (!cursors.has(axis)) cursors.set(axis, new Set());
  cursors.get(axis).add(show);
  redraws.add(draw);
  return figure;
}

function path(xs, ys, x, y) {
  return xs.map((v, i) => `${i ? "L" : "M"}${x(v).toFixed(1)} ${y(ys[i]).toFixed(1)}`).join("");
}

function drawLine(line, x, y) {
  const window = Math.min(smoothing.window || calm(line.x.length), line.x.length);
  line.soft = window > 1 ? smooth(line.y, window) : null;
  if (line.x.length === 1) return [svg("circle", { cx: x(line.x[0]), cy: y(line.y[0]), r: 3, class: `f${line.colour}` })];
  const kind = `line s${line.colour} d${line.dash}`;
  if (!line.soft) return [svg("path", { d: path(line.x, line.y, x, y), class: kind })];
  return [
    svg("path", { d: path(line.x, line.y, x, y), class: `line raw s${line.colour}` }),
    svg("path", { d: path(line.x, line.soft, x, y), class: kind }),
  ];
}

function drawDots(line, x, y) {
  const out = [];
  line.x.forEach((v, i) => {
    const e = line.error ? line.error[i] : undefined;
    if (e) {
      const [a, b, at] = [y(line.y[i] - e), y(line.y[i] + e), x(v)];
      out.push(svg("path", { class: `whisker s${line.colour}`, d: `M${at - 4} ${a}h8M${at} ${a}V${b}M${at - 4} ${b}h8` }));
    }
    const shape = line.hollow ? `hollow s${line.colour}` : `dots f${line.colour}`;
    out.push(svg("circle", { cx: x(v), cy: y(line.y[i]), r: line.hollow ? 3.8 : 4.4, class: shape }));
  });
  return out;
}
