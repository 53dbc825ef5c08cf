// Accuracy against compute: tokens or samples on a scale that doubles, with standard errors.

function computeSection(parts) {
  const some = parts.filter((part) => part.planes.length);
  if (!some.length) return null;
  const lead = "How accuracy grows with the tokens spent: in training, and on each problem at test time. Each step of the scale doubles them. Between one sample at random and any correct one lies all that choosing can do; a falling curve shows a scorer that is fooled by more samples. ± is one standard error over problems.";
  return section("compute", "Accuracy and compute", lead, some.map((part) => [
    part.name ? el("h4", { class: "apart" }, part.name) : null,
    el("div", { class: "grid wide" }, part.planes.map(planeChart)),
  ]));
}

const doubled = (v) => (v >= 1024 * 1024 ? `${number(v / 1024 / 1024)} M` : v >= 1024 ? `${number(v / 1024)} k` : tick(v));

function planeChart(plane) {
  const height = 260;
  const lines = plane.lines.map((l, i) => ({ ...l, colour: l.form === "bound" ? 6 : (i % 5) + 1, dash: l.form === "bound" ? (l.label.startsWith("any") ? 1 : 2) : 0, dots: l.form !== "bound" }));
  const said = lines.map((l) => `${l.label}: ${l.x.map((x, i) => `${share(l.y[i])} at ${number(x)}`).join(", ")}`);
  const plot = svg("svg", { class: "plot", height, role: "img", "aria-label": `${plane.title}. ${said.join("; ")}` });
  const legend = el("div", { class: "legend" }, lines.map((l) => {
    const last = l.y.length - 1;
    const error = l.stderr[last] === null ? "" : ` ± ${fixed(100 * l.stderr[last], 1)}`;
    return el("span", { class: "item" }, key({ ...l, dots: l.form === "point" }), el("span", null, visible(l.label)), el("b", null, share(l.y[last]) + error));
  }));
  const xs = lines.flatMap((l) => l.x).filter((x) => x > 0);
  const [first, last] = [Math.min(...xs), Math.max(...xs)];
  const span = Math.max(Math.log2(last / first), 0.01);
  const [low, high] = extent(lines.map((l) => ({ y: l.y, error: l.stderr })), "share");
  function draw() {
    const width = plot.clientWidth;
    if (!width) return;
    const left = 42, right = 10, top = 8, bottom = 34;
    const x = (v) => left + (Math.log2(Math.max(v, first) / first) / span) * (width - left - right);
    const y = (v) => top + ((high - v) / (high - low)) * (height - top - bottom);
    plot.setAttribute("viewBox", `0 0 ${width} ${height}`);
    const parts = [];
    for (const t of ticks(low, high, 5)) {
      parts.push(svg("path", { class: "rule", d: `M${left} ${y(t).toFixed(1)}H${width - right}` }));
      parts.push(svg("text", { x: left - 7, y: y(t) + 3.5, "text-anchor": "end" }, `${Number((100 * t).toFixed(1))} %`));
    }
    const every = Math.max(1, Math.ceil((span * 46) / (width - left - right)));
    for (let power = Math.ceil(Math.log2(first) - 1e-9); 2 ** power <= last * 1.0001; power += every) {
      parts.push(svg("text", { x: x(2 ** power), y: height - 18, "text-anchor": "middle" }, doubled(2 ** power)));
    }
    parts.push(svg("text", { x: (left + width - right) / 2, y: height - 2, "text-anchor": "middle" }, plane.x));
    for (const l of lines) {
      if (l.form !== "point") parts.push(svg("path", { d: path(l.x, l.y, x, y), class: `line s${l.colour} d${l.dash}` }));
      if (l.dots) parts.push(...drawDots({ ...l, error: l.stderr.map((e) => e || 0) }, x, y));
    }
    plot.replaceChildren(...parts);
  }
  redraws.add(draw);
  return el("figure", { class: "chart" }, el("figcaption", null, el("h4", null, plane.title)), legend, plot);
}
