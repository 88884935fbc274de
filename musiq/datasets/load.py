"""Loads the labelled images that train.py's options ask for: opens datasets, splits, clears of leaks and joins them."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from musiq.datasets.dataset import NEAR_DUPLICATE, Dataset, Labelled, as_shares, missing
from musiq.datasets.label_files import read_labels, with_split
from musiq.datasets.near_duplicates import find_near_duplicates
from musiq.datasets.public import read_named
from musiq.datasets.splits import NO_PAIRS, deal_folds, drop_leaks, leaks, mark_leaks, sample, settle_splits
from musiq.errors import MusiqError
from musiq.terminal import progress_bar

THUMBNAILS = "thumbnails.npz"
"""The cache of images' thumbnails in a run's folder; runs beside it read it, too."""

Echo = Callable[[str], None]


@dataclass(frozen=True)
class DataOptions:
    """What a command asks for by its options on data.

    Attributes:
        data: Public datasets, "NAME" or "NAME=DIR" each.
        labels: A label file, in place of `data`.
        root: Folders of the datasets without "=DIR", or the one that the images of `labels` are relative to.
        outputs: 1: the labels are scores; K > 1: they are the shares of the ratings 1..K.
        seed: Of a split that the labels do not give, and of a sample.
        near_duplicates: "keep", "group" or "drop".
        max_images: Use at most so many; None: all.
        skip_missing: Go on without images that are not there.
        target: What the labels are called; None: as the label file has it.
        score_range: (worst, best) possible label; None: as it is known.
        terms: Terms of the images, for the model card; None: as they are known.
        fold: "2/5": train and val are dealt anew, see `musiq.datasets.splits.deal_folds`; "": they stay.
        split: A file of the images' splits in the place of those the labels give, see
            `musiq.datasets.label_files.with_split`.
    """

    data: tuple[str, ...] = ()
    labels: Path | None = None
    root: tuple[Path, ...] = ()
    outputs: int = 1
    seed: int = 0
    near_duplicates: str = "group"
    max_images: int | None = None
    skip_missing: bool = False
    target: str | None = None
    score_range: tuple[float, float] | None = None
    terms: str | None = None
    fold: str = ""
    split: Path | None = None


def open_dataset(options: DataOptions, folder: Path, echo: Echo) -> Dataset:
    """Open the labelled images that the options ask for: every one in a split, every image there.

    Args:
        options: What is asked for.
        folder: Of the run; thumbnails by which near duplicates are found are kept there.
        echo: Takes lines for people: what was drawn, left out, dropped.

    Returns:
        The images of all datasets as one.

    Raises:
        MusiqError: The options do not go together, a label file or image is missing or wrong, or there are too few
            images to train and validate.
    """
    names = parse_data(options.data, options.root, options.labels)
    if options.split and len(names) > 1:
        raise MusiqError(
            "--split is for one dataset; give one --data, or leave it out: several bring or draw their own."
        )
    datasets = [_open_one(options, name, root) for name, root in names]
    count = sum(len(dataset.items) for dataset in datasets)
    if most := options.max_images:
        # Before the split, so that only these are looked at for near duplicates.
        datasets = [sample(one, max(3, round(most * len(one.items) / count)), options.seed) for one in datasets]
    datasets = [_without_missing(dataset, options.skip_missing, echo) for dataset in datasets]
    near = NO_PAIRS
    if options.near_duplicates != "keep":
        near = _near_duplicates([item for dataset in datasets for item in dataset.items], folder)
    datasets, lines = settle_splits(datasets, options.seed, near)
    for line in lines:
        echo(line)
    dataset = join(datasets, [name for name, _ in names], options.outputs) if len(datasets) > 1 else datasets[0]
    if options.fold:
        dataset = deal_folds(dataset, options.fold, near)
        echo(f"Fold {options.fold} of train and val: {dataset.counts()}.")
    dataset = _without_leaks(dataset, near, options.near_duplicates == "drop", echo)
    if len(dataset.split("train")) < 2 or not dataset.split("val"):
        raise MusiqError(f"There are {dataset.counts()} images: too few to train and choose the best epoch.")
    target, score_range = options.target or dataset.target, options.score_range or dataset.score_range
    return dataclasses.replace(dataset, target=target, score_range=score_range)


@dataclass(frozen=True)
class Origin:
    """Where a run's images came from, as its command line said: kept with the run, compared when it is resumed.

    Attributes:
        labels: The label file; None for public datasets.
        data: Names of public datasets.
        root: Their folders, "" for one that was not said; that of the images of `labels`.
        max_images, near_duplicates: As of `DataOptions`.
        split: The file of their splits; None: those that the labels give, or that were drawn.
    """

    labels: str | None
    data: tuple[str, ...]
    root: tuple[str, ...]
    max_images: int | None
    near_duplicates: str
    split: str | None = None

    @classmethod
    def of(cls, options: DataOptions) -> Origin:
        """That of a command's options, in absolute paths."""
        names = [text.partition("=") for text in options.data]
        left = [str(root) for root in options.root]
        if options.labels:
            roots = (left or [str(options.labels.parent)])[:1]
        else:
            roots = [root if equals else left.pop(0) if left else "" for _, equals, root in names] or left
        return cls(
            os.path.abspath(options.labels) if options.labels else None,
            tuple(name for name, _, _ in names),
            tuple(os.path.abspath(root) if root else "" for root in roots),
            options.max_images,
            options.near_duplicates,
            os.path.abspath(options.split) if options.split else None,
        )


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


def _open_one(options: DataOptions, name: str, root: Path | None) -> Dataset:
    if options.labels is not None:
        dataset = read_labels(options.labels, root)
    else:
        assert root is not None  # parse_data sees to it
        dataset = read_named(name, root)
    if options.split is not None:
        dataset = with_split(dataset, options.split)
    return as_shares(dataset, options.outputs) if options.outputs > 1 else dataset


def _without_missing(dataset: Dataset, skip: bool, echo: Echo) -> Dataset:
    lost = missing(dataset.items)
    if not lost:
        return dataset
    what = f"{len(lost)} of {len(dataset.items)} images are missing, {lost[0].path} first"
    if not skip:
        raise MusiqError(f"{what}. Put them there, give --root, or train without them by --skip-missing.")
    echo(f"{what}; going on without them.")
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
        shift, scale = _train_mean_std(dataset, name) if outputs == 1 else (0.0, 1.0)
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


def _train_mean_std(dataset: Dataset, name: str) -> tuple[float, float]:
    """Mean and standard deviation of the train labels."""
    labels = np.array([item.mos for item in dataset.split("train")])
    if len(labels) == 0 or labels.std() == 0:
        raise MusiqError(f"{name} has no two train images with different labels: nothing to learn from it.")
    return float(labels.mean()), float(labels.std())


def _near_duplicates(items: Sequence[Labelled], folder: Path) -> NDArray[np.int64]:
    """Pairs of indices; thumbnails of a run beside this one are taken over."""
    others = sorted(folder.parent.glob(f"*/{THUMBNAILS}"), key=lambda path: path.stat().st_mtime)
    caches = [folder / THUMBNAILS, *others[-1:]]
    with progress_bar("near duplicates", len(items)) as bar:
        return find_near_duplicates([item.path for item in items], caches, bar.advance)


def _without_leaks(dataset: Dataset, near: NDArray[np.int64], drop: bool, echo: Echo) -> Dataset:
    """Say what leaks, and mark it or, where asked, drop it from train."""
    leaking = leaks(dataset, near)
    if not leaking:
        return dataset
    counts = [sum(dataset.items[index].split == name for index in leaking) for name in ("val", "test")]
    what = f"{counts[0]} val and {counts[1]} test images have a near duplicate in train"
    if drop:
        smaller = drop_leaks(dataset, near)
        echo(f"{what}: dropped {len(dataset.items) - len(smaller.items)} images of train.")
        return smaller
    marked = mark_leaks(dataset, near)
    how = "the labels' own marks of them stay" if marked is dataset else "marked in split.csv"
    echo(f"{what} by the split that the labels give; {how} ({NEAR_DUPLICATE}). --near-duplicates drop leaves them out.")
    return marked
