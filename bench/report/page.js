// Two conveniences; the page says everything without them.
document.documentElement.classList.add("has-js");

// Headings sort their column; again turns the order round.
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "ascending" ||
        (!head.hasAttribute("aria-sort") && head.classList.contains("n") && button.textContent.includes("/s"));
      heads.forEach((h) => h.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const body = table.tBodies[0];
      const value = (row) => row.cells[column].dataset.v;
      const compare = (a, b) => {
        const x = value(a), y = value(b);
        if (x !== undefined && y !== undefined) return Number(x) - Number(y);
        if (x !== undefined || y !== undefined) return x === undefined ? -1 : 1;
        return a.cells[column].textContent.localeCompare(b.cells[column].textContent, "en", { numeric: true });
      };
      body.append(...[...body.rows].sort((a, b) => (down ? -compare(a, b) : compare(a, b))));
    });
  });
}

// Ticking a variant gives its curve the first free colour.
const pick = document.querySelector("fieldset.pick");
if (pick) {
  const chart = document.getElementById("spectrum");
  const boxes = [...pick.querySelectorAll("input")];
  const colours = Array.from({ length: Number(pick.dataset.max) }, (_, i) => "c" + (i + 1));
  const colourOf = (el) => colours.find((c) => el.classList.contains(c));
  const update = () => {
    const full = boxes.filter((b) => b.checked).length >= colours.length;
    boxes.forEach((b) => (b.disabled = full && !b.checked));
  };
  for (const box of boxes) {
    const label = box.closest("label");
    const curve = chart.querySelector(`[data-curve="${box.dataset.pick}"]`);
    box.addEventListener("change", () => {
      const old = colourOf(label);
      if (old) [label, curve].forEach((el) => el.classList.remove(old));
      if (box.checked) {
        const used = boxes.map((b) => colourOf(b.closest("label")));
        const free = colours.find((c) => !used.includes(c));
        [label, curve].forEach((el) => el.classList.add(free));
        curve.parentNode.append(curve);
      }
      label.classList.toggle("off", !box.checked);
      update();
    });
    const point = (on) => () => curve.classList.toggle("near", on);
    label.addEventListener("pointerenter", point(true));
    label.addEventListener("pointerleave", point(false));
    box.addEventListener("focus", point(true));
    box.addEventListener("blur", point(false));
  }
  update();
}

// What is folded away would be lost on paper.
addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((d) => (d.open = true)));
