"""Each example, run as a person would run it, scores as `musiq.load` does."""

from __future__ import annotations

import asyncio
import csv
import importlib
import io
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO

import cv2
import httpx
import pytest
from click.testing import CliRunner

import musiq
from tests.fake_triton import serving
from tests.recipe import photo
from tests.score_samples import save_mean_model, saved

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty images of two sizes and one that is none."""
    folder = tmp_path_factory.mktemp("photos")
    for seed in range(20):
        size = (192, 256) if seed % 2 else (300, 300)
        cv2.imwrite(str(folder / f"{seed:02d}.png"), cv2.cvtColor(photo(*size, seed), cv2.COLOR_RGB2BGR))
    (folder / "broken.jpg").write_bytes(b"no image")
    return folder


@pytest.fixture(scope="module")
def expected(tiny_onnx: Path, photos: Path) -> dict[str, musiq.Row]:
    """Rows by file name, each image scored alone."""
    with musiq.load(tiny_onnx, "cpu", batch_size=1) as scorer:
        return {Path(row.path).name: row for row in scorer.score_many(sorted(photos.iterdir()))}


def run(name: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(EXAMPLES / name), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=300, cwd=ROOT)


def test_every_example_is_named_by_a_test() -> None:
    tests = "\n".join(path.read_text() for path in Path(__file__).parent.glob("test_*.py"))
    examples = sorted(path.name for path in EXAMPLES.iterdir() if path.is_file())
    assert {"score_folder.py", "http_service.py", "triton_client.py"} <= set(examples)
    assert [name for name in examples if Path(name).stem not in tests] == []


def test_score_folder_writes_a_row_for_each_photo(
    tiny_onnx: Path, photos: Path, expected: dict[str, musiq.Row]
) -> None:
    done = run("score_folder.py", tiny_onnx, photos)
    assert done.returncode == 0, done.stderr
    rows = {Path(row["path"]).name: row for row in csv.DictReader(io.StringIO(done.stdout))}
    assert list(rows) == list(expected)
    for name, row in expected.items():
        if row.score is None:
            assert rows[name] == {"path": row.path, "score": "", "size": "", "fitted": "", "error": row.error}
        else:
            assert float(rows[name]["score"]) == pytest.approx(row.score, abs=2e-5)
            assert (rows[name]["size"], rows[name]["fitted"]) == ("256x192", row.fitted)


def test_scripts_say_what_they_need_and_what_is_missing(photos: Path) -> None:
    for name in ("score_folder.py", "triton_client.py"):
        usage = run(name)
        assert usage.returncode == 1
        assert f"python examples/{name}" in usage.stderr
        assert "Traceback" not in usage.stderr
    missing = run("score_folder.py", "nowhere.onnx", photos)
    assert (missing.returncode, missing.stderr.startswith("Error: There is no file nowhere.onnx")) == (1, True)


@pytest.fixture(scope="module")
def service(tiny_onnx: Path) -> Iterator[str]:
    """The address of http_service.py, served by uvicorn."""
    command = [sys.executable, "-m", "uvicorn", "--app-dir", str(EXAMPLES), "http_service:app", "--port", "0"]
    environment = {**os.environ, "MUSIQ_MODEL": str(tiny_onnx)}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stderr is not None
        said = []
        for line in process.stderr:
            said.append(line)
            if found := re.search(r"running on (http://\S+)", line):
                yield found[1]
                break
        else:
            pytest.fail("".join(said))
        process.terminate()
        rest = process.stderr.read()
    assert "Application shutdown complete" in rest
    assert "Traceback" not in rest


def post(service: str, path: Path) -> httpx.Response:
    with path.open("rb") as file:
        return httpx.post(f"{service}/score", files={"image": file}, timeout=300)


def test_http_service_scores_concurrent_requests_like_the_library(
    service: str, photos: Path, expected: dict[str, musiq.Row]
) -> None:
    paths = sorted(photos.glob("*.png"))
    with ThreadPoolExecutor(10) as pool:
        answers = list(pool.map(lambda path: post(service, path), paths))
    for path, answer in zip(paths, answers, strict=True):
        row = expected[path.name]
        assert answer.status_code == 200, answer.text
        assert answer.json() == {"score": pytest.approx(row.score, abs=2e-5), "size": "256x192", "fitted": row.fitted}
    assert any(answer.json()["fitted"] for answer in answers)


def test_http_service_answers_a_broken_image_with_422_and_the_reason(
    service: str, photos: Path, expected: dict[str, musiq.Row]
) -> None:
    answer = post(service, photos / "broken.jpg")
    assert (answer.status_code, answer.json()) == (422, {"detail": expected["broken.jpg"].error})
    nothing = httpx.post(f"{service}/score")
    assert (nothing.status_code, nothing.json()["detail"][0]["loc"]) == (422, ["body", "image"])
    assert post(service, photos / "00.png").status_code == 200


@pytest.fixture(scope="module")
def any_size(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model for images of any size, whose score is the mean of all samples."""
    return save_mean_model(tmp_path_factory.mktemp("any") / "any.onnx", height=None, width=None)


def test_http_service_scores_images_of_any_size_and_refuses_too_large_ones(
    any_size: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    module = importlib.import_module("http_service")
    with musiq.load(any_size, max_tokens=700) as module.app.state.scorer:
        image = photo(300, 200, 1)
        data = saved(image, "png")
        assert module.rate(io.BytesIO(data)) == {
            "score": pytest.approx(image.mean(), abs=1e-3),
            "size": "200x300",
            "fitted": "",
        }
        with pytest.raises(module.HTTPException, match="would see 1024x768 pixels") as told:
            module.rate(io.BytesIO(saved(photo(768, 1024, 1), "png")))
        assert told.value.status_code == 422
    with pytest.raises(module.HTTPException, match="This model was closed") as told:
        module.rate(io.BytesIO(data))
    assert told.value.status_code == 500


def test_scripts_score_images_of_any_size_as_the_library_does(any_size: Path, photos: Path, tmp_path: Path) -> None:
    with musiq.load(any_size) as scorer:
        rows = list(scorer.score_many(sorted(photos.iterdir())))
    assert {row.size for row in rows} == {"256x192", "300x300", ""}
    done = run("score_folder.py", any_size, photos)
    got = [(line["path"], line["size"]) for line in csv.DictReader(io.StringIO(done.stdout))]
    assert got == [(row.path, row.size) for row in rows]
    (tmp_path / "repository" / "any" / "1").mkdir(parents=True)
    shutil.copy(any_size, tmp_path / "repository" / "any" / "1" / "model.onnx")
    (tmp_path / "repository" / "any" / "config.pbtxt").write_text(ANY_SIZE)
    with serving(tmp_path / "repository") as (_, address):
        done = run("triton_client.py", "any", photos, address)
    assert done.returncode == 0, done.stderr
    said = [line.split("\t")[1] for line in done.stdout.splitlines()]
    for text, row in zip(said, rows, strict=True):
        assert text == f"error: {row.error}" if row.score is None else float(text) == pytest.approx(row.score, abs=1e-3)


ANY_SIZE = """
name: "any"
default_model_filename: "model.onnx"
max_batch_size: 8
input [ { name: "image", data_type: TYPE_UINT8, dims: [ -1, -1, 3 ] } ]
output [ { name: "score", data_type: TYPE_FP32, dims: [ 1 ], reshape: { shape: [ ] } } ]
backend: "onnxruntime"
"""


def test_http_service_has_two_images_in_work_however_many_come(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    module = importlib.import_module("http_service")
    inside: list[int] = []
    most: list[int] = []

    def rate(file: BinaryIO) -> dict[str, float | str]:
        inside.append(1)
        most.append(len(inside))
        time.sleep(0.05)
        inside.pop()
        return {"score": len(file.read()), "fitted": ""}

    async def ask() -> list[httpx.Response]:
        transport = httpx.ASGITransport(module.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            asked = (client.post("/score", files={"image": bytes(size)}) for size in range(10))
            return await asyncio.gather(*asked)

    monkeypatch.setattr(module, "rate", rate)
    answers = asyncio.run(ask())
    assert [answer.json()["score"] for answer in answers] == list(range(10))
    assert max(most) == 2


@pytest.fixture(scope="module")
def repository(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from musiq_export.cli import main

    folder = tmp_path_factory.mktemp("repository")
    arguments = ["--checkpoint", tiny_checkpoint, "--format", "triton", "--out", folder, "--name", "tiny"]
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    return folder


def test_triton_client_prints_the_scores_that_the_library_gives(
    repository: Path, photos: Path, expected: dict[str, musiq.Row]
) -> None:
    with serving(repository) as (server, address):
        done = run("triton_client.py", "tiny", photos, address)
        assert done.returncode == 0, done.stderr
        assert server.served == 20
        assert server.most > 1  # so that Triton has something to make batches of
    said = dict(line.split("\t") for line in done.stdout.splitlines())
    assert [Path(path).name for path in said] == list(expected)
    for path, text in said.items():
        row = expected[Path(path).name]
        if row.score is None:
            assert text == f"error: {row.error}"
        else:
            assert float(text) == pytest.approx(row.score, abs=2e-5)


def test_triton_client_ends_with_one_line_where_the_model_or_the_server_is_not_there(
    repository: Path, photos: Path
) -> None:
    with serving(repository) as (_, address):
        unknown = run("triton_client.py", "other", photos, address)
    assert unknown.returncode == 1
    assert "unknown model: 'other'" in unknown.stderr
    nobody = run("triton_client.py", "tiny", photos, address)
    for done in (unknown, nobody):
        assert done.returncode == 1
        assert done.stderr.startswith("Error: ")
        assert "Traceback" not in done.stderr
