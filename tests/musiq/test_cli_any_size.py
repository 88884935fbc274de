"""`musiq-score` with a model of any size: what rows say, what is refused, what is continued, what would be faster."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result

from musiq.cli import main
from musiq.presets import PRESETS
from musiq.scoring.arithmetic import gflop
from tests.musiq.test_cli import score, table
from tests.score_samples import exif, save_mean_model, saved, scene

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """any.onnx for any size, fixed.onnx for 96x64, and images of which one is on its side and one broken."""
    top = tmp_path_factory.mktemp("any")
    save_mean_model(top / "any.onnx", height=None, width=None)
    save_mean_model(top / "fixed.onnx")
    (top / "photos").mkdir()
    (top / "photos" / "a.jpg").write_bytes(saved(scene(1, 200, 300), "jpeg"))
    (top / "photos" / "b.png").write_bytes(saved(scene(2), "png"))
    (top / "photos" / "c.jpg").write_bytes(saved(scene(3, 100, 160), "jpeg", exif=exif(6)))
    (top / "photos" / "d.jpg").write_bytes(b"")
    return top


def run(*arguments: object, cwd: Path, monkeypatch: pytest.MonkeyPatch) -> Result:
    """The command in this process, which takes no time to start."""
    monkeypatch.chdir(cwd)
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.mark.parametrize(
    ("options", "sizes", "fitted"),
    [
        ([], ["300x200", "96x64", "100x160"], ["", "", ""]),
        (["--resize", "longer=120"], ["120x80", "96x64", "75x120"], ["resized 0.4x", "", "resized 0.75x"]),
        (["--resize", "shorter=50"], ["75x50", "75x50", "50x80"], ["resized 0.25x", "resized 0.781x", "resized 0.5x"]),
        (
            ["--resize", "shorter=128,enlarge"],
            ["192x128", "192x128", "128x205"],
            ["resized 0.64x", "resized 2x", "resized 1.28x"],
        ),
    ],
)
def test_rows_say_what_the_model_saw(folder: Path, options: list[str], sizes: list[str], fitted: list[str]) -> None:
    done = score("photos", "--model", "any.onnx", *options, cwd=folder)
    assert done.returncode == 3
    rows = table(done.stdout)
    assert [row["size"] for row in rows] == [*sizes, ""]
    assert [row["fitted"] for row in rows] == [*fitted, ""]
    assert done.stderr.decode().startswith("3 scored, 1 error, ")
    assert done.stderr.count(b"\n") == 1


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl", "parquet", "txt"])
def test_every_format_says_it_but_the_classic_one(
    folder: Path, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / f"scores.{kind}"
    run("photos", "--model", "any.onnx", "--out", out, cwd=folder, monkeypatch=monkeypatch)
    sizes = ["300x200", "96x64", "100x160", ""]
    if kind == "parquet":
        assert pq.read_table(out)["size"].to_pylist() == sizes
    elif kind == "jsonl":
        assert [json.loads(line)["size"] for line in out.read_text().splitlines()] == sizes
    elif kind == "txt":
        assert all(line.count("\t") == 1 for line in out.read_text().splitlines())
    else:
        assert [row["size"] for row in table(out.read_bytes(), "\t" if kind == "tsv" else ",")] == sizes


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--model", "any.onnx", "--resize", "cover"], "cover is for models of one size; any.onnx takes images of any"),
        (
            ["--model", "fixed.onnx", "--resize", "native"],
            "native is for models of any size; fixed.onnx is for images of",
        ),
        (["--model", "fixed.onnx", "--resize", "longer=100"], "musiq-export --size any"),
        (
            ["--model", "any.onnx", "--resize", "512"],
            "There is no resize policy '512'; expected native, cover, longer=N",
        ),
        (["--model", "any.onnx", "--model", "fixed.onnx"], "any.onnx takes images of any size, so there is none left"),
        (["--model", "any.onnx", "--max-tokens", "0"], "Invalid value for '--max-tokens'"),
    ],
)
def test_what_does_not_go_together_is_one_line(
    folder: Path, options: list[str], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = run("photos", *options, cwd=folder, monkeypatch=monkeypatch)
    assert done.exit_code in (1, 2)
    assert words in done.stderr
    assert done.stdout == ""
    if done.exit_code == 1:
        assert done.stderr.count("\n") == 1


def test_an_image_of_too_many_tokens_is_a_row_and_its_remedy_works(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit = PRESETS["tiny"].at(160, 240).tokens
    options = ["photos", "--model", "any.onnx", "--max-tokens", limit]
    done = run(*options, cwd=folder, monkeypatch=monkeypatch)
    rows = table(done.stdout_bytes)
    assert [bool(row["error"]) for row in rows] == [True, False, False, True]
    assert "The model would see 300x200 pixels, which are " in rows[0]["error"]
    remedy = rows[0]["error"].partition("Give ")[2].partition(",")[0]
    assert remedy.startswith("--resize longer=")
    again = table(run(*options, *remedy.split(), cwd=folder, monkeypatch=monkeypatch).stdout_bytes)
    assert [bool(row["error"]) for row in again] == [False, False, False, True]


def test_resuming_goes_on_with_the_same_policy_alone(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "scores.csv"
    sidecar, part = (tmp_path / f"scores.csv.part{ending}" for ending in (".json", ""))
    options = ["--model", "any.onnx", "--out", out]

    def stopped(*more: str) -> None:
        run("photos/a.jpg", *options, *more, cwd=folder, monkeypatch=monkeypatch)
        out.rename(part)
        sidecar.write_text(json.dumps({"--resize": "longer=120" if more else "native", "--max-tokens": "12288"}))

    stopped("--resize", "longer=120")
    done = run("photos", *options, "--resume", cwd=folder, monkeypatch=monkeypatch)
    assert done.exit_code == 1
    assert "it holds rows scored with --resize longer=120, not native" in done.stderr
    same = ["photos", *options, "--resume", "--resize", "longer=120"]
    done = run(*same, "--max-tokens", "9", cwd=folder, monkeypatch=monkeypatch)
    assert "it holds rows scored with --max-tokens 12288, not 9" in done.stderr
    done = run(*same, cwd=folder, monkeypatch=monkeypatch)
    assert done.exit_code == 3
    assert [row["size"] for row in table(out.read_bytes())] == ["120x80", "96x64", "75x120", ""]
    stopped()
    done = run("photos", *options, "--resume", "--resize", "native", cwd=folder, monkeypatch=monkeypatch)
    assert done.exit_code == 3, "what was the default is the same when it is named"
    assert [row["size"] for row in table(out.read_bytes())] == ["300x200", "96x64", "100x160", ""]


def test_a_killed_run_notes_the_policy_in_force(folder: Path, tmp_path: Path) -> None:
    listed = b"photos/a.jpg\n" * 20_000
    command = [sys.executable, "-m", "musiq.cli", "-", "--model", "any.onnx", "--out", str(tmp_path / "scores.csv")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, cwd=folder, stdin=subprocess.PIPE, env=environment)
    assert process.stdin
    process.stdin.write(listed)
    process.stdin.close()
    sidecar = tmp_path / "scores.csv.part.json"
    while not (sidecar.exists() and sidecar.stat().st_size):
        assert process.poll() is None
    process.kill()
    process.wait()
    assert json.loads(sidecar.read_text())["--resize"] == "native"


def test_images_far_larger_than_usual_end_in_a_line_that_says_what_would_be_faster(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(2):
        (tmp_path / f"{number}.jpg").write_bytes(saved(scene(number, 1500, 2000), "jpeg"))
    options = ["--model", folder / "any.onnx"]
    done = run(tmp_path, *options, cwd=folder, monkeypatch=monkeypatch)
    assert done.exit_code == 0
    counted, advice = done.stderr.splitlines()
    spec = PRESETS["tiny"]
    times = gflop(spec.at(1500, 2000)) / gflop(spec.at(768, 1024))
    assert counted.startswith("2 scored, 0 errors, ")
    assert advice == (
        f"These images are large: with --resize longer=1024 the model would be about {times:.0f} times as fast, and give "
        "other scores."
    )
    assert times > 4
    quiet = [[*options, "--resize", "longer=1900"], ["--model", folder / "fixed.onnx"]]
    for others in quiet:
        assert run(tmp_path, *others, cwd=folder, monkeypatch=monkeypatch).stderr.count("\n") == 1
    (tmp_path / "scores.csv").unlink(missing_ok=True)
    out = run(tmp_path, *options, "--out", tmp_path / "scores.csv", cwd=folder, monkeypatch=monkeypatch)
    assert out.stderr.splitlines()[1] == advice


def test_the_arithmetic_of_the_papers_model_is_as_measured() -> None:
    """68.2 MFLOP a token and 21,504 FLOP a pair of them."""
    for height, width in ((288, 512), (768, 1024), (3000, 4000)):
        spec = PRESETS["musiq"].at(height, width)
        assert gflop(spec) == pytest.approx(68.2e-3 * spec.tokens + 21_504e-9 * spec.tokens**2, rel=4e-3)


def test_the_help_shows_the_policies() -> None:
    text = " ".join(CliRunner().invoke(main, ["--help"]).output.split())
    for words in ("--resize POLICY", "longer=N,enlarge", "else native", "--max-tokens", "12288"):
        assert words in text
