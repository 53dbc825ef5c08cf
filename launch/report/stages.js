// All evaluations of a recipe in one table, and a section for each stage that trains or makes data.
const COLUMNS = { "pass@1": "pass@1", greedy: "greedy", format_share: "right form", language: "one language", truncated_share: "cut at the limit", "rollout/length_mean": "tokens", "thought/length_mean": "of thought", "answer/length_mean": "of answer", without_verdict: "no verdict" };
const ORDER = ["pass@1", "pass@", "cons@", "best@", "weighted@", "search@", "greedy", "format_share", "language", "truncated_share", "rollout/length_mean", "thought/length_mean", "answer/length_mean"];

function resultNames() {
  const all = page.results.flatMap((r) => r.rows);
  const names = [...new Set(all.flatMap((m) => Object.keys(m.values)))].filter((n) => n !== "without_verdict" || all.some((m) => m.values[n] && m.values[n].value));
  const place = (n) => {
    const i = ORDER.findIndex((o) => n === o || (o.endsWith("@") && n.startsWith(o)));
    return i < 0 ? ORDER.length : i;
  };
  return names.sort((a, b) => place(a) - place(b) || a.localeCompare(b, "en", { numeric: true }));
}

function resultsSection() {
  const names = resultNames();
  if (!names.length) return section("results", "Evaluations", "Nothing has been measured yet.");
  const most = Math.max(...page.results.flatMap((r) => r.rows.map((m) => (m.values["pass@1"] ? m.values["pass@1"].value + (m.values["pass@1"].stderr || 0) : 0))));
  const top = most > 0.5 ? 1 : Math.ceil(most * 10 + 1e-9) / 10 || 1;
  const head = ["Stage", el("th", { class: "text meter", scope: "col" }, `pass@1, 0 to ${Math.round(100 * top)} %`), ...names.map((n) => COLUMNS[n] || n.replace(/_share$/, "").replaceAll(/[_/]/g, " "))];
  const rows = page.results.flatMap((r) => [
    el("tr", { class: "sub" }, el("th", { colspan: head.length, scope: "rowgroup" }, el("span", { class: "stay" }, r.data || "held-out data", el("span", { class: "soft small" }, sizes(r.rows))))),
    r.rows.map((m) => el("tr", null, el("td", null, m.stage, el("div", { class: "small soft" }, m.when || `of ${m.model}`)), el("td", { class: "meter" }, meter(m.values["pass@1"], top)), names.map((n) => cell(m.values[n], n)))),
  ]);
  return section("results", "Evaluations", "All models that were measured, in the order of the stages. ± is one standard error over the problems.", table(head, rows, { class: "measured" }));
}

function sizes(rows) {
  const said = [...new Set(rows.filter((m) => m.problems).map((m) => `${m.problems} problems${m.samples ? ` × ${m.samples} samples` : ""}`))];
  return said.length ? `  ${said.join("; ")}` : "";
}

function cell(v, name) {
  if (!v) return el("td", null, "–");
  const error = v.stderr === null ? null : el("span", { class: "err" }, ` ± ${isShare(name) ? fixed(100 * v.stderr, 1) : number(v.stderr)}`);
  return el("td", null, isShare(name) ? share(v.value) : number(v.value), error);
}

// A dot on a scale from 0 to top, with its standard error.
function meter(v, top) {
  if (!v) return null;
  const x = (a) => 5 + 110 * Math.max(0, Math.min(1, a / top));
  const e = v.stderr || 0;
  return svg("svg", { class: "plot", width: 120, height: 16, role: "img", "aria-label": share(v.value) },
    svg("path", { class: "rule", d: "M5 8H115" }), svg("path", { class: "whisker s1", d: `M${x(v.value - e)} 8H${x(v.value + e)}` }), svg("circle", { class: "dots f1", cx: x(v.value), cy: 8, r: 4.2 }));
}

// ---- a section for each stage

function stageSections() {
  smoothing.window = 0;
  const parts = page.stages.map((s) => {
    const about = el("p", { class: "lead" }, s.kind, " · ", stateOf(s), " · ", el("code", null, s.folder));
    const facts = el("dl", { class: "facts" }, s.facts.map((f) => el("div", null, el("dt", null, f.label), el("dd", null, visible(f.value)))));
    const made = section(`stage-${s.name}`, s.name, null, about, facts, s.kind === "SFT" || s.kind === "GRPO" ? stageCurves(s) : dataMade(s));
    made.dataset.sub = "1";
    return made;
  });
  const waiting = page.chain.filter((s) => s.state === "new").map((s) => s.name);
  if (waiting.length && parts.length) parts[parts.length - 1].append(el("p", { class: "note apart" }, `Not yet run: ${waiting.join(", ")}.`));
  return parts;
}

function stageCurves(s) {
  const of = { name: s.name, runs: [s] };
  const drawn = s.charts.map((c) => lineChart(c, 132, of)).filter(Boolean);
  if (!drawn.length) return el("p", { class: "note" }, "No step has been recorded yet.");
  const rest = s.more.map((part) => [part.title, part.charts.map((c) => lineChart(c, 132, of)).filter(Boolean)]).filter(([, charts]) => charts.length);
  const count = rest.reduce((n, [, charts]) => n + charts.length, 0);
  const same = s.steady.length ? el("p", { class: "note" }, `The same at every step: ${s.steady.map((x) => `${x.label} ${number(x.value)}`).join(", ")}.`) : null;
  const more = count || same ? el("details", { class: "group", ontoggle: redraw }, el("summary", null, count ? `${count} more curves` : "What never changed"),
    rest.map(([title, charts]) => el("div", { class: "group" }, el("h3", null, title), el("div", { class: "grid" }, charts))), same) : null;
  return [el("div", { class: "grid apart" }, drawn), more];
}

// What rejection sampling kept, and why it dropped the rest; for another dataset, its manifest.
function dataMade(s) {
  const y = s.counted;
  if (y && typeof y === "object" && y.by_reason && typeof y.by_reason === "object") return yieldOf(y);
  if (y !== null) return tree(y);
  return el("p", { class: "note" }, s.kept_share === null ? "It has not made any data yet." : `Still running. Kept so far: ${share(s.kept_share)} of the samples.`);
}

function yieldOf(y) {
  const all = Number(y.samples) || 0;
  const reasons = Object.entries(y.by_reason).sort((a, b) => (b[0] === "kept") - (a[0] === "kept") || b[1] - a[1]);
  const colours = ["f2", "f5", "f4", "f7", "f6", "f8"];
  const colour = (name, i) => (name === "kept" ? "f3" : colours[i % colours.length]);
  const kept = Number(y.by_reason.kept) || 0;
  const first = reasons[0] && reasons[0][0] === "kept" ? 1 : 0;
  const pieces = reasons.map(([name, n], i) => ({ name, n, colour: colour(name, i - first) }));
  const bar = el("div", { class: "strip", role: "img", "aria-label": `Kept ${kept} of ${all} samples` }, pieces.map((p) => {
    const piece = el("i", { class: p.colour, title: `${p.name}: ${p.n}` });
    piece.style.width = `${(100 * p.n) / (all || 1)}%`;
    return piece;
  }));
  const said = `Kept ${kept.toLocaleString("en")} of ${all.toLocaleString("en")} samples (${share(all ? kept / all : 0)}), for ${Number(y.prompts_with_a_sample).toLocaleString("en")} of ${Number(y.prompts).toLocaleString("en")} prompts.`;
  const rows = pieces.map((p) => el("tr", null, el("td", null, el("i", { class: `swatch inline ${p.colour}` }), visible(p.name)), el("td", null, p.n.toLocaleString("en")), el("td", null, share(all ? p.n / all : 0))));
  return [el("p", { class: "said" }, said), bar, table(["Outcome", "samples", "share"], rows, { class: "narrow" })];
}
