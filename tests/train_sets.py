"""Small sets of labelled images, for tests of training that move, damage or lose them."""

from __future__ import annotations

import csv
from pathlib import Path

import cv2
import numpy as np

SMALL = ("--preset", "tiny", "--height", "64", "--width", "64", "--workers", "0", "--cpu", "--scales", "native")


def noisy_set(folder: Path, per_split: int = 12) -> Path:
    """As many noisy images for each split, in a folder of its name, the less noise the better: the path of their labels."""
    rng, rows = np.random.default_rng(0), []
    for split in ("train", "val", "test"):
        (folder / split).mkdir(parents=True)
        for i in range(per_split):
            sigma = rng.uniform(1, 60)
            image = np.clip(rng.normal(120, sigma, (64, 64, 3)), 0, 255).astype(np.uint8)
            cv2.imwrite(str(folder / split / f"{i}.png"), image)
            rows.append([f"{split}/{i}.png", 5 - sigma / 15, split])
    with (folder / "labels.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["image", "mos", "split"], *rows])
    return folder / "labels.csv"
