"""The page `report.html`: the table, the plots and what they were measured on, in one file that loads nothing else.

Every text that comes from the run is escaped, and the page's own policy forbids requests and any script but its own.
"""

from __future__ import annotations

import base64
import dataclasses
import hashlib
from collections.abc import Sequence
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from musiq.errors import MusiqError, pip_install

from ..machine.environment import in_one_line
from .columns import Column, cells_by_size, columns_of
from .plots import Plot
from .schema import Report
from .table import remarks

if TYPE_CHECKING:
    from jinja2 import Template

LISTED = 20  # broken images that are named


def page(report: Report, plots: Sequence[Plot], no_plots_because: str = "") -> str:
    """Render the page.

    Args:
        report: What was measured.
        plots: Its plots, whose SVG stands in the page.
        no_plots_because: Why there are no plots, where that is so.

    Returns:
        The HTML, style and script inside it.

    Raises:
        MusiqError: Jinja2 is missing.
    """
    style, script = _packaged("report.css"), _packaged("report.js")
    columns = [column for column in columns_of(report, page=True) if _says_something(column, report)]
    measured = dataclasses.replace(report, rows=[row for row in report.rows if row.status == "ok"])
    return _template().render(
        report=report,
        failed=[row for row in report.rows if row.status != "ok"],
        machine=in_one_line(report.environment),
        columns=columns,
        # As small on paper as the columns need; 6.5 points is what a page across has room for with 23 of them.
        print_points=f"{min(9.0, 150 / len(columns)):.1f}",
        remarks=remarks(measured, paired=False),
        by_size=cells_by_size(report.rows),
        plots=plots,
        no_plots_because=no_plots_because,
        settings=_measured_with(report),
        listed=LISTED,
        style=style,
        script=script,
        script_digest=base64.b64encode(hashlib.sha256(f"\n{script}".encode()).digest()).decode(),
    )


def _template() -> Template:
    try:
        from jinja2 import Environment, StrictUndefined
    except ImportError as problem:
        raise MusiqError(f"report.html needs Jinja2, which is missing: {pip_install('bench')}.") from problem
    environment = Environment(autoescape=True, undefined=StrictUndefined, keep_trailing_newline=True)
    environment.filters["in_words"] = _in_words
    return environment.from_string(_packaged("report.html.j2"))


def _says_something(column: Column, report: Report) -> bool:
    return any(column.text(row) not in ("", "-") for row in report.rows)


def _packaged(name: str) -> str:
    return files(__package__).joinpath(name).read_text(encoding="utf-8")


def _measured_with(report: Report) -> dict[str, Any]:
    images = {name: value for name, value in report.images.items() if name != "broken"}
    labels = {f"labels: {name}": value for name, value in (report.labels or {}).items()}
    return {**report.settings, **images, **labels}


def _in_words(value: object) -> str:
    """A value of the environment or the settings, as words."""
    if isinstance(value, dict):
        return ", ".join(f"{name} {_in_words(each)}" for name, each in value.items()) or "none"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_in_words, value)) or "none"
    return "not given" if value is None else str(value)
