"""Comparing two reports, `musiq-bench --compare OLD NEW`: what became faster, slower, better, worse, beyond noise.

Rows are the same where model, format, precision, device and batch are, and both or neither a baseline or for any size; see
`musiq_bench.compare.significance` for what noise is.
SRCC is compared where labels are the same: less the same PyTorch reference's, where both reports have that, since its
paired interval is far narrower. Without labels it is SRCC to PyTorch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from musiq.errors import MusiqError

from ..machine.environment import in_one_line
from ..report.columns import milliseconds, runs_on
from ..report.read import read
from ..report.schema import Report, ReportRow
from ..report.table import console
from .significance import SAME, Change, latency_change, spearman_interval, srcc_change

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

ROOMY = 110  # columns from which the intervals of changes are shown


@dataclass(frozen=True)
class Pair:
    """A row of both reports, or of one. `note` says what figures do not: a status, another provider."""

    old: ReportRow | None
    new: ReportRow | None
    latency: Change | None = None
    quality: Change | None = None
    note: str = ""

    @property
    def row(self) -> ReportRow:
        row = self.new or self.old
        assert row is not None
        return row


def compare(old: Report, new: Report) -> list[Pair]:
    """Pair the rows of two reports and compare what both have.

    Args:
        old: The report to compare with.
        new: The report in question.

    Returns:
        The rows of both, those of `old` first, in order.

    Raises:
        MusiqError: scipy is missing.
    """
    before, after = _keyed(old), _keyed(new)
    paired = _same_labels(old, new)
    return [_pair(before.get(key), after.get(key), (old, new), paired) for key in dict.fromkeys([*before, *after])]


def _keyed(report: Report) -> dict[tuple[Any, ...], ReportRow]:
    keyed: dict[tuple[Any, ...], ReportRow] = {}
    for row in report.rows:
        key = (row.model, row.format, row.role == "baseline", row.precision, row.device, row.batch, row.any_size)
        keyed.setdefault(key, row)
    return keyed


def _pair(old: ReportRow | None, new: ReportRow | None, reports: tuple[Report, Report], labelled: bool) -> Pair:
    if old is None or new is None:
        return Pair(old, new, note="only in the new report" if old is None else "only in the old report")
    if old.status != "ok" or new.status != "ok":
        return Pair(old, new, note=_statuses(old, new))
    note = "" if old.provider == new.provider else f"ran on {old.provider}, now on {new.provider}"
    latency = latency_change(old.latency_ms, new.latency_ms) if old.latency_ms and new.latency_ms else None
    return Pair(old, new, latency, _quality(old, new, reports, labelled), note)


def _statuses(old: ReportRow, new: ReportRow) -> str:
    if new.status == "ok":
        return f"measured now; it was {old.status} ({old.reason})"
    if old.status == new.status:
        return f"{new.status} as before: {new.reason}"
    return f"was {'measured' if old.status == 'ok' else old.status}, now {new.status}: {new.reason}"


def _same_labels(old: Report, new: Report) -> bool:
    what = [{name: (report.labels or {}).get(name) for name in ("target", "split", "n")} for report in (old, new)]
    return bool(old.labels and new.labels) and what[0] == what[1]


def _quality(old: ReportRow, new: ReportRow, reports: tuple[Report, Report], labelled: bool) -> Change | None:
    if labelled and old.srcc is not None and new.srcc is not None:
        same = _reference(old, reports[0]) == _reference(new, reports[1]) is not None
        name = "srcc_delta" if same and old.srcc_delta_interval and new.srcc_delta_interval else "srcc"
        first, second = getattr(old, f"{name}_interval"), getattr(new, f"{name}_interval")
        if not first or not second:
            return None
        return srcc_change(getattr(old, name), first, getattr(new, name), second, shown=(old.srcc, new.srcc))
    one, other = old.srcc_reference, new.srcc_reference
    if one is None or other is None or not old.images or not new.images:
        return None
    return srcc_change(one, spearman_interval(one, old.images), other, spearman_interval(other, new.images))


def _reference(row: ReportRow, report: Report) -> str | None:
    """SHA-256 of the checkpoint that a row is compared with."""
    return next((each.sha256 for each in report.rows if each.path == row.reference), None)


def differences(old: Report, new: Report) -> list[str]:
    """What else than the models is not the same: machine, versions, settings, images, labels. A line for each."""
    lines = []
    machines = [in_one_line(report.environment) for report in (old, new)]
    if machines[0] != machines[1]:
        lines.append(f"Different machines, so latencies say little of the models: {machines[0]}; now {machines[1]}.")
    lines += _busy(old, new)
    lines += _changed("Versions", old.environment["versions"], new.environment["versions"])
    lines += _changed("Variables", old.environment.get("variables", {}), new.environment.get("variables", {}))
    kept = ("devices", "threads", "calls", "seconds", "rounds")
    settings = [{name: report.settings.get(name) for name in kept} for report in (old, new)]
    lines += _changed("Settings", *settings)
    lines += _changed("Images", *({"used": report.images["used"]} for report in (old, new)))
    if (old.labels or new.labels) and not _same_labels(old, new):
        lines.append("Not the same labels, so SRCC is not compared with them.")
    return lines


def _busy(old: Report, new: Report) -> list[str]:
    """A line where other programs wanted more than half of the cores when a run began; what they took is in no interval."""
    loads = [(report.environment.get("load_average") or [0.0])[0] for report in (old, new)]
    if all(load <= report.environment["cores"] / 2 for load, report in zip(loads, (old, new), strict=True)):
        return []
    return [f"Other programs were running (load average {loads[0]:g}, now {loads[1]:g}): latencies may be their doing."]


def _changed(title: str, old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    names = [name for name in dict.fromkeys([*old, *new]) if old.get(name) != new.get(name)]
    changes = [f"{name} {_value(old.get(name))} -> {_value(new.get(name))}" for name in names]
    return [f"{title}: {', '.join(changes)}."] if changes else []


def _value(value: object) -> str:
    if isinstance(value, (list, tuple)):
        return " and ".join(map(str, value))
    return "none" if value is None else str(value)


def show_comparison(old: Report, new: Report, console: Console) -> None:
    """Print what else differs, the table of rows in both reports, and a line for each row that is not in it."""
    for line in differences(old, new):
        console.print(line, highlight=False, markup=False)
    pairs = compare(old, new)
    measured = [pair for pair in pairs if pair.latency or pair.quality]
    if measured:
        console.print(_table(measured, console.width))
    for line in (*_notes(pairs), *_summary(measured)):
        console.print(line, highlight=False, markup=False)


def _table(pairs: Sequence[Pair], width: int) -> Table:
    """The interval of a change only where there is room; names are folded before figures are."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for title in ("model", "runs on"):
        table.add_column(title, min_width=10, overflow="fold")
    quality = any(pair.quality for pair in pairs)
    wide = width >= ROOMY
    titles = [
        "batch",
        "p50 ms",
        "now",
        "change",
        *(["95%"] if wide else []),
        "",
        *(["SRCC", "now", ""] if quality else []),
    ]
    for title in titles:
        table.add_column(title, justify="right" if title else "left", no_wrap=True)
    for pair in pairs:
        names = (pair.row.model, runs_on(pair.row), str(pair.row.batch))
        table.add_row(*names, *_latency_cells(pair.latency, wide), *(_quality_cells(pair.quality) if quality else []))
    return table


def _latency_cells(change: Change | None, wide: bool) -> list[str | Text]:
    if change is None:
        return [""] * (5 if wide else 4)
    interval = [f"{change.low:+.0%} to {change.high:+.0%}"] if wide else []
    figures = (milliseconds(change.old), milliseconds(change.new), f"{change.difference:+.1%}", *interval)
    return [*figures, _word(change)]


def _quality_cells(change: Change | None) -> list[str | Text]:
    return [] if change is None else [f"{change.old:.4f}", f"{change.new:.4f}", _word(change)]


def _word(change: Change) -> Text:
    from rich.text import Text

    return Text(change.word, style={"faster": "green", "better": "green", SAME: ""}.get(change.word, "red"))


def _notes(pairs: Sequence[Pair]) -> list[str]:
    return [
        f"{pair.row.model} on {runs_on(pair.row)}, batch {pair.row.batch}: {pair.note}" for pair in pairs if pair.note
    ]


def _summary(pairs: Sequence[Pair]) -> list[str]:
    latencies = [pair.latency.word for pair in pairs if pair.latency]
    qualities = [pair.quality.word for pair in pairs if pair.quality]
    counts = [", ".join(f"{latencies.count(word)} {word}" for word in ("faster", "slower", SAME)) + " in latency"]
    if qualities:
        counts.append(
            ", ".join(f"{qualities.count(word)} {word}" for word in ("better", "worse", SAME)) + " in quality"
        )
    return [f"Beyond noise: {'; '.join(counts)}."] if pairs else ["No row of the two reports can be compared."]


def compare_and_exit(context: click.Context, _: click.Parameter, paths: tuple[Path, Path] | None) -> None:
    """What `--compare OLD NEW` does in place of measuring."""
    if not paths or context.resilient_parsing:
        return
    try:
        reports = read(paths[0]), read(paths[1])
        show_comparison(*reports, console())
    except MusiqError as problem:
        raise click.ClickException(" ".join(str(problem).split())) from problem
    context.exit()
