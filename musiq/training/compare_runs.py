"""Compares finished runs in one Markdown table: `python -m musiq.training.compare_runs runs/*` prints it.

With `--against runs/NAME` it also tells what each run's SRCC differs from that run's, with the 95% interval.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from musiq.errors import MusiqError, one_line
from musiq.markdown import table
from musiq.metrics import srcc_difference
from musiq.terminal import Command
from musiq.training.model_card import figure_cell
from musiq.training.recipe import RECIPE_FIELDS

COLUMNS = ("run", "settings that differ", "n", "SRCC", "without near duplicates", "PLCC", "KRCC", "images/s")

ALWAYS_SHOWN = ("preset", "seed")
"""Settings that are shown though they be the same in all runs."""


@dataclass(frozen=True)
class FinishedRun:
    """What the folder of a finished run says: its recipe as saved, by names, and the content of metrics.json."""

    folder: Path
    settings: dict[str, Any]
    metrics: dict[str, Any]

    @classmethod
    def read(cls, folder: Path) -> FinishedRun:
        try:
            settings = json.loads((folder / "run.json").read_text(encoding="utf-8"))["settings"]
            return cls(folder, settings, json.loads((folder / "metrics.json").read_text(encoding="utf-8")))
        except (OSError, ValueError, KeyError, TypeError) as problem:
            raise MusiqError(
                f"{folder} holds no finished run ({_reason(problem)}); "
                f"finish it with python train.py --resume --out {folder}."
            ) from problem

    def cells(self, shown: Sequence[str]) -> list[str]:
        """Those of COLUMNS, with the settings of these names."""
        settings = ", ".join(f"{name.replace('_', '-')} {self.settings.get(name)}" for name in shown)
        apart, speed = self.metrics.get("without_near_duplicates"), self.metrics["training"].get("images_per_second")
        figures = [figure_cell(self.metrics, "srcc"), figure_cell(apart, "srcc") if apart else ""]
        figures += [figure_cell(self.metrics, "plcc"), figure_cell(self.metrics, "krcc")]
        return [self.folder.name, settings, str(self.metrics["n"]), *figures, f"{speed:.1f}" if speed else ""]


def compare(folders: Sequence[Path], against: Path | None = None) -> str:
    """Compare finished runs.

    Args:
        folders: Those of the runs.
        against: One more column, each run's SRCC minus that run's, paired over the test images, with its 95% interval.

    Returns:
        A Markdown table, a row for each run, best SRCC first.

    Raises:
        MusiqError: A folder holds no finished run, or two were not tested on the same images.
    """
    runs = sorted(map(FinishedRun.read, folders), key=lambda run: run.metrics["srcc"] or -2, reverse=True)
    shown = [
        name for name in RECIPE_FIELDS if name in ALWAYS_SHOWN or len({str(run.settings.get(name)) for run in runs}) > 1
    ]
    if against is None:
        return table(COLUMNS, [run.cells(shown) for run in runs])
    rows = [[*run.cells(shown), _difference(run.folder, against)] for run in runs]
    return table([*COLUMNS, f"SRCC minus that of {against.name}"], rows)


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


def _reason(problem: Exception) -> str:
    """Why a file of a run cannot be read, without Python's numbers and types."""
    if isinstance(problem, OSError):
        return f"{Path(problem.filename or '').name}: {problem.strerror}"
    return f"there is no {problem} in it" if isinstance(problem, KeyError) else one_line(problem)


def _predictions(folder: Path) -> dict[str, tuple[float, float]]:
    """(label, score) of each test image that could be read."""
    file = folder / "predictions.csv"
    try:
        with open(file, encoding="utf-8", newline="") as rows:
            read = [row for row in csv.DictReader(rows) if row["score"]]
            return {row["image"]: (float(row["mos"]), float(row["score"])) for row in read}
    except (OSError, ValueError, KeyError) as problem:
        raise MusiqError(
            f"{file} cannot be read ({_reason(problem)}); train.py writes it at the end of a run."
        ) from problem


@click.command(cls=Command, context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("folders", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--against", type=click.Path(path_type=Path), help="A finished run: tell how each differs from it, beyond noise."
)
def main(folders: tuple[Path, ...], against: Path | None) -> None:
    """Print one Markdown table of the finished runs in FOLDERS, with 95% intervals."""
    click.echo(compare(folders, against))


if __name__ == "__main__":
    main()
