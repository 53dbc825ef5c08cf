// Rollouts, filtered by step, verdict and group, with coloured tokens.
const AT_ONCE = 4; // groups shown before the reader asks for more
const FOLDED = 900; // characters of a completion shown before the reader asks for all
const view = { run: 0, stage: "grpo", step: 0, verdict: "", groups: "", order: "draw", find: "", colour: "surprise", shown: AT_ONCE };
const MARKS = { correct: "✓", wrong: "✗", unparseable: "?", timed_out: "◷", failed: "!" };

function rollouts() {
  const some = page.runs.filter((run) => run.rollouts.steps.length);
  if (!some.length) return section("rollouts", "Rollouts", "This run keeps no rollouts (track.rollouts=false), or has none yet.");
  if (!page.runs[0].rollouts.steps.length) view.run = page.runs.indexOf(some[0]);
  const list = el("div");
  const bar = el("div", { class: "filters" });
  const scale = el("div", { class: "scale" });
  const about = el("p", { class: "note" });
  const update = () => {
    const run = page.runs[view.run].rollouts;
    const stages = [...new Set(run.steps.map((s) => s.stage))];
    if (!stages.includes(view.stage)) view.stage = stages[0];
    const steps = run.steps.filter((s) => s.stage === view.stage);
    view.step = Math.max(0, Math.min(steps.length - 1, view.step));
    bar.replaceChildren(...controls(run, stages, steps, update, refresh));
    about.textContent = sampled(run);
    refresh();
  };
  const refresh = () => {
    const run = page.runs[view.run].rollouts;
    const step = run.steps.filter((s) => s.stage === view.stage)[view.step];
    scale.replaceChildren(...legend(run));
    list.replaceChildren(...groupsOf(step, refresh));
  };
  showDead = (run) => {
    Object.assign(view, { run, stage: "grpo", groups: "dead", verdict: "", find: "", shown: AT_ONCE });
    update();
  };
  update();
  return section("rollouts", "Rollouts", "What the model wrote, the reward that it got, and the verifier's reason.", bar, about, scale, list);
}

let showDead = null;

function sampled(run) {
  const kept = run.steps.length;
  const count = (n) => n.toLocaleString("en");
  const all = run.shown === run.total ? `All ${count(run.total)} rollouts of the run are in this page.` : `This page holds ${count(run.shown)} of ${count(run.total)} rollouts, in whole groups, from ${kept} of ${run.total_steps} steps spread over the run.`;
  const cut = run.clipped ? ` ${count(run.clipped)} long ones are shortened in the middle, with a mark.` : "";
  return all + cut;
}

function select(label, options, value, change) {
  const box = el("select", { onchange: () => change(box.value) }, options.map(([v, text]) => el("option", { value: v }, text)));
  box.value = value;
  return el("label", null, label, box);
}

function controls(run, stages, steps, update, refresh) {
  const set = (name, then) => (value) => {
    view[name] = name === "run" ? Number(value) : value;
    view.shown = AT_ONCE;
    then();
  };
  const label = el("span", null, stepName(steps[view.step]));
  const slider = el("input", { type: "range", min: 0, max: steps.length - 1, value: view.step, "aria-label": "Step", disabled: steps.length < 2 });
  const go = (i) => {
    view.step = Math.max(0, Math.min(steps.length - 1, i));
    view.shown = AT_ONCE;
    slider.value = view.step;
    label.textContent = stepName(steps[view.step]);
    back.disabled = view.step === 0;
    on.disabled = view.step === steps.length - 1;
    refresh();
  };
  slider.addEventListener("input", () => go(Number(slider.value)));
  const back = el("button", { type: "button", "aria-label": "Step before", onclick: () => go(view.step - 1), disabled: view.step === 0 }, "‹");
  const on = el("button", { type: "button", "aria-label": "Next step", onclick: () => go(view.step + 1), disabled: view.step === steps.length - 1 }, "›");
  const verdicts = new Set(steps.flatMap((s) => s.groups.flatMap((g) => g.samples.flatMap((x) => x.parts.map((p) => `${p.name}: ${p.verdict}`)))));
  const search = el("input", { type: "search", value: view.find, placeholder: "in prompts and completions", oninput: () => set("find", refresh)(search.value) });
  const kinds = { grpo: "training", eval: "evaluation" };
  return [
    two ? select("Run", page.runs.map((r, i) => [String(i), r.name]), String(view.run), set("run", update)) : null,
    stages.length > 1 ? select("From", stages.map((s) => [s, kinds[s] || s]), view.stage, (v) => { view.step = v === "eval" ? 99 : 0; set("stage", update)(v); }) : null,
    el("label", null, "Step", el("span", { class: "steps" }, back, slider, on, label)),
    select("Verdict", [["", "any"], ...[...verdicts].sort().map((v) => [v, v.replaceAll("_", " ")])], verdicts.has(view.verdict) ? view.verdict : (view.verdict = ""), set("verdict", refresh)),
    select("Groups", [["", "all"], ["mixed", "mixed"], ["dead", "dead"]], view.groups, set("groups", refresh)),
    select("Samples by", [["draw", "number"], ["best", "reward, best first"], ["worst", "reward, worst first"], ["long", "length, longest first"]], view.order, set("order", refresh)),
    select("Colour", [["surprise", "probability"], ["advantage", "advantage"], ["", "none"]], view.colour, set("colour", refresh)),
    el("label", null, "Find", search),
  ].filter(Boolean);
}

const stepName = (s) => (s.stage === "eval" ? `after step ${s.step}` : `step ${s.step}`);

function legend(run) {
  if (view.colour === "surprise" && run.note) return [run.note];
  if (view.colour === "surprise") {
    const ramp = el("span", { class: "ramp", "aria-hidden": "true" }, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9].map((i) => el("i", { class: `k${i}` })));
    return ["Probability that the sampler gave each token: 1", ramp, "below 0.002. Point at a token to see its probability."];
  }
  if (view.colour === "advantage") {
    const ramp = el("span", { class: "ramp", "aria-hidden": "true" }, ["m3", "m2", "m1", "", "p1", "p2", "p3"].map((c) => el("i", { class: c })));
    return ["Made less likely", ramp, "made more likely. All tokens of a completion share its advantage."];
  }
  return [];
}

function groupsOf(step, refresh) {
  const wanted = (s) => !view.verdict || s.parts.some((p) => `${p.name}: ${p.verdict}` === view.verdict);
  const text = view.find.toLowerCase();
  const found = [];
  for (const g of step.groups) {
    if (view.groups && g.dead !== (view.groups === "dead")) continue;
    const inPrompt = text && g.prompt.toLowerCase().includes(text);
    const samples = g.samples.filter((s) => wanted(s) && (!text || inPrompt || s.text.toLowerCase().includes(text)));
    if (samples.length) found.push([g, samples]);
  }
  const by = { draw: (s) => s.sample, best: (s) => -(s.reward ?? -1e9), worst: (s) => s.reward ?? 1e9, long: (s) => -s.tokens }[view.order];
  const nodes = found.slice(0, view.shown).map(([g, samples]) => group(g, [...samples].sort((a, b) => by(a) - by(b)), step));
  const left = found.length - view.shown;
  const here = step.groups.reduce((a, g) => a + g.samples.length, 0);
  const said = here < step.of ? `${here.toLocaleString("en")} of this step's ${step.of.toLocaleString("en")} rollouts are in the page.` : "";
  const more = left > 0 ? el("button", { type: "button", onclick: () => { view.shown += AT_ONCE * 2; refresh(); } }, `Show ${Math.min(left, AT_ONCE * 2)} more of ${left} groups`) : null;
  if (!found.length) nodes.push(el("p", { class: "note" }, "No rollout of this step matches these filters."));
  return [...nodes, el("div", { class: "more" }, more, el("span", { class: "soft small" }, said))];
}

function group(g, samples, step) {
  const about = [
    g.reference ? el("span", null, "answer ", el("bdi", null, visible(g.reference))) : null,
    el("span", null, `prompt ${g.prompt_id}`),
    el("span", null, samples.length < g.of ? `${samples.length} of ${g.of} samples` : `${g.of} samples`),
    g.dead && step.stage !== "eval" ? el("span", { class: "tag" }, "dead: equal rewards") : null,
  ];
  return el("article", { class: "rgroup" }, el("p", { class: "prompt", dir: "auto" }, visible(g.prompt.trim())), el("p", { class: "about" }, about), samples.map(sample));
}

function signed(v) {
  return `${v > 0 ? "+" : v < 0 ? "−" : ""}${Math.abs(v).toFixed(2)}`;
}

function sample(s) {
  const meta = [
    s.advantage === null ? null : `advantage ${signed(s.advantage)}`,
    `${s.tokens.toLocaleString("en")} tokens, ${s.finish === "length" ? "cut at the limit" : s.finish}`,
    s.logprob === null ? null : `mean logprob ${signed(s.logprob)}`,
    s.valid ? null : "not trained on: no verdict",
  ];
  const verdicts = s.parts.map((p) => el(
    "span", { class: "verdict" },
    el("span", { class: `v-${p.verdict}` }, el("span", { "aria-hidden": "true" }, `${MARKS[p.verdict] || "·"} `), el("b", null, p.name), ` ${p.verdict.replaceAll("_", " ")}`),
    p.score === null ? null : el("span", { class: "soft" }, ` ${number(p.score)}`),
    p.reason ? el("span", { class: "reason", dir: "auto" }, visible(p.reason)) : null,
  ));
  const body = el("div", { class: "written", dir: "auto" });
  const right = el("div", { class: "right" }, body);
  body.append(...written(s, FOLDED));
  if (s.text.length > FOLDED * 1.2) {
    const button = el("button", { type: "button", class: "plain", onclick: () => { body.replaceChildren(...written(s, Infinity)); button.remove(); } }, `Show all ${s.text.length.toLocaleString("en")} characters`);
    right.append(button);
  }
  right.append(el("div", { class: "verdicts" }, verdicts, el("span", { class: "meta" }, meta.filter(Boolean).map((m) => m.replaceAll(" ", "\u00a0")).join("  ·  "))));
  return el("div", { class: "sample" }, el("div", { class: "num" }, s.reward === null ? "–" : number(s.reward), el("span", { class: "unseen" }, " reward")), right);
}

const level = (hundredths) => Math.min(9, Math.round(3 * Math.log2(1 + hundredths / 100)));

function tint(advantage) {
  if (!advantage) return "";
  return (advantage > 0 ? "p" : "m") + (Math.abs(advantage) > 1.5 ? 3 : Math.abs(advantage) > 0.5 ? 2 : 1);
}

// The nodes for at most `most` characters of a completion, with a mark where its middle was left out of the page.
function written(s, most) {
  const end = Math.min(s.text.length, s.text.length > most * 1.2 ? most : s.text.length);
  const gap = s.left_out ? s.gap_at : -1;
  const hole = () => el("span", { class: "gap" }, `${s.left_out.toLocaleString("en")} characters are not in this page`);
  const out = [];
  const coloured = view.colour === "surprise" && s.token_lengths.length && s.surprise.length;
  const lengths = coloured ? s.token_lengths : gap > 0 ? [gap, s.text.length - gap] : [s.text.length];
  let at = 0;
  lengths.forEach((n, i) => {
    if (at === gap && n) out.push(hole());
    if (at >= end || !n) return;
    const text = s.text.slice(at, coloured ? at + n : Math.min(end, at + n));
    const colour = coloured ? `k${level(s.surprise[i])}` : view.colour === "advantage" ? tint(s.advantage) : "";
    const title = coloured ? `probability ${number(Math.exp(-s.surprise[i] / 100))}, logprob −${(s.surprise[i] / 100).toFixed(2)}` : null;
    out.push(colour && colour !== "k0" ? el("span", { class: colour, title }, visible(text)) : coloured ? el("span", { title }, visible(text)) : visible(text));
    at += n;
  });
  if (at === gap && end >= at) out.push(hole());
  if (end < s.text.length) out.push(" …");
  return out.flat();
}
