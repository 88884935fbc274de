"""The model in the box: what scores, and what is exported and measured, when nobody names a model."""

from __future__ import annotations

import configparser
import csv
import io
import os
from fnmatch import fnmatch
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from scipy.stats import spearmanr

import musiq
from musiq import bundled
from musiq.artifact import read_record
from musiq.cli import main
from musiq.errors import MusiqError
from musiq.files import sha256
from tests.score_samples import save_mean_model, saved, scene

ROOT = Path(__file__).resolve().parents[2]
BOXED = bundled.FOLDER  # which some tests here replace


@pytest.fixture
def box(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A box whose model gives the mean of an image's samples, and sees 64 pixels of the longer side; an empty folder to
    work in, but for a large photograph."""
    folder = tmp_path / "box"
    folder.mkdir()
    save_mean_model(folder / f"{bundled.NAME}.onnx", height=None, width=None, resize="longer=64")
    (folder / f"{bundled.NAME}.safetensors").touch()
    monkeypatch.setattr(bundled, "FOLDER", folder)
    work = tmp_path / "work"
    work.mkdir()
    (work / "large.png").write_bytes(saved(scene(1, 200, 320), "png"))
    monkeypatch.chdir(work)
    return folder


def score(*arguments: str) -> tuple[Result, list[dict[str, str]]]:
    done = CliRunner().invoke(main, arguments, catch_exceptions=False)
    return done, list(csv.DictReader(io.StringIO(done.stdout)))


def test_without_any_model_the_one_in_the_box_scores_and_is_named(box: Path) -> None:
    done, (row,) = score("large.png")
    assert done.exit_code == 0
    assert row["model"].startswith(f"{bundled.NAME}@")
    assert float(row["score"]) == pytest.approx(scene(1, 200, 320).mean(), abs=1)
    assert done.stderr.startswith(f"Model: {bundled.NAME}, which comes with musiq\n1 scored")


def test_large_photographs_are_reduced_as_the_models_spec_says_unless_told_otherwise(box: Path) -> None:
    assert score("large.png")[1][0]["size"] == "64x40"
    assert score("large.png", "--resize", "native")[1][0]["size"] == "320x200"
    with musiq.load() as scorer:
        (row,) = scorer.score_many("large.png")
        assert (scorer.resize, row.size, row.fitted) == ("longer=64", "64x40", "resized 0.2x")


def test_what_was_exported_here_goes_before_the_box(box: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("exports").mkdir()
    for age, name in enumerate(("newest", "older")):
        path = save_mean_model(Path("exports") / f"{name}.onnx")
        os.utime(path, (1e9 - age, 1e9 - age))
    done, (row,) = score("large.png")
    assert row["model"].startswith("newest@")
    assert done.stderr.startswith("Model: exports/newest.onnx, the newest in exports/\n")
    with musiq.Scorer() as scorer:
        assert scorer.models == ["exports/newest.onnx"]
    assert capsys.readouterr().err == "Model: exports/newest.onnx, the newest in exports/\n"


def test_what_is_exported_without_a_name_is_the_newest_run_else_the_box(
    box: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert bundled.default_checkpoint() == box / f"{bundled.NAME}.safetensors"
    for age, name in enumerate(("newest", "older")):
        (Path("runs") / name).mkdir(parents=True)
        path = Path("runs") / name / "best.safetensors"
        path.touch()
        os.utime(path, (1e9 - age, 1e9 - age))
    assert bundled.default_checkpoint() == Path("runs/newest/best.safetensors")
    assert capsys.readouterr().err == (
        f"Checkpoint: {bundled.NAME}, which comes with musiq\n"
        "Checkpoint: runs/newest/best.safetensors, the newest in runs/\n"
    )


def test_a_box_without_its_model_is_one_line_that_says_what_to_do(box: Path) -> None:
    (box / f"{bundled.NAME}.onnx").unlink()
    done, _ = score("large.png")
    assert done.exit_code == 1
    assert done.stderr.startswith("Error: This installation of musiq lacks its model")
    assert done.stderr.count("\n") == 1
    with pytest.raises(MusiqError, match="Install it again"):
        musiq.load()


def test_the_box_is_small_and_its_files_belong_together() -> None:
    artifact, weights = bundled.bundled_artifact(), bundled.bundled_checkpoint()
    assert sum(path.stat().st_size for path in (artifact, weights)) <= 45e6
    record = read_record(artifact)
    assert record is not None
    assert record.checkpoint == {"name": weights.name, "sha256": sha256(weights)}
    assert record.spec.any_size
    assert record.spec.resize
    assert record.spec.score_range is not None


def test_the_file_in_the_box_names_no_source_of_the_machine_that_made_it() -> None:
    written = (BOXED / f"{bundled.NAME}.onnx").read_bytes()
    assert b"stack_trace" not in written
    assert b'File "' not in written


def test_the_model_in_the_box_agrees_with_the_people_who_rated_the_example_photographs() -> None:
    photos = ROOT / "examples" / "photos"
    with (photos / "labels.csv").open(newline="") as file:
        mos = {row["image"]: float(row["mos"]) for row in [*csv.DictReader(file)][::3]}
    with musiq.load(bundled.bundled_artifact()) as scorer:
        rows = list(scorer.score_many(photos / name for name in mos))
    assert len(rows) == 34
    assert not [row.error for row in rows if row.error]
    assert spearmanr([row.score for row in rows], list(mos.values())).statistic > 0.75


def test_the_package_takes_along_all_that_lies_in_the_box() -> None:
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    patterns = [each.strip() for each in setup["options.package_data"]["musiq.bundled"].split(",")]
    files = [path.name for path in BOXED.iterdir() if path.is_file() and path.suffix != ".py"]
    assert {"MODEL_CARD.md", "NOTICE.txt"} <= set(files)
    assert not [name for name in files if not any(fnmatch(name, pattern) for pattern in patterns)]
