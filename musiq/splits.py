"""Which labelled pictures train, which choose the best epoch, which test: drawn from a seed where the labels do not say."""

from __future__ import annotations

import dataclasses

import numpy as np

from musiq.data import SPLITS, Dataset
from musiq.errors import MusiqError


def settle_split(dataset: Dataset, seed: int) -> tuple[Dataset, str]:
    """Every picture in train, val or test, and a line that says what was drawn, "" where the label file said it all.

    Without any split the dataset's `portions` are drawn; with one that lacks val, a tenth of train. Pictures with the same
    value in a column `scene` or `source` stay together, so that no scene is on both sides.
    """
    unsplit = [item.image for item in dataset.items if not item.split]
    if len(unsplit) == len(dataset.items):
        settled = _draw(dataset, "", dict(zip(SPLITS, dataset.portions, strict=True)), seed)
        return settled, f"The labels have no split: drew {settled.counts()} with seed {seed}."
    if unsplit:
        raise MusiqError(f"{len(unsplit)} pictures have no split, {unsplit[0]} first; fill the column or leave it out.")
    if not dataset.split("val"):
        settled = _draw(dataset, "train", {"train": 0.9, "val": 0.1, "test": 0}, seed)
        return (
            settled,
            f"The labels have no validation split: drew a tenth of train with seed {seed}: {settled.counts()}.",
        )
    return dataset, ""


def _draw(dataset: Dataset, split: str, portions: dict[str, float], seed: int) -> Dataset:
    """Deal the pictures now in `split` out by `portions`, scene by scene."""
    scenes: dict[str, list[str]] = {}
    for item in dataset.split(split):
        scenes.setdefault(item.extra.get("scene") or item.extra.get("source") or item.image, []).append(item.image)
    order = np.random.default_rng(seed).permutation(len(scenes))
    names = list(scenes)
    # At least one scene each for what is scored, however few there are.
    ends = {name: max(1, round(portions[name] * len(names))) if portions[name] else 0 for name in ("val", "test")}
    drawn = {}
    for place, scene in enumerate(order):
        into = "val" if place < ends["val"] else "test" if place < ends["val"] + ends["test"] else "train"
        drawn.update(dict.fromkeys(scenes[names[scene]], into))
    moved = (dataclasses.replace(item, split=drawn.get(item.image, item.split)) for item in dataset.items)
    return dataclasses.replace(dataset, items=tuple(moved))


def sample(dataset: Dataset, most: int, seed: int) -> Dataset:
    """At most `most` pictures, drawn from the seed, each split in its proportion."""
    if most >= len(dataset.items):
        return dataset
    kept: set[str] = set()
    for name in SPLITS:
        names = [item.image for item in dataset.split(name)]
        count = min(len(names), max(1, round(most * len(names) / len(dataset.items))))
        kept.update(names[i] for i in np.random.default_rng(seed).permutation(len(names))[:count])
    return dataclasses.replace(dataset, items=tuple(item for item in dataset.items if item.image in kept))
