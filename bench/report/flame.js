
// Flame graphs: a box is looked into by Enter or a click, and reached by arrows.
for (const svg of document.querySelectorAll("svg.flame")) {
  const figure = svg.closest("figure");
  const said = figure.querySelector(".said");
  const whole = figure.querySelector(".whole");
  const width = svg.viewBox.baseVal.width;
  const letter = 6.1;
  const above = [];
  const boxes = [...svg.querySelectorAll("g")].map((g) => {
    const rect = g.querySelector("rect");
    const number = (name) => Number(rect.getAttribute(name));
    const box = { g, rect, text: g.querySelector("text"), x: number("x"), w: number("width"), level: Math.round(number("y") / 18), kids: [] };
    box.title = g.querySelector("title").textContent;
    box.name = box.title.slice(0, box.title.indexOf(": "));
    // Boxes come with what they called right behind them.
    above[box.level] = box;
    box.parent = box.level > 0 ? above[box.level - 1] : null;
    if (box.parent) box.parent.kids.push(box);
    g.setAttribute("role", "treeitem");
    g.setAttribute("aria-level", box.level + 1);
    g.setAttribute("tabindex", "-1");
    return box;
  });
  if (!boxes.length) continue;
  const of = new Map(boxes.map((b) => [b.g, b]));
  svg.setAttribute("role", "tree");
  boxes[0].g.setAttribute("tabindex", "0");

  const place = (b, x, w) => {
    b.rect.setAttribute("x", x);
    b.rect.setAttribute("width", Math.max(w, 0.3));
    const letters = Math.floor((w - 6) / letter);
    if (!b.text && letters >= 3) {
      b.text = document.createElementNS("http" + "://www.w3.org/2000/svg", "text");
      b.text.setAttribute("y", b.level * 18 + 12.5);
      b.g.append(b.text);
    }
    if (!b.text) return;
    b.text.setAttribute("x", x + 3);
    const full = [...b.name];
    b.text.textContent = letters < 3 ? "" : full.length <= letters ? b.name : full.slice(0, letters - 1).join("") + "…";
  };
  const zoom = (to) => {
    const line = new Set();
    for (let b = to; b; b = b.parent) line.add(b);
    const inside = new Set([to]);
    const k = width / to.w;
    for (const b of boxes) {
      if (inside.has(b.parent)) inside.add(b);
      const over = line.has(b) && b !== to;
      b.g.classList.toggle("out", !inside.has(b) && !over);
      b.g.classList.toggle("above", over);
      if (over) place(b, 0, width);
      else if (inside.has(b)) place(b, (b.x - to.x) * k, b.w * k);
    }
    whole.hidden = to === boxes[0];
  };
  const go = (b) => {
    if (!b) return;
    if (b.g.classList.contains("out")) zoom(boxes[0]);
    svg.querySelector('g[tabindex="0"]').setAttribute("tabindex", "-1");
    b.g.setAttribute("tabindex", "0");
    b.g.focus();
  };
  const beside = (b, step) => {
    const row = boxes.filter((o) => o.level === b.level && !o.g.classList.contains("out")).sort((p, q) => p.x - q.x);
    return row[row.indexOf(b) + step];
  };
  svg.addEventListener("keydown", (e) => {
    const b = of.get(e.target.closest("g"));
    if (!b) return;
    const keys = {
      ArrowDown: () => go(b.kids[0]),
      ArrowUp: () => go(b.parent),
      ArrowLeft: () => go(beside(b, -1)),
      ArrowRight: () => go(beside(b, 1)),
      Home: () => go(boxes[0]),
      Enter: () => zoom(b),
      " ": () => zoom(b),
      Escape: () => zoom(boxes[0]),
    };
    if (!keys[e.key]) return;
    e.preventDefault();
    keys[e.key]();
  });
  svg.addEventListener("click", (e) => {
    const b = of.get(e.target.closest("g"));
    if (b) zoom(b);
  });
  const say = (e) => {
    const b = of.get(e.target.closest("g"));
    if (b) said.textContent = b.title;
  };
  svg.addEventListener("pointerover", say);
  svg.addEventListener("focusin", say);
  whole.addEventListener("click", () => zoom(boxes[0]));
}
