"""`report.html`: the table, the plots and what they were measured on, in one page that loads nothing else.

Every text that comes from the run is escaped, and the page's own policy forbids requests and any script but its own.
"""

from __future__ import annotations

import base64
import dataclasses
import hashlib
from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

from .html_style import SCRIPT, STYLE
from .plots import Plot
from .schema import Report, Row
from .table import Column, columns_of, figure, remarks, time

LISTED = 20  # broken images that are named


def _interval(name: str, form: str) -> Column:
    def text(row: Row) -> str:
        interval = getattr(row, f"{name}_interval")
        return "" if interval is None else f"{interval[0]:{form}} to {interval[1]:{form}}"

    return Column("95%", text, labelled=True)


def _cv(row: Row) -> str:
    return "" if row.latency_ms is None or row.latency_ms.cv is None else f"{row.latency_ms.cv:.1%}"


AFTER = {
    "p90 ms": [Column("p95 ms", time("latency_ms", "p95")), Column("p99 ms", time("latency_ms", "p99"))],
    "n": [Column("CV", _cv)],
    "max diff": [Column("mean diff", figure("mean_difference", ".1e"))],
    "SRCC": [_interval("srcc", ".4f"), Column("to PyTorch's", figure("srcc_delta", "+.5f"), labelled=True)],
    "to PyTorch's": [_interval("srcc_delta", "+.5f")],
    "PLCC": [
        _interval("plcc", ".4f"),
        Column("PLCC fitted", figure("plcc_fitted", ".4f"), labelled=True),
        Column("KRCC", figure("krcc", ".4f"), labelled=True),
        Column("RMSE", figure("rmse", ".4f"), labelled=True),
    ],
}
"""Columns that the page has more than the terminal, each after the one of this title."""


def page(report: Report, plots: Sequence[Plot], without: str = "") -> str:
    """The whole page. `without` says why there are no plots, where that is so."""
    failed = [row for row in report.rows if row.status != "ok"]
    sound = dataclasses.replace(report, rows=[row for row in report.rows if row.status == "ok"])
    parts = [
        _head(report, len(failed)),
        _section("Measured", _table(report)),
        _section("Not measured", _list(_failure(row) for row in failed)),
        _section("To be read with it", _list(escape(remark) for remark in remarks(sound, paired=False))),
        *(_plot(plot) for plot in plots),
        _section("Plots", f"<p>{escape(without)}</p>" if without else ""),
        _section("Measured on", _facts(report.environment)),
        _section("Measured with", _facts({**report.settings, **_images(report), **(_labels(report))})),
        _section("Images that cannot be read", _list(_broken(report))),
        _section("Command", f"<pre><code>{escape(report.command)}</code></pre>"),
        f'<footer class="soft">Schema {escape(report.schema)}. The same figures, unrounded: report.json.</footer>',
    ]
    return _frame(f"musiq-bench, {report.created}", "\n".join(part for part in parts if part))


def _frame(title: str, body: str) -> str:
    digest = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
    policy = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n"
        f"<body>\n{body}\n<script>{SCRIPT}</script>\n</body>\n</html>\n"
    )


def _head(report: Report, failed: int) -> str:
    where = report.environment
    machine = [where["cpu"], f"{where['cores']} cores", *(gpu["name"] for gpu in where["gpus"])]
    when = report.created.replace("T", " ").replace("+00:00", " UTC")
    count = f"{len(report.rows) - failed} rows measured" + (f", {failed} not" if failed else "")
    stopped = '<p class="stopped">Interrupted: the run was stopped before all was measured.</p>\n'
    return (
        "<header>\n<h1>Latency and quality of MUSIQ artifacts</h1>\n"
        f"<p>{escape(report.caption)}</p>\n"
        f'<p class="soft">{escape(", ".join(machine))} · {escape(when)} · {count}</p>\n'
        f"{stopped if report.interrupted else ''}</header>"
    )


def _table(report: Report) -> str:
    columns = [
        column
        for column in _columns(columns_of(report))
        if any(column.text(row) not in ("", "-") for row in report.rows)
    ]
    heads = "".join(f'<th scope="col"{_number(column)}>{escape(column.title)}</th>' for column in columns)
    # As small on paper as the columns need; 6.5 points is what a page across has room for with 23 of them.
    size = f"--print: {min(9.0, 150 / len(columns)):.1f}pt"
    rows = "\n".join(_row(row, columns) for row in report.rows)
    return (
        '<div class="scroll" role="region" aria-label="Measured figures" tabindex="0">\n'
        f'<table class="sortable" style="{size}">\n<thead><tr>{heads}</tr></thead>\n<tbody>\n{rows}\n</tbody>\n'
        "</table>\n</div>"
    )


def _columns(columns: Iterable[Column]) -> list[Column]:
    found = []
    for column in columns:
        found += [column, *_columns(AFTER.get(column.title, []))]
    return found


def _number(column: Column) -> str:
    return ' class="number"' if column.right else ""


def _row(row: Row, columns: Sequence[Column]) -> str:
    first, *others = columns
    cells = "".join(f"<td{_number(column)}>{escape(column.text(row))}</td>" for column in others)
    bad = "" if row.status == "ok" else ' class="bad"'
    return f'<tr{bad}><th scope="row"><span>{escape(first.text(row))}</span></th>{cells}</tr>'


def _failure(row: Row) -> str:
    what = escape(f"{row.model} ({row.path}), batch {row.batch}, on {row.provider or row.device}")
    return f'{what}: <span class="status">{escape(row.status)}</span>: {escape(row.reason)}'


def _plot(plot: Plot) -> str:
    title = escape(plot.title)
    return (
        f'<section class="plot">\n<h2>{title}</h2>\n'
        f'<figure>\n<div class="scroll" role="img" aria-label="{title}" tabindex="0">'
        f"{plot.svg}</div>\n<figcaption>{escape(plot.caption)}</figcaption>\n</figure>\n</section>"
    )


def _images(report: Report) -> dict[str, Any]:
    return {name: value for name, value in report.images.items() if name != "broken"}


def _labels(report: Report) -> dict[str, Any]:
    return {f"labels: {name}": value for name, value in (report.labels or {}).items()}


def _broken(report: Report) -> list[str]:
    broken = [escape(f"{each['path']}: {each['reason']}") for each in report.images["broken"]]
    more = len(broken) - LISTED
    return [*broken[:LISTED], *([f"and {more} more, see report.json"] if more > 0 else [])]


def _facts(facts: dict[str, Any]) -> str:
    items = "\n".join(
        f"<dt>{escape(name.replace('_', ' '))}</dt><dd>{escape(_said(value))}</dd>" for name, value in facts.items()
    )
    return f"<dl>\n{items}\n</dl>"


def _said(value: object) -> str:
    """A value of the environment or the settings, as words."""
    if isinstance(value, dict):
        return ", ".join(f"{name} {_said(each)}" for name, each in value.items()) or "none"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_said, value)) or "none"
    return "not given" if value is None else str(value)


def _list(items: Iterable[str]) -> str:
    lines = "\n".join(f"<li>{item}</li>" for item in items)
    return f"<ul>\n{lines}\n</ul>" if lines else ""


def _section(title: str, content: str) -> str:
    return f"<section>\n<h2>{title}</h2>\n{content}\n</section>" if content else ""
