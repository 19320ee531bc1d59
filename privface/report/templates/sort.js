"use strict";
// Adds a button to each column heading that orders the rows: up, down, as they were. Rows stay within their group;
// cells without a figure (not measurable) come last either way.
for (const table of document.querySelectorAll("table.sorts")) {
  const headings = [...table.tHead.rows[0].cells];
  const bodies = [...table.tBodies].map((body) => ({ body, rows: [...body.rows].filter((row) => !row.classList.contains("group")) }));
  if (!bodies.some(({ rows }) => rows.length > 1)) continue;

  const key = (row, column) => {
    const cell = row.cells[column];
    const data = cell.querySelector("data");
    if (data) return Number(data.value);
    if (cell.querySelector(".missing")) return null;
    const text = cell.textContent.trim();
    if (text === "" || text === "\u2013") return null;
    const plain = text.replace(/,/g, "");
    return plain !== "" && Number.isFinite(Number(plain)) ? Number(plain) : text;
  };
  const order = (column, sign) => (one, other) => {
    const [a, b] = [key(one, column), key(other, column)];
    if (a === null || b === null) return (a === null) - (b === null);
    if (typeof a === "number" && typeof b === "number") return sign * (a - b);
    return sign * String(a).localeCompare(String(b), "en", { numeric: true });
  };

  headings.forEach((heading, column) => {
    const name = heading.innerText.replace(/\s+/g, " ").trim();
    const button = document.createElement("button");
    button.type = "button";
    button.className = "sort";
    button.setAttribute("aria-label", `Sort by ${name}`);
    button.title = "Sort: up, down, as it was";
    heading.setAttribute("aria-sort", "none");
    heading.insertBefore(button, heading.querySelector("small"));
    button.addEventListener("click", () => {
      const next = { none: "ascending", ascending: "descending", descending: "none" }[heading.getAttribute("aria-sort")];
      for (const each of headings) each.setAttribute("aria-sort", "none");
      heading.setAttribute("aria-sort", next);
      for (const { body, rows } of bodies) {
        body.append(...(next === "none" ? rows : [...rows].sort(order(column, next === "ascending" ? 1 : -1))));
      }
    });
  });
}
