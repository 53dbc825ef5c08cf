// The first sections: title and headline, results, claims, evaluations.

function section(id, title, lead, ...content) {
  return el("section", { id, "aria-labelledby": `${id}-title` }, el("h2", { id: `${id}-title` }, title), lead ? el("p", { class: "lead" }, lead) : null, content);
}

const colourKey = (i) => (two ? el("span", { class: `key f${i + 1}`, "aria-hidden": "true" }) : null);

function headOf(run, i) {
  const main = run.results.find((r) => r.form === "share" && r.before);
  return el(
    "div", { class: "head" },
    el("div", { class: "status" }, el("span", { class: run.finished ? "dot" : "dot live" }), run.finished ? "Finished" : "Not finished when this was written"),
    el(two ? "h2" : "h1", null, colourKey(i), run.name),
    run.model ? el("p", { class: "model" }, run.model) : null,
    main ? headline(main, run) : null,
    el("dl", { class: "facts" }, run.facts.map((f) => el("div", null, el("dt", null, f.label), el("dd", null, f.value)))),
  );
}

function headline(row, run) {
  const big = el("span", { class: "big" });
  if (row.after) big.append(el("span", { class: "from" }, `${share(row.before.value).replace(" %", "")} → `));
  big.append(share((row.after || row.before).value));
  const gain = row.change ? [el("b", null, withError(row.change, "share", true), " points")] : [];
  const problems = Math.max(0, ...run.evaluations.map((e) => e.correct_P.length));
  const about = [row.change ? " on " : "on ", problems ? `${problems} held-out problems` : "held-out problems", ", sampled"];
  return el("div", { class: "headline" }, big, el("span", { class: "gain" }, gain, about));
}

function overview() {
  const many = page.runs.some((r) => r.results.length);
  const hero = lineChart(page.accuracy, 300);
  return [
    two ? el("h1", { class: "unseen" }, page.title) : null,
    el("div", { class: "heads" }, page.runs.map(headOf)),
    section(
      "results", "Results", null,
      hero ? el("div", { class: "hero" }, hero) : null,
      many ? resultsTable() : el("p", { class: "note" }, "Nothing has been measured yet."),
      page.runs.map((run, i) => shiftNote(run, i)),
    ),
  ];
}

function resultsTable() {
  const head = [two ? "" : "Measured", "before", "after", "change"];
  const rows = page.runs.flatMap((run, i) => [
    two ? el("tr", { class: "sub" }, el("th", { colspan: 4, scope: "rowgroup" }, colourKey(i), run.name)) : null,
    run.results.map((r) => {
      const unit = r.form === "share" ? ", %" : "";
      const size = Math.max(...[r.before, r.after].filter(Boolean).map((v) => Math.abs(v.value)));
      const cells = [withError(r.before, r.form, false, size), withError(r.after, r.form, false, size), withError(r.change, r.form, true, size)];
      return el("tr", null, el("td", null, r.label + unit), cells.map((c) => el("td", null, c)));
    }),
  ]);
  return [table(head, rows, { class: "results" }), el("p", { class: "note" }, "± is one standard error; of a change in pass@1, paired over the problems.")];
}

function shiftNote(run, i) {
  if (!run.shift) return null;
  const { better, same, worse } = run.shift;
  return el("p", { class: "note" }, two ? [colourKey(i), `${run.name}: `] : null,
    `Of ${better + same + worse} problems, ${better} are solved more often than at the start, ${same} as often, ${worse} less often.`);
}

// ---- claims: what was claimed, the two numbers compared, and whether the claim held

function claims() {
  const some = page.runs.filter((run) => run.claims !== null);
  if (!some.length) return null;
  return section("claims", "Claims", "Each claim, what was measured, and whether it held.", some.map((run) => [two ? el("h4", { class: "apart" }, run.name) : null, claimsTable(run.claims)]));
}

function claimsTable(rows) {
  if (!Array.isArray(rows) || !rows.every((r) => r && typeof r === "object" && "claim" in r && "holds" in r)) return tree(rows);
  return table(["Claim", "measured", "against", "difference", "held"], rows.map((r) => {
    const form = claimForm(r.left && typeof r.left === "object" ? r.left.name : "");
    const side = (v) => el("td", null, v && typeof v === "object" ? [figure(v, form, false), el("div", { class: "small soft" }, measure(v.name))] : "–");
    const verdict = el("td", { class: r.holds ? "held" : "failed" }, r.holds ? "✓ held" : "✗ did not hold", "z" in r ? el("div", { class: "small soft" }, wanted(r, form), r.stderr === null ? "; its error is not known" : null) : null);
    return el("tr", null, el("td", null, visible(String(r.claim))), side(r.left), side(r.right), el("td", null, figure({ value: r.difference, stderr: r.stderr }, form, true)), verdict);
  }), { class: "claims" });
}

// "@zero:before/pass@1" as words for a reader; and whether that metric is a share.
const measure = (name) => visible(String(name).replace(/^@/, "").replace(":", " "));
const claimForm = (name) => (isShare(String(name).replace(/^.*:(before\/)?/, "")) ? "share" : "number");
const wanted = (c, form) => `wanted more than ${form === "share" ? `${tick(Number((100 * c.at_least).toPrecision(3)))} points` : tick(c.at_least)}, by ${tick(c.z)} standard errors`;

function figure(v, form, signed) {
  const known = (x) => x !== null && x !== undefined;
  if (!known(v.value)) return "–";
  const unit = form !== "share" ? null : signed ? " points" : " %";
  return [withError({ value: v.value, stderr: known(v.stderr) && v.stderr ? v.stderr : null }, form, signed, Math.abs(v.value)), unit];
}

// ---- evaluation

const isShare = (n) => /^(pass@|cons|best@|weighted@|search@[^/]*$)|_share$|^greedy$|^language$/.test(n);

function evaluation() {
  const some = page.runs.filter((run) => run.evaluations.length);
  if (!some.length) return null;
  const names = [...new Set(some.flatMap((r) => r.evaluations.flatMap((e) => Object.keys(e.metrics))))].filter((n) => !n.endsWith("stderr") && n !== "without_verdict");
  const head = ["After step", ...names.map((n) => NAMES[n] || n)];
  const rows = page.runs.flatMap((run, i) => [
    two && run.evaluations.length ? el("tr", { class: "sub" }, el("th", { colspan: head.length, scope: "rowgroup" }, colourKey(i), run.name)) : null,
    run.evaluations.map((e) => el("tr", null, el("td", null, String(e.step)), names.map((n) => {
      const v = e.metrics[n];
      const error = n === "pass@1" && e.metrics.stderr !== undefined ? el("span", { class: "err" }, ` ± ${fixed(100 * e.metrics.stderr, 1)}`) : null;
      return el("td", null, v === undefined ? "–" : isShare(n) ? share(v) : number(v), error);
    }))),
  ]);
  return section("evaluation", "Evaluation", "Each evaluation samples the same held-out problems with the same seeds.", table(head, rows), page.runs.map(heat));
}

const NAMES = { "pass@1": "pass@1", greedy: "greedy", truncated_share: "cut at the limit", "rollout/length_mean": "tokens", "thought/length_mean": "of thought", "answer/length_mean": "of answer", format_share: "right form" };

// A row for each evaluation and a column for each problem, sorted by the first evaluation and then by the last.
function heat(run, i) {
  const rows = run.evaluations.filter((e) => e.correct_P.length);
  const n = rows.length ? rows[0].correct_P.length : 0;
  if (n < 2 || rows.some((e) => e.correct_P.length !== n)) return null;
  const last = rows[rows.length - 1].correct_P;
  const order = [...Array(n).keys()].sort((a, b) => rows[0].correct_P[a] - rows[0].correct_P[b] || last[a] - last[b]);
  const shown = rows.length <= 12 ? rows : [...Array(12).keys()].map((k) => rows[Math.round((k * (rows.length - 1)) / 11)]);
  const grid = el("div", { class: "heat" }, shown.map((e) => {
    const canvas = el("canvas", { role: "img", "aria-label": `After step ${e.step}: share correct of ${n} problems` });
    const draw = () => {
      canvas.width = n * 8;
      canvas.height = 1;
      const pen = canvas.getContext("2d");
      const style = getComputedStyle(document.documentElement);
      pen.fillStyle = style.getPropertyValue("--faint");
      pen.fillRect(0, 0, n * 8, 1);
      pen.fillStyle = style.getPropertyValue(two && i ? "--c2" : "--c1");
      order.forEach((p, k) => {
        pen.globalAlpha = e.correct_P[p] ?? 0;
        pen.fillRect(k * 8, 0, n > 200 ? 8 : 7, 1);
      });
    };
    canvas.style.imageRendering = "pixelated";
    redraws.add(draw);
    return [el("span", { class: "soft" }, `step ${e.step}`), canvas];
  }));
  return [
    two ? el("h4", { class: "apart" }, colourKey(i), run.name) : null,
    el("p", { class: "note" }, `Each column is one of ${n} problems: the stronger its colour, the more of its samples are correct. Sorted by the first evaluation.`),
    grid,
  ];
}
