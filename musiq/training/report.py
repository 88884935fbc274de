"""Scores the test split at the end of a run, and reports it: figures, predictions, a model card, a learning curve."""

from __future__ import annotations

import csv
import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from musiq.datasets.dataset import NEAR_DUPLICATE, Labelled, rating_mean_std
from musiq.errors import pip_install
from musiq.files import atomic_write
from musiq.metrics import agreement, intervals, srcc, undefined
from musiq.model import checkpoint
from musiq.spec import share_columns
from musiq.terminal import progress_bar
from musiq.training import evaluate, run_folder
from musiq.training.epoch import readable
from musiq.training.evaluate import Scored
from musiq.training.losses import emd
from musiq.training.model_card import SHOWN, write_card
from musiq.training.run import Run, check_unread
from musiq.training.run_folder import EpochRecord


def report_test(run: Run) -> None:
    """Score the test split with the best checkpoint, print its figures, and write what belongs to a finished run:
    predictions.csv, curve.png, MODEL_CARD.md and, last, metrics.json."""
    items = run.dataset.split("test")
    if not items:
        if run.is_main:
            click.echo("Test: the labels have no test split.")
        return
    run.accelerator.wait_for_everyone()  # one process may still be writing it
    model = checkpoint.load(run.folder / "best.safetensors").to(run.accelerator.device)
    with progress_bar("test", len(items), quiet=not run.is_main) as bar:
        scored = evaluate.score(run.accelerator, model, items, run.recipe.batch_size, run.workers, bar.advance)
    check_unread(run, len(scored.problems), len(items), "the test split")
    if not run.is_main:
        return
    for problem in scored.problems:
        click.echo(f"Left out of the test: {problem}", err=True)
    readable(run, scored, items)
    write_predictions(run.folder / "predictions.csv", items, scored)
    metrics = all_figures(run, items, scored)
    draw_curve(run)
    write_card(run.folder, run.recipe, run.dataset, metrics)
    run_folder.write_json(run.folder / "metrics.json", metrics)
    print_figures(run, metrics)


def all_figures(run: Run, items: Sequence[Labelled], scored: Scored) -> dict[str, Any]:
    """What metrics.json holds."""
    read = [index for index, value in enumerate(scored.scores) if not math.isnan(value)]
    metrics: dict[str, Any] = {"target": run.dataset.target, "split": "test", "best_epoch": run.state.best_epoch + 1}
    metrics |= {"unreadable": len(scored.problems), **figures(items, scored, read)}
    near = [
        index for index in read if items[index].extra.get(NEAR_DUPLICATE, "0").lower() not in ("", "0", "false", "no")
    ]
    if near:
        apart = sorted(set(read) - set(near))
        metrics |= {"near_duplicates": len(near), "without_near_duplicates": figures(items, scored, apart)}
    if read and items[0].shares and scored.shares[read[0]]:
        metrics["distribution"] = distribution(items, scored, read)
    return metrics | {"training": costs(run.state.history)}


def figures(items: Sequence[Labelled], scored: Scored, which: Sequence[int]) -> dict[str, Any]:
    """Figures and their intervals over some of the items; None where undefined, and why."""
    predicted, labels = [scored.scores[index] for index in which], [items[index].mos for index in which]
    found: dict[str, Any] = {"n": len(which), "undefined": undefined(predicted, labels)}
    found |= {name: None if math.isnan(value) else value for name, value in agreement(predicted, labels).items()}
    return found | {f"{name}_interval": ends for name, ends in intervals(predicted, labels).items()}


def distribution(items: Sequence[Labelled], scored: Scored, which: Sequence[int]) -> dict[str, float | None]:
    """How well the standard deviation of the ratings ("spread") and their shares are predicted."""
    import torch

    ours, theirs = [scored.shares[index] for index in which], [items[index].shares or () for index in which]
    agreeing = srcc([rating_std(shares) for shares in ours], [rating_std(shares) for shares in theirs])
    distance = float(emd(torch.tensor(ours, dtype=torch.float64), torch.tensor(theirs, dtype=torch.float64)))
    return {"spread_srcc": None if math.isnan(agreeing) else agreeing, "emd": distance}


def rating_std(shares: Sequence[float]) -> float:
    """The standard deviation of ratings 1..K with these shares."""
    return rating_mean_std(shares)[1]


def costs(history: Sequence[EpochRecord]) -> dict[str, Any]:
    """Training images a second over all epochs, the share of that time spent waiting for images, and every epoch."""
    seconds, waiting = sum(epoch.seconds for epoch in history), sum(epoch.waiting_seconds for epoch in history)
    images = sum(epoch.images for epoch in history)
    rate = {"images_per_second": images / seconds, "waiting_share": waiting / seconds} if seconds else {}
    return {**rate, "epochs": [dataclasses.asdict(epoch) for epoch in history]}


def print_figures(run: Run, metrics: dict[str, Any]) -> None:
    """The figures of the test split, on stdout."""
    click.echo(f"Test: {in_words(metrics)}")
    epoch, target = metrics["best_epoch"], run.dataset.target
    click.echo(f"      n={metrics['n']} images of the test split, target {target!r}, checkpoint of epoch {epoch}")
    if apart := metrics.get("without_near_duplicates"):
        click.echo(f"      without {metrics['near_duplicates']} near duplicates of training images: {in_words(apart)}")
    if ratings := metrics.get("distribution"):
        agreeing = "undefined" if ratings["spread_srcc"] is None else f"{ratings['spread_srcc']:.4f}"
        click.echo(f"      ratings: EMD {ratings['emd']:.4f}, SRCC of their spread {agreeing}")


def in_words(found: dict[str, Any]) -> str:
    """ "SRCC 0.7047 (0.65-0.75)  PLCC ...", in brackets the 95% interval of SRCC."""
    shown = [f"{name} {found[key]:.4f}" for key, name in SHOWN.items() if found[key] is not None]
    if shown and (ends := found["srcc_interval"]):
        shown[0] += f" ({ends[0]:.3f}-{ends[1]:.3f})"
    return "  ".join(shown) or found["undefined"]


def write_predictions(path: Path, items: Sequence[Labelled], scored: Scored) -> None:
    """One row for each image: label, score, for shares both standard deviations of the ratings and the shares, the labels'
    other columns."""
    several = max(map(len, scored.shares), default=0)
    header = ["image", "mos", "score", *(["mos_spread", "score_spread"] if several else []), *share_columns(several)]
    with atomic_write(path) as part, part.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow([*header, *(items[0].extra if items else [])])
        for item, score, given in zip(items, scored.scores, scored.shares, strict=True):
            row: list[object] = [item.image, item.mos, "" if math.isnan(score) else score]
            if several:
                row += [rating_std(item.shares or ()), rating_std(given), *given] if given else [""] * (several + 2)
            writer.writerow([*row, *item.extra.values()])


def draw_curve(run: Run) -> None:
    """curve.png: loss and validation SRCC by epoch; nothing where matplotlib is not installed."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        click.echo(f"No curve.png: matplotlib is not installed ({pip_install('train')}).", err=True)
        return
    history = run.state.history
    epochs = range(1, len(history) + 1)
    figure = Figure(figsize=(7, 4), layout="constrained")
    left = figure.subplots()
    right = left.twinx()
    left.plot(epochs, [epoch.loss for epoch in history], "C0.-")
    found = [math.nan if epoch.validation_srcc is None else epoch.validation_srcc for epoch in history]
    right.plot(epochs, found, "C1.-")
    left.set(
        xlabel="epoch",
        ylabel=f"training loss ({run.recipe.loss})",
        title=f"{run.recipe.preset}: {run.dataset.target}",
    )
    right.set_ylabel("validation SRCC")
    left.yaxis.label.set_color("C0")
    right.yaxis.label.set_color("C1")
    with atomic_write(run.folder / "curve.png") as part:
        figure.savefig(part, dpi=120)
