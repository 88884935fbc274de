"""musiq-bench on real files, real processes: what it measures, what it says, and what it survives."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from scipy import stats

from musiq.artifact import Check, Record, sha256, write_record
from musiq.errors import MusiqError
from musiq.spec import preset
from musiq_bench import child
from musiq_bench.candidates import find_models
from musiq_bench.cli import plan
from musiq_bench.measure import Settings, rows, run_rounds
from musiq_bench.pictures import Labels, Pictures, choose
from musiq_bench.process import Job

SPEC = preset("tiny", 64, 96)
QUICK = ("--calls", "6", "--seconds", "0", "--rounds", "2", "--warmup", "0")


def bench(*arguments: object, cwd: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "musiq_bench", *map(str, arguments)]
    environment = {**os.environ, **variables}
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300)


def at_start(folder: Path, code: str) -> str:
    """A PYTHONPATH under which every Python process runs `code` first."""
    (folder / "sitecustomize.py").write_text(code)
    return os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])


def without_torch(folder: Path) -> str:
    """A PYTHONPATH under which torch cannot be imported, as where it is not installed."""
    return at_start(
        folder,
        "import sys\n"
        "class Missing:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] in ('torch', 'torchvision'):\n"
        "            raise ModuleNotFoundError(f'No module named {name!r}', name=name)\n"
        "sys.meta_path.insert(0, Missing())\n",
    )


def brightness_model(path: Path, shift: float = 0.0) -> Path:
    """An artefact whose scores numpy can tell: the mean of all samples, plus `shift`; NaN for a shift of NaN."""
    image = helper.make_tensor_value_info("image", TensorProto.UINT8, ["n", SPEC.height, SPEC.width, 3])
    score = helper.make_tensor_value_info("score", TensorProto.FLOAT, ["n"])
    nodes = [
        helper.make_node("Cast", ["image"], ["x"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["x", "axes"], ["mean"], keepdims=0),
        helper.make_node("Add", ["mean", "shift"], ["score"]),
    ]
    constants = [
        helper.make_tensor("axes", TensorProto.INT64, [3], [1, 2, 3]),
        helper.make_tensor("shift", TensorProto.FLOAT, [1], [shift]),
    ]
    graph = helper.make_graph(nodes, "brightness", [image], [score], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    helper.set_model_props(model, {"musiq.spec": SPEC.to_json()})
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, str(path))
    return path


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with pictures of growing brightness, one of them broken, their labels, and three artefacts."""
    folder = tmp_path_factory.mktemp("bench")
    rng = np.random.default_rng(0)
    listed = []
    (folder / "photos").mkdir()
    for index in range(12):
        picture = rng.integers(0, 40 + 16 * index, (SPEC.height, SPEC.width, 3), np.uint8)
        cv2.imwrite(str(folder / "photos" / f"{index:02}.png"), picture)
        listed.append((f"photos/{index:02}.png", index + 3 * (index % 2), "train" if index == 3 else "test"))
    (folder / "photos" / "08.png").write_bytes((folder / "photos" / "08.png").read_bytes()[:500])
    with (folder / "labels.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("image", "mos", "split"), *listed])
    brightness_model(folder / "exports" / "brightness.onnx")
    brightness_model(folder / "exports" / "brighter.onnx", shift=0.5)
    (folder / "exports" / "corrupt.onnx").write_bytes(b"no graph at all")
    return folder


@pytest.fixture(scope="module")
def torch_place(place: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same pictures, a checkpoint, and an artefact that PyTorch's exporter made of it at another picture size."""
    import torch

    from musiq import checkpoint
    from musiq.model import Musiq

    class Scored(torch.nn.Module):
        def __init__(self, model: Musiq) -> None:
            super().__init__()
            self.model = model

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return self.model.predict(image)[0]

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("torch")
    shutil.copytree(place / "photos", folder / "photos")
    shutil.copy(place / "labels.csv", folder)
    weights = folder / "runs" / "first" / "best.safetensors"
    checkpoint.save(Musiq(preset("tiny", 128, 128)), weights)
    model = checkpoint.load(weights, SPEC.height, SPEC.width)
    (folder / "exports").mkdir()
    path = folder / "exports" / "model.onnx"
    scored = Scored(model).eval()
    example = torch.zeros(2, SPEC.height, SPEC.width, 3, dtype=torch.uint8)
    dynamic = ({0: torch.export.Dim("n")},)
    names: dict[str, Any] = {"input_names": ["image"], "output_names": ["score"]}
    graph = torch.onnx.export(
        scored, (example,), dynamo=True, dynamic_shapes=dynamic, verbose=False, **names
    ).model_proto
    helper.set_model_props(graph, {"musiq.spec": model.spec.to_json()})
    onnx.save(graph, str(path))
    named = {"name": weights.name, "sha256": sha256(weights)}
    check = Check(9, 2e-6, 1e-6, 1.0, True, "CPUExecutionProvider")
    write_record(path, Record(model.spec, "onnx", "fp32", sha256(path), named, check=check))
    return folder


def report_of(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "report.json").read_text())
    return found


def mean_pixels(place: Path) -> dict[str, float]:
    files = sorted((place / "photos").glob("*.png"))
    pictures = {file.name: cv2.imread(str(file)) for file in files if file.name != "08.png"}
    return {name: float(picture.mean()) for name, picture in pictures.items() if picture is not None}


def test_artefacts_are_measured_without_torch_and_a_corrupt_one_is_a_row(place: Path, tmp_path: Path) -> None:
    path = without_torch(tmp_path)
    asked = ("--images", "photos", "--labels", "labels.csv", "--batch", 1, "--batch", 5, "--out", tmp_path / "out")
    done = bench(*asked, *QUICK, cwd=place, PYTHONPATH=path)
    assert done.returncode == 0, done.stderr
    found = report_of(tmp_path / "out")
    by_name = {(each["model"], each["batch"]): each for each in found["rows"]}
    assert set(by_name) == {(name, batch) for name in ("brightness", "brighter", "corrupt") for batch in (1, 5)}

    means = mean_pixels(place)
    listed = {Path(each["image"]).name: each for each in csv.DictReader((place / "labels.csv").open())}
    used = [name for name in means if listed[name]["split"] == "test"]
    labels, scores = [float(listed[name]["mos"]) for name in used], [means[name] for name in used]
    assert len(used) == 10
    for batch in (1, 5):
        row = by_name["brightness", batch]
        assert (row["status"], row["provider"], row["pictures"]) == ("ok", "CPUExecutionProvider", 10)
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
    assert [Path(each["path"]).name for each in found["pictures"]["broken"]] == ["08.png"]
    assert found["labels"] == {"source": "labels.csv", "target": found["labels"]["target"], "split": "test", "n": 10}
    assert "split test, n = 10" in done.stdout
    assert "1 that cannot be read left out" in done.stdout
    assert "failed" in done.stdout
    assert max(map(len, done.stdout.split("Written:")[0].splitlines())) <= 100
    assert done.stderr == ""


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
    done = bench(*asked, *QUICK, cwd=torch_place)
    assert done.returncode == 0, done.stderr
    reference, exported = report_of(tmp_path / "out")["rows"]
    assert (reference["role"], reference["provider"], reference["precision"]) == ("reference", "PyTorch cpu", "fp32")
    assert (exported["role"], exported["provider"], exported["precision"]) == (
        "candidate",
        "CPUExecutionProvider",
        "fp32",
    )
    # The checkpoint was trained for another size; the reference is it at the size of the artefact.
    assert (reference["height"], reference["width"]) == (exported["height"], exported["width"]) == (64, 96)
    assert exported["pictures"] == 11
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
    done = bench(*asked, *QUICK, cwd=torch_place, PYTHONPATH=path)
    assert done.returncode == 4
    reference, exported = report_of(tmp_path / "out")["rows"]
    assert (reference["status"], exported["status"]) == ("missing package", "ok")
    assert exported["latency_ms"]["n"] == 6
    assert "PyTorch did not run" in exported["words"]["max_difference"]
    assert exported["notes"] == ["when exported it differed from PyTorch by at most 2.0e-06, SRCC 1.00000 (9 pictures)"]
    assert "a difference of at most 1 is wanted, and there is none" in done.stderr


def test_a_score_below_the_limit_exits_with_4_and_names_the_row(place: Path, tmp_path: Path) -> None:
    asked = ("--images", "photos", "--labels", "labels.csv", "--models", "exports/brightness.onnx", "--out", tmp_path)
    done = bench(*asked, *QUICK, "--fail-below-srcc", 0.9999, cwd=place)
    assert done.returncode == 4
    assert "brightness unknown on CPUExecutionProvider, batch 1: SRCC to the labels is" in done.stderr
    assert report_of(tmp_path)["rows"][0]["status"] == "ok"


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (("--images", "nowhere"), "There is no nowhere"),
        (("--images", "photos", "--models", "no.onnx"), "Cannot read no.onnx"),
        (("--images", "photos", "--models", "labels.csv"), "labels.csv is of no known kind"),
        (("--images", "photos", "--labels", "no.csv"), "Cannot read the labels no.csv"),
        (("--images", "photos", "--labels", "labels.csv", "--split", "val"), "no picture in the split val"),
        (("--images", "photos", "--models", "exports/corrupt.onnx", *QUICK), "No model could be measured"),
        (
            ("--images", "photos/08.png", "--models", "exports/brightness.onnx", *QUICK),
            "None of 1 pictures can be read",
        ),
    ],
)
def test_what_cannot_be_done_is_one_line_and_exit_1(
    place: Path, tmp_path: Path, asked: tuple[str, ...], message: str
) -> None:
    done = bench(*asked, "--out", tmp_path, cwd=place)
    assert done.returncode == 1
    assert message in done.stderr
    assert done.stderr.count("\n") == 1


def test_ctrl_c_keeps_what_is_finished_and_leaves_no_process(place: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "musiq_bench", "--images", "photos", "--models", "exports/brightness.onnx"]
    endless = ["--calls", "1000000000", "--rounds", "1", "--out", str(tmp_path / "out")]
    variables = {**os.environ, "TMPDIR": str(tmp_path)}
    process = subprocess.Popen([*command, *endless], cwd=place, env=variables, stderr=subprocess.PIPE, text=True)
    waited = time.monotonic()
    while not list(tmp_path.glob("musiq-bench-*/*.u8")) and time.monotonic() - waited < 60:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Interrupted" in said
    found = report_of(tmp_path / "out")
    assert found["interrupted"] is True
    assert [each["status"] for each in found["rows"]] == ["interrupted"]
    assert not list(tmp_path.glob("musiq-bench-*"))


@pytest.fixture
def photos(place: Path, tmp_path: Path) -> Pictures:
    return choose([place / "photos"], None, 0, tmp_path)


def measured(place: Path, photos: Pictures, settings: Settings, *names: str, progress: Any = None) -> list[Any]:
    cells = plan(find_models([place / "exports" / name for name in names]), None, settings)
    run_rounds(cells, photos, settings, progress or (lambda text: None))
    return rows(cells, photos, None, settings)


FEW = Settings(calls=4, seconds=0, rounds=2, warmup_calls=1, warmup_seconds=0)


def test_a_row_that_was_finished_before_ctrl_c_is_kept(place: Path, photos: Pictures) -> None:
    def interrupt(text: str) -> None:
        if text.startswith("brightness.onnx batch 1, round 1"):
            raise KeyboardInterrupt

    first, second = measured(place, photos, FEW, "brighter.onnx", "brightness.onnx", progress=interrupt)
    assert (first.status, first.latency_ms.n, first.notes) == ("ok", 2, ["1 of 2 rounds"])
    assert (second.status, second.latency_ms) == ("interrupted", None)


@pytest.mark.parametrize(
    ("number", "status", "reason"),
    [(signal.SIGSEGV, "crashed", "died with SIGSEGV"), (signal.SIGKILL, "out of memory", "SIGKILL")],
)
def test_a_process_that_dies_is_a_row_with_how(
    place: Path,
    photos: Pictures,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    number: int,
    status: str,
    reason: str,
) -> None:
    dying = f"import os, sys\nprint('last words', file=sys.stderr, flush=True)\nos.kill(os.getpid(), {int(number)})\n"
    monkeypatch.setenv("PYTHONPATH", at_start(tmp_path, dying))
    (row,) = measured(place, photos, FEW, "brightness.onnx")
    assert row.status == status
    assert reason in row.reason
    assert "last words" in row.reason


def test_a_process_that_hangs_is_stopped(place: Path, photos: Pictures) -> None:
    endless = Settings(calls=10**9, rounds=1, warmup_calls=0, warmup_seconds=0, timeout_s=4)
    started = time.monotonic()
    (row,) = measured(place, photos, endless, "brightness.onnx")
    assert row.status == "timed out"
    assert "--timeout" in row.reason
    assert time.monotonic() - started < 60


def test_the_first_p50_is_of_the_size_that_a_plain_loop_finds(place: Path, photos: Pictures) -> None:
    import onnxruntime

    session = onnxruntime.InferenceSession(
        str(place / "exports" / "brightness.onnx"), providers=["CPUExecutionProvider"]
    )
    batch = np.random.default_rng(0).integers(0, 256, (64, SPEC.height, SPEC.width, 3), np.uint8)
    plain = []
    for _ in range(30):
        start = time.perf_counter()
        session.run(None, {"image": batch})
        plain.append(1e3 * (time.perf_counter() - start))
    settings = Settings(calls=30, seconds=0, rounds=1, batches=(64,))
    (row,) = measured(place, photos, settings, "brightness.onnx")
    # Loose, since other work may run beside either: wrong units or a clock around nothing are far beyond it.
    assert 0.05 < row.latency_ms.p50 / np.median(plain) < 20


class Slow:
    """A runtime that takes 20 ms and scores a picture by its first sample."""

    def __init__(self, provider: str = "CPUExecutionProvider") -> None:
        self.spec, self.provider, self.batches = SPEC, provider, list[int]()

    def __call__(self, images: Any) -> Any:
        time.sleep(0.02)
        self.batches.append(len(images))
        return images[:, 0, 0, 0].astype(np.float32)

    def close(self) -> None:
        pass


@pytest.fixture
def told(photos: Pictures, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The pictures that a child, run in this process, is told to use."""
    raw = str(photos.decoded(SPEC.height, SPEC.width))
    lines = iter([json.dumps({"raw": raw, "files": [str(file) for file in photos.files]}), ""])

    class Stdin:
        def readline(self) -> str:
            return next(lines)

    monkeypatch.setattr(child.sys, "stdin", Stdin())
    monkeypatch.setattr(child, "_die_with_parent", lambda: None)
    return photos.files


def heard(job: Job, runtime: Slow, monkeypatch: pytest.MonkeyPatch) -> dict[str, dict[str, Any]]:
    monkeypatch.setattr(child, "open_model", lambda job: (runtime, 0.1))
    said: dict[str, dict[str, Any]] = {}
    child.measure(job, lambda event, **content: said.update({event: content}))
    return said


def test_every_call_has_the_whole_batch_and_every_picture_its_score(
    place: Path, told: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime = Slow()
    job = Job("x.onnx", "auto", 4, calls=3, seconds=0, warmup_calls=5, warmup_seconds=0, end_to_end_calls=2)
    found = heard(job, runtime, monkeypatch)["finished"]
    assert set(runtime.batches) == {4}
    # One cold, three that score eleven pictures, two more to warm up, three and two timed.
    assert len(runtime.batches) == 1 + 3 + 2 + 3 + 2
    expected = [cv2.imread(str(file))[0, 0, 2] for file in told]
    assert found["scores"] == [float(value) for value in expected]
    assert len(found["latencies_ms"]) == 3
    assert min(found["latencies_ms"]) >= 20
    assert found["cold_start_ms"] >= 20


def test_a_quiet_fall_back_to_the_cpu_is_not_measured(told: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    runtime = Slow()
    job = Job("x.onnx", "cuda:0", 1, calls=3, seconds=0, warmup_calls=0, warmup_seconds=0, end_to_end_calls=2)
    said = heard(job, runtime, monkeypatch)
    assert said["failed"]["status"] == "fallback"
    assert said["failed"]["reason"] == "asked for cuda:0, but CPUExecutionProvider is what runs"
    assert not runtime.batches


def test_pictures_are_thinned_evenly_and_kept_for_each_size(place: Path, tmp_path: Path) -> None:
    labels = Labels.read(place / "labels.csv", "all")
    few = choose([place / "photos"], labels, 4, tmp_path)
    assert [file.name for file in few.files] == ["00.png", "03.png", "06.png", "09.png"]
    assert few.found == 12
    raw = np.fromfile(few.decoded(SPEC.height, SPEC.width), np.uint8).reshape(4, SPEC.height, SPEC.width, 3)
    assert (raw[1] == cv2.imread(str(few.files[1]))[:, :, ::-1]).all()
    assert few.decoded(SPEC.height, SPEC.width).stat().st_size == raw.size
    assert few.fitted == 0
    assert few.decoded(32, 32).stat().st_size == 4 * 32 * 32 * 3
    assert few.fitted == 4


def test_labels_for_other_pictures_are_an_error(place: Path, tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text("image,mos\nsomewhere.png,3\n")
    with pytest.raises(MusiqError, match=r"None of the 12 pictures in .* has a label"):
        choose([place / "photos"], Labels.read(tmp_path / "labels.csv", None), 0, tmp_path)
