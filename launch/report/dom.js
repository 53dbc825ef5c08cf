// Helpers that build the page. Every text of a run becomes a text node: el() never parses HTML.
const SVG = "http://www.w3.org/2000/svg";
const page = JSON.parse(document.getElementById("data").textContent);
const two = "runs" in page && page.runs.length > 1;

function el(tag, props, ...children) {
  return fill(document.createElement(tag), props, children);
}

function svg(tag, props, ...children) {
  return fill(document.createElementNS(SVG, tag), props, children);
}

function fill(node, props, children) {
  for (const [name, value] of Object.entries(props || {})) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? "" : value);
  }
  for (const child of children.flat(Infinity)) {
    if (child !== null && child !== undefined && child !== false) node.append(child);
  }
  return node;
}

function table(head, rows, props) {
  const top = head.map((h) => (h instanceof Node ? h : el("th", { scope: "col" }, h)));
  return el("div", { class: "scroll" }, el("table", props, el("thead", null, el("tr", null, top)), el("tbody", null, rows)));
}

// ---- numbers

const minus = (text) => text.replace("-", "−");

function number(v) {
  if (v === null || v === undefined) return "–";
  const size = Math.abs(v);
  if (size >= 1000) return minus(v.toLocaleString("en", { maximumFractionDigits: 0 }));
  if (size >= 100) return minus(v.toFixed(0));
  if (size >= 10) return minus(v.toFixed(1));
  if (size === 0) return "0";
  if (size < 0.001) return minus(v.toExponential(1)).replace("e-", "e−");
  return minus(String(Number(v.toPrecision(3))));
}

// Ticks are round numbers already, so all their digits are shown.
function tick(v) {
  if (Math.abs(v) >= 1000) return minus(v.toLocaleString("en"));
  if (v && Math.abs(v) < 1e-4) return minus(v.toExponential()).replace("e-", "e−");
  return minus(String(v));
}

// Like toFixed, but halves go to the even digit, as Python rounds: 76.25 -> "76.2", the same as in summary.txt.
function fixed(v, digits) {
  const scaled = v * 10 ** digits;
  const half = Math.abs(scaled - Math.trunc(scaled)) === 0.5;
  return half ? (2 * Math.round(scaled / 2) / 10 ** digits).toFixed(digits) : v.toFixed(digits);
}

const share = (v) => (v === null || v === undefined ? "–" : `${minus(fixed(100 * v, 1))} %`);

function seconds(v) {
  if (v === null || v === undefined) return "–";
  if (v < 60) return `${v < 10 ? Number(v.toPrecision(2)) : v.toFixed(0)} s`;
  if (v < 3600) return `${Math.floor(v / 60)} min ${Math.round(v % 60)} s`;
  return `${Math.floor(v / 3600)} h ${Math.round((v % 3600) / 60)} min`;
}

const FORMS = { share, number, seconds };

// A value with its standard error; shares are given in percentage points. size: the row's largest number, which decides
// how many digits are shown.
function withError(v, form, signed, size) {
  if (!v) return "–";
  const sign = signed && v.value >= 0 ? "+" : "";
  const digits = (x) => (form === "share" ? fixed(100 * x, 1) : fixed(x, size >= 10 ? 1 : 3));
  const error = v.stderr === null ? null : el("span", { class: "err" }, ` ± ${digits(v.stderr)}`);
  return [sign + minus(digits(v.value)), error];
}

// ---- characters that cannot be seen, or that reverse the direction of the text: their names are shown instead

const CONTROLS = new Map([
  ["\u061c", "ALM"], ["\u200b", "ZWSP"], ["\u200e", "LRM"], ["\u200f", "RLM"], ["\u202a", "LRE"], ["\u202b", "RLE"],
  ["\u202c", "PDF"], ["\u202d", "LRO"], ["\u202e", "RLO"], ["\u2066", "LRI"], ["\u2067", "RLI"], ["\u2068", "FSI"],
  ["\u2069", "PDI"], ["\ufeff", "BOM"],
]);
const STRANGE = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u061c\u200b\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff]/;

function visible(text) {
  if (!STRANGE.test(text)) return text;
  const out = [];
  let plain = "";
  for (const c of text) {
    if (!STRANGE.test(c)) {
      plain += c;
      continue;
    }
    const name = CONTROLS.get(c) || `U+${c.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}`;
    out.push(plain, el("span", { class: "ctl", title: "an invisible character" }, name));
    plain = "";
  }
  out.push(plain);
  return out;
}

// ---- announcing and redrawing

const live = el("div", { class: "unseen", "aria-live": "polite" });
const redraws = new Set();
const redraw = () => redraws.forEach((f) => f());
