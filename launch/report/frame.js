// The frame around the sections: the list of sections, the switch between light and dark, and the footer. When the
// page's width changes, everything is drawn again.

function theme() {
  const root = document.documentElement;
  const system = matchMedia("(prefers-color-scheme: dark)");
  let chosen = null;
  const button = el("button", { type: "button", onclick: () => { chosen = root.dataset.theme === "dark" ? "light" : "dark"; apply(); } });
  function apply() {
    const now = chosen || (system.matches ? "dark" : "light");
    root.dataset.theme = now;
    button.textContent = now === "dark" ? "Light" : "Dark";
    button.setAttribute("aria-label", `Show in ${now === "dark" ? "light" : "dark"} colours`);
    redraw();
  }
  system.addEventListener("change", apply);
  apply();
  return button;
}

function navigation(parts) {
  const links = parts.map((s) => el("a", { href: `#${s.id}`, class: s.dataset.sub ? "sub" : null }, s.querySelector("h2").textContent));
  const nav = document.getElementById("nav");
  nav.append(el("span", { class: "brand" }, "Aha"), ...links, theme());
  const seen = () => {
    const line = innerHeight * 0.35;
    let now = 0;
    parts.forEach((s, i) => { if (s.getBoundingClientRect().top <= line) now = i; });
    links.forEach((a, i) => (i === now ? a.setAttribute("aria-current", "true") : a.removeAttribute("aria-current")));
  };
  addEventListener("scroll", seen, { passive: true });
  seen();
}

const main = document.getElementById("main");

function put(parts) {
  const when = new Date(1000 * page.written);
  main.append(
    ...parts.flat(Infinity).filter(Boolean),
    el("footer", null, `Written ${when.toLocaleString("en", { dateStyle: "long", timeStyle: "short" })} by aha report. One file, no network.`),
    live,
  );
  navigation([...main.querySelectorAll("section")]);
  let width = 0;
  new ResizeObserver(() => {
    if (main.clientWidth === width) return;
    width = main.clientWidth;
    redraw();
  }).observe(main);
}
