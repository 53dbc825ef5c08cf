// A table of settings that can be searched, the differences between two runs, and how the run was made.

function settings() {
  const some = page.runs.filter((run) => run.settings.length);
  if (!some.length) return null;
  return section("settings", "Settings", "Every setting of this run. To run it again: aha run resolved.json.", two ? differing() : null, searchable());
}

function differing() {
  if (!page.differences.length) return el("p", { class: "note" }, "The two runs have the same settings, except for their names.");
  const rows = page.differences.map((d) => el("tr", null, el("td", null, el("code", null, d.key)), d.values.map((v) => el("td", { class: "text" }, value(v)))));
  const head = ["Setting", ...page.runs.map((run, i) => el("th", { class: "text", scope: "col" }, colourKey(i), run.name))];
  return [el("h4", { class: "apart" }, "What differs"), table(head, rows)];
}

const value = (v) => (v === null || v === undefined ? "–" : v === "" ? el("span", { class: "soft" }, "empty") : el("code", null, visible(v)));

function searchable() {
  const tables = page.runs.map((run) => new Map(run.settings.map((s) => [s.key, s])));
  const keys = [...new Set(page.runs.flatMap((run) => run.settings.map((s) => s.key)))];
  const rows = keys.map((k) => {
    const found = tables.map((t) => t.get(k));
    const help = (found.find(Boolean) || {}).help || "";
    const row = el("tr", null, el("td", null, el("code", null, k)), found.map((s) => el("td", { class: "text" }, value(s && s.value))), el("td", { class: "text soft" }, help));
    return [row, `${k} ${found.map((s) => (s ? s.value : "")).join(" ")} ${help}`.toLowerCase()];
  });
  const count = el("output", null, `${keys.length} settings`);
  const box = el("input", {
    type: "search", placeholder: "kl, lr, template …", "aria-label": "Search the settings",
    oninput: () => {
      const words = box.value.toLowerCase().split(/\s+/).filter(Boolean);
      let n = 0;
      for (const [row, text] of rows) {
        row.hidden = !words.every((w) => text.includes(w));
        n += row.hidden ? 0 : 1;
      }
      count.textContent = words.length ? `${n} of ${keys.length} settings` : `${keys.length} settings`;
      details.open = true;
    },
  });
  const head = ["Setting", ...(two ? page.runs.map((run) => el("th", { class: "text", scope: "col" }, run.name)) : [el("th", { class: "text", scope: "col" }, "Value")]), el("th", { class: "text", scope: "col" }, "Meaning")];
  const details = el("details", null, el("summary", null, "All settings"), table(head, rows.map(([row]) => row), { class: "stack" }));
  return [el("div", { class: "tools apart" }, el("label", null, "Search", box), count), details];
}

// ---- provenance: a record for each stage, the oldest first

function provenance() {
  const some = page.runs.filter((run) => run.provenance !== null);
  if (!some.length) return null;
  return section("provenance", "Provenance", "The chain of stages from the base model to this one.", some.map((run) => [two ? el("h4", { class: "apart" }, run.name) : null, chain(run.provenance)]));
}

function chain(record) {
  if (!record || !Array.isArray(record.chain)) return tree(record);
  const { chain: before, ...own } = record;
  return el("ol", { class: "chain" }, [...before, own].map((r) => {
    const { stage = 0, ...phases } = r.seconds || {}; // "stage" is the sum of the phases, unless the stage was resumed
    const spent = Math.max(stage, Object.values(phases).reduce((a, b) => a + b, 0));
    const about = [r.kind, spent ? seconds(spent) : null, r.commit ? `commit ${String(r.commit).slice(0, 12)}` : null, r.finished];
    return el("li", null, el("b", null, visible(String(r.name))), el("span", { class: "soft" }, ` ${about.filter(Boolean).join(" · ")}`), el("details", null, el("summary", null, "Record"), tree(r)));
  }));
}

function tree(v) {
  return el("div", { class: "tree" }, branch(v, 0));
}

function branch(v, depth) {
  if (v === null || v === undefined) return "–";
  if (Array.isArray(v)) {
    if (v.every((x) => x === null || typeof x !== "object")) return visible(v.map(String).join(", ")) || "–";
    return el("ol", null, v.map((x) => el("li", null, branch(x, depth + 1))));
  }
  if (typeof v !== "object") return visible(String(v));
  const list = el("dl", null, Object.entries(v).map(([k, x]) => [el("dt", null, visible(k.replaceAll("_", " "))), el("dd", null, branch(x, depth + 1))]));
  const size = Object.keys(v).length;
  return depth > 1 && size > 6 ? el("details", null, el("summary", null, `${size} entries`), list) : list;
}
