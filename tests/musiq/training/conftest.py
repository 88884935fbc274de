"""A finished run that several test files look at."""

from __future__ import annotations

import csv
from pathlib import Path

import cv2
import numpy as np
import pytest
from click.testing import CliRunner


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two epochs on noisy images rated on five steps; a third of the test images have copies in train."""
    pytest.importorskip("torch")
    pytest.importorskip("accelerate")
    import train

    root, rng = tmp_path_factory.mktemp("rated"), np.random.default_rng(0)
    rows: list[list[object]] = []
    for i in range(36):
        sigma = rng.uniform(1, 60)
        cv2.imwrite(str(root / f"{i}.png"), np.clip(rng.normal(120, sigma, (64, 64, 3)), 0, 255).astype(np.uint8))
        shares = np.exp(-((np.arange(1, 6) - 5 + sigma / 15) ** 2) / rng.uniform(0.5, 2))
        split = ("test", "val", "train")[i % 3]
        rows.append([f"{i}.png", 0, split, *(shares / shares.sum()), int(i % 9 == 0)])
    header = ["image", "mos", "split", "c1", "c2", "c3", "c4", "c5", "near_duplicate_in_train"]
    with (root / "labels.csv").open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    words = ["--labels", root / "labels.csv", "--out", root / "run", "--preset", "tiny", "--height", 64, "--width", 64]
    words += ["--epochs", 2, "--batch-size", 4, "--outputs", 5, "--workers", 0, "--cpu", "--scales", "native"]
    words += ["--near-duplicates", "keep", "--terms", "for research"]
    result = CliRunner().invoke(train.main, [str(word) for word in words])
    assert result.exit_code == 0, result.output
    assert "without 4 near duplicates of training images: SRCC" in result.output
    assert "images/s" in result.output
    return root / "run"
