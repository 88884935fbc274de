"""From train.py's options to labelled images, each there and in a split: datasets opened, cleared of leaks, joined."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from musiq.datasets.dataset import NEAR_DUPLICATE, Dataset, Labelled, as_shares, missing
from musiq.datasets.manifest import read_labels
from musiq.datasets.near_duplicates import find_near_duplicates
from musiq.datasets.public import read_named
from musiq.datasets.splits import NO_PAIRS, drop_leaks, leaks, mark_leaks, sample, settle_splits
from musiq.errors import MusiqError

THUMBNAILS = "thumbnails.npz"
"""The cache of images' thumbnails in a run's folder; runs beside it read it, too."""

Say = Callable[[str], None]


def open_dataset(options: dict[str, Any], folder: Path, say: Say) -> Dataset:
    """The labelled images that the options ask for, every one in a split, every image there.

    Thumbnails by which near duplicates were found are kept in `folder`. Raises MusiqError for options that do not go
    together, and for whatever is wrong with the label files.
    """
    names = parse_data(options["data"], options["root"], options["labels"])
    datasets = [_opened(options, name, root) for name, root in names]
    count = sum(len(dataset.items) for dataset in datasets)
    if most := options["max_images"]:
        # Before the split, so that only these are looked at for near duplicates.
        datasets = [sample(one, max(3, round(most * len(one.items) / count)), options["seed"]) for one in datasets]
    datasets = [_present(dataset, options["skip_missing"], say) for dataset in datasets]
    near = NO_PAIRS
    if options["near_duplicates"] != "keep":
        near = _near_duplicates([item for dataset in datasets for item in dataset.items], folder)
    datasets, lines = settle_splits(datasets, options["seed"], near)
    for line in lines:
        say(line)
    dataset = join(datasets, [name for name, _ in names], options["outputs"]) if len(datasets) > 1 else datasets[0]
    dataset = _settle_near(dataset, near, options["near_duplicates"] == "drop", say)
    if len(dataset.split("train")) < 2 or not dataset.split("val"):
        raise MusiqError(f"There are {dataset.counts()} images: too few to train and choose the best epoch.")
    changes = {name: options[name] for name in ("target", "score_range") if options[name]}
    return dataclasses.replace(dataset, **changes)


def parse_data(data: Sequence[str], roots: Sequence[Path], labels: Path | None) -> list[tuple[str, Path | None]]:
    """Names with their folders: of `--data NAME=DIR`, or of as many `--root DIR` as `--data NAME`; "" stands for labels."""
    if labels:
        if data or len(roots) > 1:
            raise MusiqError(
                "--labels goes with at most one --root and no --data; name public datasets by --data alone."
            )
        return [("", roots[0] if roots else None)]
    left = list(roots)
    found: list[tuple[str, Path | None]] = []
    for text in data:
        name, equals, root = text.partition("=")
        if not equals and not left:
            raise MusiqError(f"--data {name} needs --root DIR, the folder with its files (or --data {name}=DIR).")
        found.append((name, Path(root) if equals else left.pop(0)))
    if left:
        raise MusiqError(f"--root {left[0]} belongs to no --data; give as many of one as of the other.")
    if len({name for name, _ in found}) < len(found):
        raise MusiqError("A dataset is named twice by --data; name each once.")
    return found


def _opened(options: dict[str, Any], name: str, root: Path | None) -> Dataset:
    dataset = read_named(name, root) if name and root else read_labels(options["labels"], root)
    return as_shares(dataset, options["outputs"]) if options["outputs"] > 1 else dataset


def _present(dataset: Dataset, skip: bool, say: Say) -> Dataset:
    lost = missing(dataset.items)
    if not lost:
        return dataset
    what = f"{len(lost)} of {len(dataset.items)} images are missing, {lost[0].path} first"
    if not skip:
        raise MusiqError(f"{what}. Put them there, give --root, or train without them by --skip-missing.")
    say(f"{what}; going on without them.")
    gone = {item.image for item in lost}
    return dataclasses.replace(dataset, items=tuple(item for item in dataset.items if item.image not in gone))


def join(datasets: Sequence[Dataset], names: Sequence[str], outputs: int = 1) -> Dataset:
    """Several datasets as one, their scales aligned; every image already in a split.

    The labels become z-scores within their own dataset (mean 0 and deviation 1 over its train images), the column
    `label` keeps them as they were, `dataset` names it. This assumes that the datasets' images are alike in quality on
    the whole; losses over pairs of one dataset (`dataset_numbers`) do not need that. With shares (`outputs` > 1) the
    labels are mean ratings on one scale and stay. Raises MusiqError where a dataset's train labels are all the same.
    """
    root = Path(os.path.commonpath([os.path.abspath(dataset.root) for dataset in datasets]))
    columns = ["dataset", *(["label"] if outputs == 1 else [])]
    columns += dict.fromkeys(key for dataset in datasets for item in dataset.items for key in item.extra)
    items: list[Labelled] = []
    for dataset, name in zip(datasets, names, strict=True):
        shift, scale = _moments(dataset, name) if outputs == 1 else (0.0, 1.0)
        for item in dataset.items:
            path = Path(os.path.abspath(item.path))  # not resolved: a link's target may lie outside of root
            own = {**item.extra, "dataset": name, "label": repr(item.mos)}
            extra = {column: own.get(column, "") for column in columns}
            std = None if item.std is None else item.std / scale
            image, mos = path.relative_to(root).as_posix(), (item.mos - shift) / scale
            items.append(Labelled(image, path, mos, item.split, std, item.shares, extra))
    targets = ", ".join(f"{name}: {dataset.target}" for name, dataset in zip(names, datasets, strict=True))
    target = f"z-score within its dataset ({targets})" if outputs == 1 else f"mean rating (1-{outputs}) ({targets})"
    return Dataset(tuple(items), root, target, None if outputs == 1 else (1.0, float(outputs)))


def _moments(dataset: Dataset, name: str) -> tuple[float, float]:
    """Mean and standard deviation of the train labels."""
    labels = np.array([item.mos for item in dataset.split("train")])
    if len(labels) == 0 or labels.std() == 0:
        raise MusiqError(f"{name} has no two train images with different labels: nothing to learn from it.")
    return float(labels.mean()), float(labels.std())


def _near_duplicates(items: Sequence[Labelled], folder: Path) -> NDArray[np.int64]:
    """Pairs of places; progress on stderr. Thumbnails of a run beside this one are taken over."""
    from rich.console import Console
    from rich.progress import Progress

    others = sorted(folder.parent.glob(f"*/{THUMBNAILS}"), key=lambda path: path.stat().st_mtime)
    caches = [folder / THUMBNAILS, *others[-1:]]
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("near duplicates", total=len(items))
        return find_near_duplicates([item.path for item in items], caches, lambda: progress.advance(task))


def _settle_near(dataset: Dataset, near: NDArray[np.int64], drop: bool, say: Say) -> Dataset:
    """Say what leaks, and mark it or, where asked, drop it from train."""
    leaking = leaks(dataset, near)
    if not leaking:
        return dataset
    counts = [sum(dataset.items[place].split == name for place in leaking) for name in ("val", "test")]
    what = f"{counts[0]} val and {counts[1]} test images have a near duplicate in train"
    if drop:
        smaller = drop_leaks(dataset, near)
        say(f"{what}: dropped {len(dataset.items) - len(smaller.items)} images of train.")
        return smaller
    marked = mark_leaks(dataset, near)
    how = "the labels' own marks of them stay" if marked is dataset else "marked in split.csv"
    say(f"{what} by the split that the labels give; {how} ({NEAR_DUPLICATE}). --near-duplicates drop leaves them out.")
    return marked
