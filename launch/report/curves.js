// All charts, group by group, with one slider that smooths all curves.

function curves() {
  const groups = page.sections.map((s) => [s.title, s.charts.map((c) => lineChart(c)).filter(Boolean)]).filter(([, charts]) => charts.length);
  if (!groups.length) return section("curves", "Curves", "No step has been recorded yet.");
  const points = Math.max(...page.runs.flatMap((r) => Object.entries(r.points).filter(([k]) => k.startsWith("grpo:")).map(([, p]) => p.x.length)), 1);
  const most = Math.max(1, Math.floor(points / 4));
  const said = el("output", null, "off");
  const slider = el("input", {
    type: "range", min: 0, max: most, value: 0, step: 1, "aria-label": "Smoothing",
    oninput: () => {
      smoothing.window = 2 * Number(slider.value) + 1;
      said.textContent = smoothing.window > 1 ? `mean of ${smoothing.window} points` : "off";
      redraw();
    },
  });
  const start = (calm(points) - 1) / 2;
  slider.value = start;
  smoothing.window = 2 * start + 1;
  said.textContent = start ? `mean of ${smoothing.window} points` : "off";
  const tools = el("div", { class: "tools sticky" }, el("label", null, "Smoothing", slider, said));
  return section(
    "curves", "Curves", "Point at a chart, or focus it and use the arrow keys: every chart shows the values of that step.",
    tools,
    groups.map(([title, charts]) => {
      const grid = el("div", { class: "grid" }, charts);
      if (title !== "Everything else") return el("div", { class: "group" }, el("h3", null, title), grid);
      return el("details", { class: "group", ontoggle: redraw }, el("summary", null, `Everything else, ${charts.length} charts`), grid);
    }),
    page.steady.length ? el("p", { class: "note" }, `The same at every step: ${page.steady.map((s) => `${s.label} ${number(s.value)}`).join(", ")}.`) : null,
  );
}

// ---- dead groups

function deadGroups() {
  const runs = page.runs.filter((run) => run.dead);
  if (!runs.length) return null;
  const phases = [["all correct", "f3"], ["none correct", "f2"], ["equal for another reason", "f6"]];
  return section("dead", "Dead groups", "Groups whose samples all have the same reward, so that nothing can be learnt about which sample is better.", runs.map((run) => {
    const { count, dead, columns } = run.dead;
    const text = `${dead.toLocaleString("en")} of ${count.toLocaleString("en")} groups were dead (${share(dead / (count || 1))}). `;
    const look = dead && run.rollouts.steps.length ? el("a", { href: "#rollouts", onclick: () => showDead(page.runs.indexOf(run)) }, "Show them among the rollouts") : null;
    const chart = stack({ columns, phases, form: "share", title: "Dead groups by step", height: 120, top: 1 });
    return el("div", { class: "time" }, two ? el("h4", null, colourKey(page.runs.indexOf(run)), run.name) : null, el("p", { class: "said" }, text, look), chart);
  }));
}
