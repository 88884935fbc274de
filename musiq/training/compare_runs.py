"""One table of finished runs, for a comparison of recipes: `python -m musiq.training.compare_runs runs/*` prints it,
and with `--against runs/NAME` what each run's SRCC differs from that run's, with the interval that tells it from
noise."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from musiq.errors import MusiqError
from musiq.metrics import srcc_difference
from musiq.terminal import Command
from musiq.training.run_folder import Settings

COLUMNS: tuple[str, ...] = (
    "run",
    "settings that differ",
    "n",
    "SRCC",
    "without near duplicates",
    "PLCC",
    "KRCC",
    "images/s",
)

TOLD = ("preset", "seed")
"""Settings that are told though they be the same in all runs."""


def table(folders: Sequence[Path], against: Path | None = None) -> str:
    """A Markdown table, a row for each folder, best SRCC first.

    `against`: one more column, each run's SRCC minus that run's, paired over the test images, with its 95% interval.
    Raises MusiqError for a folder without a finished run, and for two that were not tested on the same images.
    """
    runs = [(folder, *_read(folder)) for folder in folders]
    runs.sort(key=lambda run: run[2]["srcc"] or -2, reverse=True)
    differing = [
        name
        for name in Settings.__annotations__
        if name in TOLD or len({str(settings.get(name)) for _, settings, _ in runs}) > 1
    ]
    columns, rows = COLUMNS, [_row(folder, settings, metrics, differing) for folder, settings, metrics in runs]
    if against is not None:
        columns = (*columns, f"SRCC minus that of {against.name}")
        rows = [f"{row} {_difference(folder, against)} |" for row, (folder, _, _) in zip(rows, runs, strict=True)]
    header = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    return "\n".join([*header, *rows])


def _read(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    try:
        settings = json.loads((folder / "run.json").read_text(encoding="utf-8"))["settings"]
        return settings, json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, KeyError) as problem:
        raise MusiqError(
            f"{folder} holds no finished run ({problem}); finish it with python train.py --resume --out {folder}."
        ) from problem


def _row(folder: Path, settings: dict[str, Any], metrics: dict[str, Any], differing: Sequence[str]) -> str:
    told = ", ".join(f"{name.replace('_', '-')} {settings.get(name)}" for name in differing)
    apart = metrics.get("without_near_duplicates")
    speed = metrics["training"].get("images_per_second")
    cells = [_figure(metrics, "srcc"), _figure(apart, "srcc") if apart else "", _figure(metrics, "plcc")]
    cells += [_figure(metrics, "krcc"), f"{speed:.1f}" if speed else ""]
    return f"| {folder.name} | {told} | {metrics['n']} | {' | '.join(cells)} |"


def _figure(found: dict[str, Any], name: str) -> str:
    ends = found[f"{name}_interval"]
    if found[name] is None:
        return str(found["undefined"])
    return f"{found[name]:.4f}" + (f" ({ends[0]:.3f} to {ends[1]:.3f})" if ends else "")


def _difference(folder: Path, against: Path) -> str:
    if folder.resolve() == against.resolve():
        return ""
    ours, theirs = _predictions(folder), _predictions(against)
    labels = [mos for mos, _ in ours.values()]
    if labels != [theirs.get(image, (math.nan,))[0] for image in ours] or len(ours) != len(theirs):
        raise MusiqError(
            f"{folder} and {against} were not tested on the same images with the same labels; "
            "compare runs of one dataset, split and seed."
        )
    reference = [theirs[image][1] for image in ours]
    delta, ends = srcc_difference([score for _, score in ours.values()], reference, labels)
    if math.isnan(delta):
        return "undefined"
    return f"{delta:+.4f}" + (f" ({ends[0]:+.3f} to {ends[1]:+.3f})" if ends else "")


def _predictions(folder: Path) -> dict[str, tuple[float, float]]:
    """(label, score) of each test image that could be read."""
    file = folder / "predictions.csv"
    try:
        with open(file, encoding="utf-8", newline="") as rows:
            read = [row for row in csv.DictReader(rows) if row["score"]]
            return {row["image"]: (float(row["mos"]), float(row["score"])) for row in read}
    except (OSError, ValueError, KeyError) as problem:
        raise MusiqError(f"{file} cannot be read ({problem}); train.py writes it at the end of a run.") from problem


@click.command(cls=Command)
@click.argument("folders", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--against", type=click.Path(path_type=Path), help="A finished run: tell how each differs from it, beyond noise."
)
def main(folders: tuple[Path, ...], against: Path | None) -> None:
    """Print one Markdown table of the finished runs in FOLDERS, with 95% intervals."""
    click.echo(table(folders, against))


if __name__ == "__main__":
    main()
