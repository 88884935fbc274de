"""Images for training: each once in an epoch over all processes, flipped by epoch and image alone."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip("torch")

from musiq.datasets import Labelled
from musiq.training.dataloader import LabelledImages, batches_of_rank, epoch_order, load_batches


def test_an_epoch_shows_each_image_once_over_all_processes() -> None:
    order = epoch_order(103, seed=0, epoch=0)
    assert sorted(order) == list(range(103))
    assert order != epoch_order(103, seed=0, epoch=1)
    shares = [batches_of_rank(order, 8, rank, 2) for rank in (0, 1)]
    assert {len(batch) for share in shares for batch in share} == {4}
    shown = [index for share in shares for batch in share for index in batch]
    assert sorted(shown) == sorted(order[:96])


def test_flips_depend_on_the_epoch_and_the_image_not_on_workers_or_batches(tmp_path: Path) -> None:
    items = [Labelled(f"{i}.png", tmp_path / f"{i}.png", 0) for i in range(12)]
    rng = np.random.default_rng(0)
    for item in items:
        cv2.imwrite(str(item.path), rng.integers(0, 256, (64, 72, 3)).astype(np.uint8))

    def shown(epoch: int, batches: list[list[int]], workers: int) -> dict[int, bytes]:
        photos = LabelledImages(items, 64, 64, (5, epoch))
        found = load_batches(photos, batches, workers)
        return {
            i: image.numpy().tobytes()
            for images, order, _ in found
            for i, image in zip(order.tolist(), images, strict=True)
        }

    one = shown(0, [list(range(12))], 0)
    assert shown(0, [[11, 3], [0, 7, 2], [1, 4, 5, 6, 8, 9, 10]], 2) == one
    plain = {i: image for i, (_, image) in enumerate(LabelledImages(items, 64, 64)[j] for j in range(12))}
    flipped = [one[i] != plain[i].numpy().tobytes() for i in range(12)]
    assert 0 < sum(flipped) < 12
    assert shown(1, [list(range(12))], 0) != one
