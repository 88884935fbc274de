"""One table of finished runs, for a comparison of recipes: `python -m musiq.training.compare runs/*` prints it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from musiq.cli import Command
from musiq.errors import MusiqError
from musiq.training.runs import Settings

COLUMNS = ("run", "settings that differ", "n", "SRCC", "without near duplicates", "PLCC", "KRCC", "images/s")

TOLD = ("preset", "seed")
"""Settings that are told though they be the same in all runs."""


def table(folders: Sequence[Path]) -> str:
    """A Markdown table, a row for each folder, best SRCC first. Raises MusiqError for a folder without a finished run."""
    runs = [(folder, *_read(folder)) for folder in folders]
    runs.sort(key=lambda run: run[2]["srcc"] or -2, reverse=True)
    differing = [
        name
        for name in Settings.__annotations__
        if name in TOLD or len({str(settings.get(name)) for _, settings, _ in runs}) > 1
    ]
    header = [f"| {' | '.join(COLUMNS)} |", "|---" * len(COLUMNS) + "|"]
    return "\n".join([*header, *(_row(folder, settings, metrics, differing) for folder, settings, metrics in runs)])


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


@click.command(cls=Command)
@click.argument("folders", nargs=-1, required=True, type=click.Path(path_type=Path))
def main(folders: tuple[Path, ...]) -> None:
    """Print one Markdown table of the finished runs in FOLDERS, with 95% intervals."""
    click.echo(table(folders))


if __name__ == "__main__":
    main()
