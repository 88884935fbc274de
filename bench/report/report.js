"use strict";
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  const text = (row, column) => row.cells[column].textContent.trim();
  const sort = (column, down) => {
    const numbers = heads[column].classList.contains("number");
    const compare = (one, other) => {
      const [a, b] = [text(one, column), text(other, column)];
      if (!numbers) return (down ? -1 : 1) * a.localeCompare(b, "en", { numeric: true });
      const [x, y] = [parseFloat(a), parseFloat(b)];
      // What is no number stays below, whichever way round.
      if (isNaN(x) || isNaN(y)) return isNaN(x) - isNaN(y);
      return down ? y - x : x - y;
    };
    const body = table.tBodies[0];
    body.append(...[...body.rows].sort(compare));
    heads.forEach((head) => head.removeAttribute("aria-sort"));
    heads[column].setAttribute("aria-sort", down ? "descending" : "ascending");
  };
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    head.dataset.title = head.textContent; // for paper, where a repeated header has no buttons
    button.append(...head.childNodes);
    button.addEventListener("click", () => sort(column, head.getAttribute("aria-sort") === "ascending"));
    head.append(button);
  });
}
