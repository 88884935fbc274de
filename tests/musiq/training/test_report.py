"""What a finished run says of itself: figures with intervals, with and without near duplicates, ratings, curve, card."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from click.testing import CliRunner
from scipy import stats

pytest.importorskip("torch")
pytest.importorskip("accelerate")

import train
from musiq.datasets.dataset import Labelled
from musiq.model import checkpoint
from musiq.training import compare_runs, report
from musiq.training.evaluate import Scored

RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two epochs on noisy images rated on five steps; a third of the test images have copies in train."""
    root = tmp_path_factory.mktemp("rated")
    rows: list[list[object]] = []
    for i in range(36):
        sigma = RNG.uniform(1, 60)
        cv2.imwrite(str(root / f"{i}.png"), np.clip(RNG.normal(120, sigma, (64, 64, 3)), 0, 255).astype(np.uint8))
        shares = np.exp(-((np.arange(1, 6) - 5 + sigma / 15) ** 2) / RNG.uniform(0.5, 2))
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


def read_metrics(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "metrics.json").read_text()))


def test_figures_without_near_duplicates_are_those_of_the_other_rows(folder: Path) -> None:
    with (folder / "predictions.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["near_duplicate_in_train"] == "0"]
    found = read_metrics(folder)
    apart = found["without_near_duplicates"]
    assert (found["n"], found["near_duplicates"], apart["n"], len(rows)) == (12, 4, 8, 8)
    expected = stats.spearmanr([float(row["score"]) for row in rows], [float(row["mos"]) for row in rows]).statistic
    assert apart["srcc"] == pytest.approx(expected)


def test_a_distribution_is_reported_with_its_mean_and_spread(folder: Path) -> None:
    with (folder / "predictions.csv").open() as file:
        rows = list(csv.DictReader(file))
    ratings = np.arange(1, 6)
    for row in rows:
        shares = np.array([float(row[f"share_{rating}"]) for rating in ratings])
        mean = shares @ ratings
        assert shares.sum() == pytest.approx(1, abs=1e-5)
        assert float(row["score"]) == pytest.approx(mean, abs=1e-4)
        assert float(row["score_spread"]) == pytest.approx(np.sqrt(shares @ (ratings - mean) ** 2), abs=1e-4)
    spreads = [[float(row[name]) for row in rows] for name in ("score_spread", "mos_spread")]
    told = read_metrics(folder)["distribution"]
    assert told["spread_srcc"] == pytest.approx(stats.spearmanr(*spreads).statistic)
    assert 0 < told["emd"] < 1


def test_an_image_without_a_score_has_an_empty_row(tmp_path: Path) -> None:
    items = [Labelled(name, Path(name), 1.0, "test", shares=(0.5, 0.5)) for name in ("a", "b")]
    scored = Scored([float("nan"), 1.25], [(), (0.75, 0.25)], ["a: no image"])
    report.write_predictions(tmp_path / "predictions.csv", items, scored)
    rows = (tmp_path / "predictions.csv").read_text().split()
    assert rows[1] == "a,1.0,,,,,"
    assert rows[2] == f"b,1.0,1.25,0.5,{np.sqrt(0.1875)},0.75,0.25"


def test_the_curve_is_an_image_with_both_lines(folder: Path) -> None:
    image = cv2.imread(str(folder / "curve.png"))
    assert image is not None
    for blue_green_red in ((180, 119, 31), (14, 127, 255)):  # matplotlib's first and second colour
        assert (np.abs(image.astype(int) - blue_green_red).max(axis=2) < 8).sum() > 50


def test_the_card_tells_data_terms_figures_and_limits(folder: Path) -> None:
    card, found = (folder / "MODEL_CARD.md").read_text(), read_metrics(folder)
    assert found["target"] in card
    assert "| terms of the data | for research |" in card
    assert "12 train, 12 val, 12 test" in card
    low, high = found["srcc_interval"]
    assert f"| all test images | 12 | {found['srcc']:.4f} ({low:.3f} to {high:.3f}) |" in card
    assert "| without near duplicates | 8 |" in card
    assert "## Limits" in card


def test_what_training_cost_is_told_for_each_epoch(folder: Path) -> None:
    cost = read_metrics(folder)["training"]
    assert [epoch["images"] for epoch in cost["epochs"]] == [12, 12]
    seconds = sum(epoch["seconds"] for epoch in cost["epochs"])
    assert cost["images_per_second"] == pytest.approx(24 / seconds)
    # Without workers images are decoded while training waits.
    assert 0 < cost["waiting_share"] < 1


def test_a_run_on_the_native_scale_leaves_a_model_of_one_scale(folder: Path) -> None:
    spec = checkpoint.load(folder / "best.safetensors").spec
    assert [scale.name for scale in spec.scales] == ["native"]
    assert spec.tokens == 5


def test_finished_runs_make_one_table(folder: Path, tmp_path: Path) -> None:
    text = CliRunner().invoke(compare_runs.main, [str(folder)]).output
    assert f"| run | preset tiny, seed 0 | 12 | {read_metrics(folder)['srcc']:.4f}" in text
    result = CliRunner().invoke(compare_runs.main, [str(folder), str(tmp_path)])
    assert result.exit_code == 1
    assert "holds no finished run" in result.output


def test_two_runs_differ_by_the_difference_of_their_srcc(folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(folder, other)
    lines = (folder / "predictions.csv").read_text().splitlines()
    rows = [line.split(",") for line in lines[1:]]
    # The best possible order; the run's own SRCC is what is missing to 1.
    (other / "predictions.csv").write_text(
        "\n".join([lines[0], *(",".join([row[0], row[1], row[1], *row[3:]]) for row in reversed(rows))])
    )
    srcc = stats.spearmanr([float(row[1]) for row in rows], [float(row[2]) for row in rows]).statistic
    text = CliRunner().invoke(compare_runs.main, [str(folder), str(other), "--against", str(folder)]).output
    assert "| SRCC minus that of run |" in text
    assert f"{1 - srcc:+.4f} (" in next(line for line in text.splitlines() if line.startswith("| other |"))
    assert next(line for line in text.splitlines() if line.startswith("| run | preset")).endswith("|  |")


def test_runs_on_other_images_are_not_compared(folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(folder, other)
    lines = (folder / "predictions.csv").read_text().splitlines()
    (other / "predictions.csv").write_text("\n".join(lines[:-1]))
    result = CliRunner().invoke(compare_runs.main, [str(folder), str(other), "--against", str(folder)])
    assert result.exit_code == 1
    assert "not tested on the same images" in result.output
