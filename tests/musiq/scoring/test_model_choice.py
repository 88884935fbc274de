"""Several models: each image goes to the one of the nearest shape, rows stay in order, and bad mixtures are refused."""

from __future__ import annotations

import csv
import itertools
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

import musiq
from musiq.errors import MusiqError
from musiq.images.fit import fit
from musiq.runtimes.base import Images, Scores
from musiq.scoring import Scorer
from musiq.scoring.model_choice import nearest
from musiq.scoring.prefetch import PATIENCE
from tests.score_samples import HEIGHT, WIDTH, FakeRuntime, exif, mean_spec, save_mean_model, saved, scene

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("models")
    return (
        save_mean_model(folder / "landscape.onnx"),
        save_mean_model(folder / "portrait.onnx", height=WIDTH, width=HEIGHT),
    )


class Shaped(FakeRuntime):
    """A Runtime of its own shape that remembers its batches; the score is the first sample."""

    def __init__(self, height: int = HEIGHT, width: int = WIDTH, **facts: object) -> None:
        super().__init__(mean_spec(height=height, width=width, **facts))

    def run(self, images: Images) -> dict[str, Scores]:
        self.batches.append(len(images))
        return {"score": images[:, 0, 0, 0].astype(np.float32)}


def pair() -> tuple[Shaped, Shaped]:
    return Shaped(), Shaped(WIDTH, HEIGHT)


def flat(value: int, portrait: bool = False) -> NDArray[np.uint8]:
    return np.full((WIDTH, HEIGHT, 3) if portrait else (HEIGHT, WIDTH, 3), value, np.uint8)


def test_the_nearest_shape_is_that_of_the_least_log_ratio() -> None:
    specs = [mean_spec(height=h, width=w) for h, w in ((768, 1024), (1024, 768), (512, 512), (256, 1024))]
    draw = np.random.default_rng(1)
    for height, width in draw.integers(1, 5000, (300, 2)).tolist():
        distances = [abs(math.log(width / height) - math.log(spec.width / spec.height)) for spec in specs]
        assert distances[nearest(specs, height, width)] == pytest.approx(min(distances), abs=1e-12)


@pytest.mark.parametrize("side", [1, 7, 333, 1024])
def test_a_square_between_landscape_and_portrait_goes_to_the_first(side: int) -> None:
    landscape, portrait = mean_spec(height=768, width=1024), mean_spec(height=1024, width=768)
    assert nearest([landscape, portrait], side, side) == 0
    assert nearest([portrait, landscape], side, side) == 0


def test_each_image_is_scored_by_the_model_of_its_shape(models: tuple[Path, Path]) -> None:
    photos = [scene(1, 90, 160), scene(2, 160, 90), scene(3, 80, 80), scene(4, 200, 100), scene(5, 64, 96)]
    with musiq.load(models, device="cpu", batch_size=2) as scorer:
        rows = list(scorer.score_many(photos))
        single = [scorer.score(photo) for photo in photos]
    shapes = [(HEIGHT, WIDTH), (WIDTH, HEIGHT), (HEIGHT, WIDTH), (WIDTH, HEIGHT), (HEIGHT, WIDTH)]
    want = [fit(photo, *shape)[0].mean() for photo, shape in zip(photos, shapes, strict=True)]
    assert [row.score for row in rows] == pytest.approx(want, abs=1e-4)
    assert single == pytest.approx(want, abs=1e-4)
    assert [row.model for row in rows] == [str(models[shape != (HEIGHT, WIDTH)]) for shape in shapes]


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_the_shape_is_that_after_the_exif_rotation(models: tuple[Path, Path], tmp_path: Path, orientation: int) -> None:
    path = tmp_path / "photo.jpg"
    path.write_bytes(saved(scene(1, 100, 150), "jpeg", exif=exif(orientation)))
    with musiq.load(list(models), device="cpu") as scorer:
        (row,) = scorer.score_many([path])
    assert row.model == str(models[orientation in (6, 8)])


def test_rows_stay_in_order_however_shapes_and_failures_mix() -> None:
    draw = np.random.default_rng(2)
    kinds = draw.integers(0, 5, 240).tolist()  # 0-2 landscape, 3 portrait, 4 broken
    sources = [b"" if kind == 4 else flat(number, kind == 3) for number, kind in enumerate(kinds)]
    for batch, workers in itertools.product((1, 3, 8), (1, 4)):
        both = pair()
        rows = list(Scorer(both, batch_size=batch, workers=workers).score_many(sources))
        assert [row.path for row in rows] == [f"#{number}" for number in range(240)]
        assert [row.score for row in rows] == [None if kind == 4 else n for n, kind in enumerate(kinds)]
        assert [row.model for row in rows] == ["" if kind == 4 else f"#{int(kind == 3)}" for kind in kinds]
        assert [sum(each.batches) for each in both] == [sum(kind < 3 for kind in kinds), kinds.count(3)]


def test_mixed_shapes_still_make_full_batches() -> None:
    both = pair()
    list(Scorer(both, batch_size=4).score_many([flat(number, bool(number % 2)) for number in range(48)]))
    assert both[0].batches == both[1].batches == [4] * 6


def test_a_rare_shape_does_not_hold_up_the_rows_after_it() -> None:
    taken = 0

    def endless() -> Iterator[NDArray[np.uint8]]:
        nonlocal taken
        for number in itertools.count():
            taken += 1
            yield flat(7, portrait=number == 0)

    rows = Scorer(pair(), batch_size=2, workers=1).score_many(endless())
    assert next(rows).model == "#1"
    assert taken <= 2 * PATIENCE + 10
    rows.close()  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (
            Shaped(WIDTH, HEIGHT, target="beauty"),
            "#0 and #1 cannot score together: their target is 'unknown' and 'beauty'",
        ),
        (Shaped(WIDTH, HEIGHT, outputs=5), "their outputs is 1 and 5"),
        (Shaped(WIDTH, HEIGHT, score_range=(1.0, 5.0)), r"their score_range is None and \(1.0, 5.0\)"),
        (Shaped(HEIGHT * 2, WIDTH * 2), "the same aspect ratio, so no image would go to the second"),
    ],
)
def test_models_that_do_not_go_together_are_refused(other: Shaped, words: str) -> None:
    with pytest.raises(MusiqError, match=words):
        Scorer([Shaped(), other])
    assert not other.closed  # it is its giver's


def test_no_model_at_all_is_refused() -> None:
    with pytest.raises(MusiqError, match="There is no model"):
        Scorer([])


def test_leaving_the_scorer_closes_all_of_them() -> None:
    both = pair()
    with Scorer(both) as scorer:
        assert (scorer.spec, Fraction(scorer.spec.width, scorer.spec.height)) == (both[0].spec, Fraction(3, 2))
    assert [each.closed for each in both] == [True, True]


def run(*arguments: str | Path, cwd: Path) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "musiq.cli", *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=cwd, capture_output=True, env=environment, timeout=300)


def test_the_command_names_the_model_of_each_row_and_resumes(models: tuple[Path, Path], tmp_path: Path) -> None:
    for name, height, width in (("a", 90, 160), ("b", 160, 90), ("c", 64, 96)):
        (tmp_path / f"{name}.png").write_bytes(saved(scene(1, height, width), "png"))
    (tmp_path / "d.png").write_bytes(b"")
    both = ["--model", models[0], "--model", models[1], "--out", "scores.csv"]
    assert run("a.png", "b.png", "d.png", *both, cwd=tmp_path).returncode == 3
    assert run("a.png", "b.png", "c.png", "d.png", *both, "--resume", cwd=tmp_path).returncode == 3
    with (tmp_path / "scores.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["path"] for row in rows] == ["a.png", "b.png", "d.png", "c.png"]
    assert [row["model"].partition("@")[0] for row in rows] == ["landscape", "portrait", "", "landscape"]
    done = run("a.png", "--model", models[0], "--out", "scores.csv", "--resume", cwd=tmp_path)
    assert (done.returncode, b"scores of the model portrait@" in done.stderr) == (1, True)


def test_the_command_refuses_a_bad_mixture_in_one_line(models: tuple[Path, Path], tmp_path: Path) -> None:
    save_mean_model(tmp_path / "ava.onnx", outputs=10, height=WIDTH, width=HEIGHT)
    done = run("x.png", "--model", models[0], "--model", "ava.onnx", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith(b"Error: ")
    assert b"landscape.onnx and ava.onnx cannot score together: their outputs is 1 and 10" in done.stderr
    assert done.stderr.count(b"\n") == 1
