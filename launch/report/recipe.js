// The page of a whole recipe.

function recipeHead() {
  const rows = page.claims.flatMap((c) => (Array.isArray(c.rows) ? c.rows : []));
  const held = rows.filter((r) => r.holds).length;
  const done = page.chain.filter((s) => s.state === "done").length;
  const begun = page.chain.find((s) => s.state === "begun");
  const big = rows.length ? [`${held} of ${rows.length}`, "claims held"] : [`${done} of ${page.chain.length}`, "stages done"];
  const status = page.finished ? "Finished" : `Not finished when this was written${begun ? `; ${begun.name} was begun` : ""}`;
  return el(
    "div", { class: "head" },
    el("div", { class: "status" }, el("span", { class: page.finished ? "dot" : "dot live" }), status),
    el("h1", null, visible(page.title)),
    el("div", { class: "headline" }, el("span", { class: "big" }, big[0]), el("span", { class: "gain" }, big[1])),
    el("dl", { class: "facts" }, page.facts.map((f) => el("div", null, el("dt", null, f.label), el("dd", null, f.value)))),
  );
}

function claimsSection() {
  if (!page.claims.length) return null;
  const tables = page.claims.map((c) => [
    page.claims.length > 1 ? el("h4", { class: "apart" }, c.stage) : null,
    c.rows === null ? unproved(c.claimed) : claimsTable(c.rows),
  ]);
  return section("claims", "Claims", "What the recipe claims, the two measured numbers with their standard errors, and whether the claim held.", tables);
}

// Claims that have not been tested yet: what they state, and which two numbers they will compare.
function unproved(claimed) {
  const named = (text) => el("td", { class: "text" }, measure(text));
  const rows = claimed.map((c) => el("tr", null, el("td", null, visible(c.text)), named(c.left), named(c.right), el("td", { class: "text soft" }, wanted(c, claimForm(c.left)))));
  const head = ["Claim", ...["will measure", "against", "not tested yet"].map((t) => el("th", { class: "text", scope: "col" }, t))];
  return table(head, rows, { class: "claims" });
}

function lineage() {
  if (page.provenance === null) return null;
  return section("provenance", "Provenance", `How the last model, ${page.model}, was made: every stage that led to it, the oldest first.`, chain(page.provenance));
}

put([recipeHead(), claimsSection(), chainSection(), resultsSection(), computeSection(page.compute), stageSections(), lineage()]);
