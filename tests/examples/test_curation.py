"""hf_datasets.py and webdataset_scores.py, with the real packages: the scores of a Scorer, a broken image is a row."""

from __future__ import annotations

import csv
import io
import os
import runpy
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

import musiq
from tests.score_samples import save_mean_model, saved, scene

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, a folder of images of which one is broken, and two shards of the same."""
    folder = tmp_path_factory.mktemp("curation")
    save_mean_model(folder / "mean.onnx", height=None, width=None)
    (folder / "photos").mkdir()
    for number in range(9):
        image = saved(scene(number, 40 + number, 56), "jpeg" if number % 2 else "png")
        (folder / "photos" / f"{number}.{'jpg' if number % 2 else 'png'}").write_bytes(image)
    (folder / "photos" / "bad.jpg").write_bytes(b"This is not an image.\n")
    photos = sorted((folder / "photos").iterdir())
    for shard in range(2):
        with tarfile.open(folder / f"{shard}.tar", "w") as tar:
            for path in photos[shard * 5 : shard * 5 + 5]:
                tar.add(path, path.name)
    return folder


def run(folder: Path, name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(EXAMPLES / name), *arguments]
    environment = {**os.environ, "HF_HOME": str(folder / "cache"), "HF_HUB_OFFLINE": "1"}
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300, cwd=folder)


@pytest.mark.parametrize(
    ("package", "name", "source", "key"),
    [
        ("datasets", "hf_datasets.py", "photos", "path"),
        ("webdataset", "webdataset_scores.py", "{0..1}.tar", "key"),
    ],
)
def test_every_image_gets_the_score_that_a_scorer_gives(
    folder: Path, package: str, name: str, source: str, key: str
) -> None:
    pytest.importorskip(package)
    done = run(folder, name, source, "mean.onnx")
    assert done.returncode == 0, done.stderr
    found = {Path(row[key]).stem: row for row in csv.DictReader(io.StringIO(done.stdout))}
    with musiq.load(folder / "mean.onnx") as scorer:
        rows = {Path(row.path).stem: row for row in scorer.score_many(sorted((folder / "photos").iterdir()))}
    assert set(found) == set(rows)
    for stem, row in rows.items():
        assert (found[stem]["size"], found[stem]["error"]) == (row.size, row.error)
        assert (found[stem]["score"] == "") if row.score is None else float(found[stem]["score"]) == row.score


def test_a_shard_that_is_cut_short_costs_the_others_nothing(folder: Path) -> None:
    pytest.importorskip("webdataset")
    whole = (folder / "0.tar").read_bytes()
    (folder / "cut.tar").write_bytes(whole[: whole.index(b"4.png") + 900])
    done = run(folder, "webdataset_scores.py", "{cut,gone,1}.tar", "mean.onnx")
    assert done.returncode == 1
    said = done.stderr.splitlines()
    assert all(line.startswith("Error: ") for line in said), done.stderr
    assert "unexpected end of data" in said[0]
    assert "cut.tar" in said[0]
    assert "No such file or directory: 'gone.tar'" in said[-1]
    found = [row["key"] for row in csv.DictReader(io.StringIO(done.stdout))]
    assert found == [Path(name).stem for name in (*tarred(folder / "0.tar")[:-1], *tarred(folder / "1.tar"))]


def tarred(path: Path) -> list[str]:
    with tarfile.open(path) as tar:
        return tar.getnames()


def test_a_row_without_an_image_is_one_with_its_reason(folder: Path) -> None:
    pytest.importorskip("datasets")
    score = runpy.run_path(str(EXAMPLES / "hf_datasets.py"))["score"]
    found = score(
        {"image": [None, {"bytes": None, "path": str(folder / "photos" / "0.png")}]}, str(folder / "mean.onnx")
    )
    assert found["error"] == ["The file is empty. Copy or download it again.", ""]


@pytest.mark.parametrize(
    ("package", "name", "source", "model"),
    [
        ("datasets", "hf_datasets.py", "nowhere", "mean.onnx"),
        ("datasets", "hf_datasets.py", "photos", "nowhere.onnx"),
        ("datasets", "hf_datasets.py", "nowhere-empty", "mean.onnx"),
        ("webdataset", "webdataset_scores.py", "nowhere.tar", "mean.onnx"),
    ],
)
def test_what_is_not_there_is_one_line(folder: Path, package: str, name: str, source: str, model: str) -> None:
    pytest.importorskip(package)
    (folder / "nowhere-empty").mkdir(exist_ok=True)
    done = run(folder, name, source, model)
    assert done.returncode == 1
    assert [line for line in done.stderr.splitlines() if "nowhere" in line][-1].startswith("Error: ")
    assert "Traceback" not in done.stderr
