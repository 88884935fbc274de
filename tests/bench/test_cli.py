"""The musiq-bench command on real files, in real processes: what it measures, what it says, and what it survives."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import jsonschema
import numpy as np
import pytest
from scipy import stats

from musiq.errors import pip_install
from musiq_bench.report import schema
from tests.bench_place import (
    ANY,
    ONCE,
    QUICK,
    SPEC,
    at_start,
    bench,
    brightness_model,
    mean_pixels,
    report_of,
    without_torch,
)
from tests.recipe import photo

pytest_plugins = ["tests.bench_fixtures"]

SCHEMA_FILE = Path(schema.__file__).with_name("report.schema.json")


def test_artifacts_are_measured_without_torch_and_a_corrupt_one_is_a_row(place: Path, tmp_path: Path) -> None:
    path = without_torch(tmp_path)
    asked = ("--images", "photos", "--labels", "labels.csv", "--batch", 1, "--batch", 5, "--out", tmp_path / "out")
    done = bench(*asked, *QUICK, cwd=place, PYTHONPATH=path)
    assert done.returncode == 0, done.stderr
    found = report_of(tmp_path / "out")
    jsonschema.validate(found, json.loads(SCHEMA_FILE.read_text()))
    by_name = {(each["model"], each["batch"]): each for each in found["rows"]}
    assert set(by_name) == {(name, batch) for name in ("brightness", "brighter", "corrupt") for batch in (1, 5)}

    means = mean_pixels(place)
    listed = {Path(each["image"]).name: each for each in csv.DictReader((place / "labels.csv").open())}
    used = [name for name in means if listed[name]["split"] == "test"]
    labels, scores = [float(listed[name]["mos"]) for name in used], [means[name] for name in used]
    assert len(used) == 10
    for batch in (1, 5):
        row = by_name["brightness", batch]
        assert (row["status"], row["provider"], row["images"]) == ("ok", "CPUExecutionProvider", 10)
        assert row["srcc"] == pytest.approx(stats.spearmanr(scores, labels).statistic, abs=1e-9)
        assert row["plcc"] == pytest.approx(stats.pearsonr(scores, labels).statistic, abs=1e-5)
        assert row["krcc"] == pytest.approx(stats.kendalltau(scores, labels).statistic, abs=1e-9)
        assert row["rmse"] == pytest.approx(np.sqrt(np.mean((np.array(scores) - labels) ** 2)), abs=1e-3)
        assert row["srcc_interval"][0] <= row["srcc"] <= row["srcc_interval"][1]
        assert row["latency_ms"]["n"] == 6
        assert len(row["latency_ms"]["rounds_p50"]) == 2
        assert row["latency_ms"]["min"] <= row["latency_ms"]["p50"] <= row["latency_ms"]["max"]
        assert row["latency_ms"]["p90"] is None
        assert row["images_per_s"] == pytest.approx(1000 * batch / row["latency_ms"]["mean"])
        assert row["end_to_end_ms"]["mean"] > row["latency_ms"]["min"]
        assert 0 < row["load_s"] < 60
        assert row["peak_memory_mib"] > 20
        assert row["file_mb"] == pytest.approx((place / "exports" / "brightness.onnx").stat().st_size / 1e6)
        assert row["srcc_reference"] is row["max_difference"] is None
        assert "no record names its checkpoint" in row["words"]["srcc_reference"]
        assert by_name["corrupt", batch]["status"] == "failed"
        assert by_name["corrupt", batch]["latency_ms"] is None
    assert [Path(each["path"]).name for each in found["images"]["broken"]] == ["08.png"]
    assert found["labels"] == {"source": "labels.csv", "target": found["labels"]["target"], "split": "test", "n": 10}
    assert "split test, n = 10" in done.stdout
    assert "1 that cannot be read left out" in done.stdout
    assert "failed" in done.stdout
    assert max(map(len, done.stdout.split("Written:")[0].splitlines())) <= 100
    assert done.stderr == ""


def test_a_model_for_any_size_is_measured_over_the_mixture_beside_one_for_a_fixed_size(
    place: Path, tmp_path: Path
) -> None:
    (tmp_path / "photos").mkdir()
    rows = ["image,mos"]
    for number in range(8):
        image = photo(40 + 30 * (number % 3), 60 + 20 * number, number)
        cv2.imwrite(str(tmp_path / "photos" / f"{number}.png"), image)
        rows.append(f"photos/{number}.png,{number * number % 7}")
    (tmp_path / "labels.csv").write_text("\n".join(rows))
    brightness_model(tmp_path / "exports" / "any.onnx", spec=ANY)
    brightness_model(tmp_path / "exports" / "one.onnx")
    asked = ("--images", "photos", "--labels", "labels.csv", "--split", "all", "--batch", 1, "--batch", 2)
    done = bench(*asked, *QUICK, "--out", "out", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = report_of(tmp_path / "out")
    jsonschema.validate(found, json.loads(SCHEMA_FILE.read_text()))
    by_name = {(each["model"], each["batch"]): each for each in found["rows"]}
    assert set(by_name) == {(name, batch) for name in ("any", "one") for batch in (1, 2)}
    means = list(mean_pixels(tmp_path).values())
    labels = [number * number % 7 for number in range(8)]
    for batch in (1, 2):
        row = by_name["any", batch]
        assert (row["status"], row["any_size"], row["width"], row["resize"]) == ("ok", True, None, "native")
        assert row["srcc"] == pytest.approx(stats.spearmanr(means, labels).statistic)
        assert sum(each["n"] for each in row["by_size"]) == row["latency_ms"]["n"] == 6
        assert row["images_per_s"] == pytest.approx(1000 * batch / row["latency_ms"]["mean"])
        assert row["batch_difference"] < 1e-4
        assert (by_name["one", batch]["width"], by_name["one", batch]["by_size"]) == (SPEC.width, [])
    assert "8 images at 96x64 and their own sizes." in " ".join(done.stdout.split())
    assert "p50 (p90) in ms by megapixels, of models for any size:" in done.stdout
    again = bench(*asked, *QUICK, "--out", "out", "--resume", cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert report_of(tmp_path / "out")["resumed"] == 8
    assert report_of(tmp_path / "out")["rows"] == found["rows"]


def test_pytorch_and_its_export_stand_side_by_side(torch_place: Path, tmp_path: Path) -> None:
    asked = (
        "--images",
        "photos",
        "--batch",
        2,
        "--threads",
        1,
        "--out",
        tmp_path / "out",
        "--fail-above-difference",
        1e-3,
    )
    done = bench(*asked, *ONCE, cwd=torch_place)
    assert done.returncode == 0, done.stderr
    reference, exported = report_of(tmp_path / "out")["rows"]
    assert (reference["role"], reference["provider"], reference["precision"]) == ("reference", "PyTorch cpu", "fp32")
    assert (exported["role"], exported["provider"], exported["precision"]) == (
        "candidate",
        "CPUExecutionProvider",
        "fp32",
    )
    # The checkpoint was trained for another size; the reference is it at the size of the artifact.
    assert (reference["height"], reference["width"]) == (exported["height"], exported["width"]) == (64, 96)
    assert exported["images"] == 11
    assert exported["max_difference"] < 1e-4
    assert exported["mean_difference"] <= exported["max_difference"]
    assert exported["srcc_reference"] > 0.99
    assert exported["srcc"] is None
    assert "srcc" not in exported["words"]
    assert Path(exported["reference"]).name == "best.safetensors"
    assert reference["words"]["srcc_reference"] == "reference"
    assert "SRCC ref" in done.stdout


def test_without_torch_the_exporters_own_check_is_told(torch_place: Path, tmp_path: Path) -> None:
    path = without_torch(tmp_path)
    asked = ("--images", "photos", "--out", tmp_path / "out", "--fail-above-difference", 1)
    done = bench(*asked, *ONCE, cwd=torch_place, PYTHONPATH=path)
    assert done.returncode == 4
    reference, exported = report_of(tmp_path / "out")["rows"]
    assert (reference["status"], exported["status"]) == ("missing package", "ok")
    assert exported["latency_ms"]["n"] == 6
    assert "PyTorch did not run" in exported["words"]["max_difference"]
    assert exported["notes"] == ["when exported it differed from PyTorch by at most 2.0e-06, SRCC 1.00000 (9 images)"]
    assert "a difference of at most 1 is wanted, and there is none" in done.stderr


def test_labels_without_scipy_are_refused_before_anything_is_measured(place: Path, tmp_path: Path) -> None:
    path = at_start(tmp_path, "import sys; sys.modules['scipy'] = None")
    asked = ("--images", "photos", "--labels", "labels.csv", "--out", tmp_path / "out")
    done = bench(*asked, *QUICK, cwd=place, PYTHONPATH=path)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert f"needs scipy: {pip_install('bench')}." in done.stderr
    assert not (tmp_path / "out").exists()


def test_a_plan_without_torch_says_that_it_lacks_torch(place: Path, tmp_path: Path) -> None:
    (tmp_path / "best.pth").write_bytes(b"not read without torch")
    asked = ("--images", "photos", "--models", "exports/brightness.onnx", "--checkpoint", tmp_path / "best.pth")
    done = bench(*asked, "--plan", cwd=place, PYTHONPATH=without_torch(tmp_path))
    assert done.returncode == 0, done.stderr
    assert f"besides 1 that cannot be read without torch ({pip_install('train')}) and 1 whose size" in done.stdout


def test_images_without_a_label_are_counted(place: Path, tmp_path: Path) -> None:
    asked = ("--images", "photos", "--labels", "labels.csv", "--models", "exports/brightness.onnx", "--out", tmp_path)
    done = bench(*asked, *ONCE, cwd=place)
    assert done.returncode == 0, done.stderr
    words = "(1 of 12 found left out, without a label in the split test)"
    assert words in " ".join(done.stdout.split())
    assert words in report_of(tmp_path)["caption"]
    assert report_of(tmp_path)["images"]["unlabelled"] == 1
    planned = bench(*asked, "--plan", cwd=place)
    assert "1 of 12 images are left out: no label (split: test)." in planned.stdout


def test_names_that_are_no_utf_8_cost_no_report(place: Path, tmp_path: Path) -> None:
    odd = os.fsdecode(b"caf\xe9")
    images, models, out = tmp_path / odd, tmp_path / "models", tmp_path / f"out-{odd}"
    images.mkdir()
    models.mkdir()
    for image in sorted((place / "photos").iterdir())[:3]:
        (images / f"{image.stem}-{odd}.png").write_bytes(image.read_bytes())
    for name, source in (("fine", "brightness"), (odd, "brighter")):
        (models / f"{name}.onnx").write_bytes((place / "exports" / f"{source}.onnx").read_bytes())
    for resume in ((), ("--resume",)):
        done = bench("--images", images, "--models", models, "--out", out, *ONCE, *resume, cwd=place)
        assert done.returncode == 0, done.stderr
        rows = {row["model"]: row for row in report_of(out)["rows"]}
        assert (rows["fine"]["status"], rows["fine"]["images"]) == ("ok", 3)
        assert "is no UTF-8" in rows["caf\\udce9"]["reason"]
        for name in ("report.csv", "report.md", "report.html"):
            assert "caf\\udce9" in (out / name).read_text(encoding="utf-8")


def test_a_score_below_the_limit_exits_with_4_and_names_the_row(place: Path, tmp_path: Path) -> None:
    asked = ("--images", "photos", "--labels", "labels.csv", "--models", "exports/brightness.onnx", "--out", tmp_path)
    done = bench(*asked, *ONCE, "--fail-below-srcc", 0.9999, cwd=place)
    assert done.returncode == 4
    assert "brightness unknown on CPUExecutionProvider, batch 1: SRCC to the labels is" in done.stderr
    assert report_of(tmp_path)["rows"][0]["status"] == "ok"


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (("--images", "nowhere"), "There is no nowhere"),
        (("--images", "photos", "--models", "no.onnx"), "Cannot read no.onnx"),
        (("--images", "photos", "--models", "fifo.onnx"), "Cannot read fifo.onnx: it is a FIFO"),
        (("--images", "photos", "--models", "labels.csv"), "labels.csv is of no known kind"),
        (("--images", "photos", "--labels", "no.csv"), "Cannot read the labels no.csv"),
        (("--images", "photos", "--labels", "labels.csv", "--split", "val"), "no image in the split val"),
        (("--images", "photos", "--models", "exports/corrupt.onnx", *ONCE), "No model could be measured"),
        (
            ("--images", "photos/08.png", "--models", "exports/brightness.onnx", *ONCE),
            "None of 1 images can be read",
        ),
    ],
)
def test_what_cannot_be_done_is_one_line_and_exit_1(
    place: Path, tmp_path: Path, asked: tuple[str, ...], message: str
) -> None:
    if not (place / "fifo.onnx").exists():
        os.mkfifo(place / "fifo.onnx")
    done = bench(*asked, "--out", tmp_path, cwd=place)
    assert done.returncode == 1
    assert message in done.stderr
    assert done.stderr.count("\n") == 1


def test_ctrl_c_while_a_process_starts_ends_the_run_at_once(place: Path, tmp_path: Path) -> None:
    # Beside the thread that watches the time limit: the run must wait for neither that thread nor that process.
    code = (
        "import threading\n"
        "class Interrupted(threading.Timer):\n"
        "    def start(self):\n"
        "        super().start()\n"
        "        raise KeyboardInterrupt\n"
        "threading.Timer = Interrupted\n"
    )
    asked = ["--images", "photos", "--models", "exports/brightness.onnx", *QUICK, "--out", tmp_path / "out"]
    done = bench(*asked, cwd=place, PYTHONPATH=at_start(tmp_path, code))
    assert done.returncode == 130, done.stderr
    assert report_of(tmp_path / "out")["rows"][0]["status"] == "not measured (interrupted)"


@pytest.mark.slow
def test_ctrl_c_keeps_what_is_finished_and_resume_measures_the_rest(place: Path, tmp_path: Path) -> None:
    models = ("--models", "exports/brightness.onnx", "--models", "exports/brighter.onnx")
    asked = ["--images", "photos", *models, "--calls", "6", "--seconds", "3", "--rounds", "1", "--warmup", "0"]
    command = [sys.executable, "-m", "musiq_bench", *asked, "--out", str(tmp_path / "out")]
    variables = {**os.environ, "TMPDIR": str(tmp_path)}
    process = subprocess.Popen(command, cwd=place, env=variables, stderr=subprocess.PIPE, stdout=-3, text=True)
    journal = tmp_path / "out" / "measured.jsonl"
    waited = time.monotonic()
    while not (journal.is_file() and journal.read_text().count("\n") > 1) and time.monotonic() - waited < 100:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=300)
    assert process.returncode == 130
    assert "Interrupted: the rows above are what was finished; the same command with --resume goes on." in said
    found = report_of(tmp_path / "out")
    assert (found["interrupted"], found["resumed"]) == (True, 0)
    done, stopped = found["rows"]
    assert (done["model"], done["status"], done["images"]) == ("brightness", "ok", 11)
    assert (stopped["model"], stopped["status"]) == ("brighter", "not measured (interrupted)")
    assert stopped["latency_ms"] is None
    assert not list(tmp_path.glob("musiq-bench-*"))

    with journal.open("a") as file:
        file.write('{"round": {"cut short')
    resumed = bench(*asked, "--resume", "--plan", "--out", tmp_path / "out", cwd=place)
    assert resumed.returncode == 0, resumed.stderr
    planned = resumed.stdout.splitlines()
    assert "1 of 1 rounds done" in planned[0]
    assert "2 rows, 12 images" in planned[2]
    resumed = bench(*asked, "--resume", "--out", tmp_path / "out", cwd=place)
    assert resumed.returncode == 0, resumed.stderr
    found = report_of(tmp_path / "out")
    assert (found["interrupted"], found["resumed"]) == (False, 1)
    assert [row["status"] for row in found["rows"]] == ["ok", "ok"]
    assert found["rows"][0]["latency_ms"] == done["latency_ms"]
    assert found["images"]["used"] == 11

    other = bench(*asked, "--threads", 1, "--resume", "--out", tmp_path / "out", cwd=place)
    assert other.returncode == 1
    assert "measured with other threads (null then, 1 now)" in other.stderr
    assert other.stderr.count("\n") == 1
