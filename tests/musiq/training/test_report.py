"""What a finished run says of itself: figures, with and without near duplicates, ratings, predictions, curve."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from scipy import stats

pytest.importorskip("torch")
pytest.importorskip("accelerate")

from musiq.datasets import Labelled
from musiq.model import checkpoint
from musiq.training import report
from musiq.training.evaluate import Scored


def read_metrics(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "metrics.json").read_text()))


def test_figures_without_near_duplicates_are_those_of_the_other_rows(finished_run: Path) -> None:
    with (finished_run / "predictions.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["near_duplicate_in_train"] == "0"]
    found = read_metrics(finished_run)
    apart = found["without_near_duplicates"]
    assert (found["n"], found["near_duplicates"], apart["n"], len(rows)) == (12, 4, 8, 8)
    expected = stats.spearmanr([float(row["score"]) for row in rows], [float(row["mos"]) for row in rows]).statistic
    assert apart["srcc"] == pytest.approx(expected)


def test_a_distribution_is_reported_with_its_mean_and_spread(finished_run: Path) -> None:
    with (finished_run / "predictions.csv").open() as file:
        rows = list(csv.DictReader(file))
    ratings = np.arange(1, 6)
    for row in rows:
        shares = np.array([float(row[f"share_{rating}"]) for rating in ratings])
        mean = shares @ ratings
        assert shares.sum() == pytest.approx(1, abs=1e-5)
        assert float(row["score"]) == pytest.approx(mean, abs=1e-4)
        assert float(row["score_spread"]) == pytest.approx(np.sqrt(shares @ (ratings - mean) ** 2), abs=1e-4)
    spreads = [[float(row[name]) for row in rows] for name in ("score_spread", "mos_spread")]
    told = read_metrics(finished_run)["distribution"]
    assert told["spread_srcc"] == pytest.approx(stats.spearmanr(*spreads).statistic)
    assert 0 < told["emd"] < 1


def test_an_image_without_a_score_has_an_empty_row(tmp_path: Path) -> None:
    items = [Labelled(name, Path(name), 1.0, "test", shares=(0.5, 0.5)) for name in ("a", "b")]
    scored = Scored([float("nan"), 1.25], [(), (0.75, 0.25)], ["a: no image"])
    report.write_predictions(tmp_path / "predictions.csv", items, scored)
    rows = (tmp_path / "predictions.csv").read_text().split()
    assert rows[1] == "a,1.0,,,,,"
    assert rows[2] == f"b,1.0,1.25,0.5,{np.sqrt(0.1875)},0.75,0.25"


def test_the_curve_is_an_image_with_both_lines(finished_run: Path) -> None:
    image = cv2.imread(str(finished_run / "curve.png"))
    assert image is not None
    for blue_green_red in ((180, 119, 31), (14, 127, 255)):  # matplotlib's first and second colour
        assert (np.abs(image.astype(int) - blue_green_red).max(axis=2) < 8).sum() > 50


def test_what_training_cost_is_told_for_each_epoch(finished_run: Path) -> None:
    cost = read_metrics(finished_run)["training"]
    assert [epoch["images"] for epoch in cost["epochs"]] == [12, 12]
    seconds = sum(epoch["seconds"] for epoch in cost["epochs"])
    assert cost["images_per_second"] == pytest.approx(24 / seconds)
    # Without workers images are decoded while training waits.
    assert 0 < cost["waiting_share"] < 1


def test_a_run_on_the_native_scale_leaves_a_model_of_one_scale(finished_run: Path) -> None:
    spec = checkpoint.load(finished_run / "best.safetensors").spec
    assert [scale.name for scale in spec.scales] == ["native"]
    assert spec.tokens == 5
