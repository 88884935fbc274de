"""Style and script of `report.html`: both stand inside the page, which therefore asks nobody for anything.

Without the script the page is the same, but that its table stays in the order of the report.
"""

STYLE = """
:root { color-scheme: light dark; --back: #fff; --ink: #1b1f24; --soft: #59636e; --line: #d1d9e0; --band: #f6f8fa;
  --link: #0969da; --bad: #b42318; --bad-back: #fdf0ee; }
@media (prefers-color-scheme: dark) { :root { --back: #0d1117; --ink: #e6edf3; --soft: #9aa4af; --line: #303841;
  --band: #151b23; --link: #6cb6ff; --bad: #ff9d93; --bad-back: #2c1614; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.5rem clamp(.75rem, 3vw, 2.5rem) 3rem; max-width: 100rem; background: var(--back);
  color: var(--ink); font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
h1 { margin: 0; font-size: 1.6rem; } h2 { margin: 2.2rem 0 .6rem; font-size: 1.15rem; }
p, li, dd, h1, code { overflow-wrap: anywhere; } p { margin: .4rem 0; max-width: 75ch; }
.soft, figcaption, dt { color: var(--soft); }
.stopped { border-left: 4px solid var(--bad); padding: .4rem .8rem; background: var(--bad-back); }
.scroll { overflow-x: auto; border: 1px solid var(--line); border-radius: 6px; }
.scroll:focus-visible, button:focus-visible { outline: 2px solid var(--link); outline-offset: -2px; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; font-size: .875rem; }
th, td { padding: .35rem .6rem; text-align: left; white-space: nowrap; border-top: 1px solid var(--line); }
thead th { border-top: 0; background: var(--band); vertical-align: bottom; font-weight: 600; }
.number { text-align: right; }
tbody th { position: sticky; left: 0; background: var(--back); font-weight: 600; border-right: 1px solid var(--line);
  white-space: normal; }
tbody th span { display: block; width: max-content; max-width: 24rem; overflow-wrap: anywhere; }
tbody tr:nth-child(even) :is(th, td) { background: var(--band); }
tbody tr.bad :is(th, td) { background: var(--bad-back); } .bad .status, .status { color: var(--bad); font-weight: 600; }
thead button { all: unset; cursor: pointer; white-space: nowrap; } thead button::after { content: " \\2195"; opacity: .35; }
thead button:focus-visible { outline: 2px solid var(--link); }
[aria-sort=ascending] button::after { content: " \\2191"; opacity: 1; }
[aria-sort=descending] button::after { content: " \\2193"; opacity: 1; }
ul { padding-left: 1.2rem; margin: .4rem 0; } li { margin: .2rem 0; max-width: 95ch; }
figure { margin: 0 0 1.5rem; max-width: 56rem; } figure .scroll { padding: .5rem; }
figure svg { display: block; width: 100%; min-width: 36rem; height: auto; }
figcaption { margin-top: .4rem; font-size: .9rem; }
dl { display: grid; grid-template-columns: max-content minmax(0, 1fr); gap: .25rem 1rem; margin: .4rem 0; }
dd { margin: 0; }
pre { padding: .8rem; background: var(--band); border: 1px solid var(--line); border-radius: 6px; white-space: pre-wrap;
  overflow-wrap: anywhere; font-size: .85rem; }
footer { margin-top: 2.5rem; border-top: 1px solid var(--line); padding-top: .6rem; font-size: .85rem; }
@media (max-width: 30rem) { dl { grid-template-columns: minmax(0, 1fr); gap: 0; } dd { margin-bottom: .5rem; }
  tbody th span { max-width: 8rem; } }
@media print { @page { size: A4 landscape; margin: 12mm; } @page upright { size: A4 portrait; }
  :root { color-scheme: light; --back: #fff; --ink: #000; --soft: #444; --line: #bbb; --band: #f3f3f3; --bad: #8c1d14;
    --bad-back: #fdf0ee; }
  body { padding: 0; max-width: none; font-size: 9.5pt; } .scroll { overflow: visible; border: 0; padding: 0; }
  table { font-size: var(--print, 7pt); } th, td { padding: .15rem .25rem; } tbody th { position: static; min-width: 9em; }
  tbody th span { width: auto; overflow-wrap: break-word; } td:not(.number) { white-space: normal; }
  thead { display: table-header-group; } tr, figure, li { break-inside: avoid; } h2 { break-after: avoid; }
  thead th { white-space: normal; } thead button { display: none; }
  thead th[data-title]::before { content: attr(data-title); }
  figure svg { min-width: 0; max-height: 235mm; } .plot, .plot ~ section, footer { page: upright; } }
"""

SCRIPT = """
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
"""
