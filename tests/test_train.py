"""train.py on real files: what it writes, that a killed run ends in the same bits, and how it refuses."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from click.testing import CliRunner, Result

torch = pytest.importorskip("torch")
pytest.importorskip("accelerate")

import train  # noqa: E402, after the check for what it needs
from musiq.metrics import srcc  # noqa: E402
from musiq.model import checkpoint  # noqa: E402
from musiq.training import run_folder  # noqa: E402
from musiq.training.dataloader import LabelledImages  # noqa: E402
from musiq.training.objective import Objective  # noqa: E402
from tests.forked_train import ForkedTrain, forked_train  # noqa: E402

ROOT = Path(train.__file__).parent
# All that has a state or chance of its own.
RECIPE = ("--epochs", 3, "--batch-size", 4, "--ema", 0.9, "--drop-path", 0.2, "--accumulate", 2, "--layer-decay", 0.9)
SMALL = ["--preset", "tiny", "--height", "64", "--width", "64", "--workers", "0", "--cpu"]


def run_train(*options: object) -> Result:
    return CliRunner().invoke(train.main, [*SMALL, *map(str, options)])


@pytest.fixture(scope="module")
def forked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ForkedTrain]:
    with forked_train(tmp_path_factory.mktemp("forked")) as started:
        yield started


@pytest.fixture(scope="module")
def labels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """48 noisy gradients, the less noise the better; the label also as shares of five ratings."""
    folder, rng = tmp_path_factory.mktemp("set"), np.random.default_rng(0)
    rows = []
    for i in range(48):
        sigma = rng.uniform(1, 60)
        ramp = np.linspace(60, 190, 72)[None, :, None] + np.linspace(-30, 30, 64)[:, None, None]
        image = np.clip(ramp + rng.normal(0, sigma, (64, 72, 3)), 0, 255).astype(np.uint8)
        cv2.imwrite(str(folder / f"{i}.png"), image)
        mos = 5 - sigma / 15
        shares = np.exp(-((np.arange(1, 6) - mos) ** 2))
        split = "test" if i % 4 == 0 else "val" if i % 4 == 1 else "train"
        rows.append([f"{i}.png", mos, split, *(shares / shares.sum()), "phone"])
    with (folder / "labels.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["image", "mos", "split", "c1", "c2", "c3", "c4", "c5", "by"], *rows])
    return folder / "labels.csv"


@pytest.fixture(scope="module")
def finished(labels: Path, forked: ForkedTrain, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing interrupted."""
    out = tmp_path_factory.mktemp("runs") / "whole"
    ended = forked.run(*SMALL, "--labels", labels, "--out", out, *RECIPE)
    assert ended.code == 0, ended.output
    assert "n=12 images of the test split" in ended.output
    return out


def same_results(first: Path, second: Path) -> None:
    for name in ("predictions.csv", "split.csv", "MODEL_CARD.md"):
        assert (first / name).read_bytes() == (second / name).read_bytes(), name
    one, other = (json.loads((folder / "metrics.json").read_text()) for folder in (first, second))
    for metrics in (one, other):
        assert metrics["training"].pop("images_per_second") > 0
        assert 0 <= metrics["training"].pop("waiting_share") < 1
        for epoch in metrics["training"]["epochs"]:
            del epoch["seconds"], epoch["waiting_seconds"]
    assert one == other
    for name in ("best.safetensors", "last.safetensors"):
        one, other = (checkpoint.load(folder / name) for folder in (first, second))
        assert one.spec == other.spec
        assert checkpoint.notes(first / name) == checkpoint.notes(second / name)
        for tensor, value in one.state_dict().items():
            assert torch.equal(value, other.state_dict()[tensor]), tensor


def test_a_run_that_is_asked_to_stop_and_resumed_has_the_bits_of_one_that_was_not(
    labels: Path, finished: Path, forked: ForkedTrain, tmp_path: Path
) -> None:
    out = tmp_path / "stopped"
    ended = forked.run(*SMALL, "--labels", labels, "--out", out, *RECIPE, signalled=(signal.SIGTERM, 1))
    assert ended.code == 130, ended.output
    assert f"--resume --out {out}" in ended.output
    state, _ = run_folder.load_state(out)
    assert (state.epoch, state.step) == (1, 3)  # the step at hand was finished
    ended = forked.run(*SMALL, "--resume", "--out", out, "--workers", 2)
    assert ended.code == 0, ended.output
    same_results(finished, out)


@pytest.mark.slow
def test_a_cluster_that_signals_every_process_of_a_run_stops_it_as_cleanly(
    labels: Path, forked: ForkedTrain, tmp_path: Path
) -> None:
    out = tmp_path / "stopped"
    options = (*SMALL, "--labels", labels, "--out", out, "--workers", 2, *RECIPE)
    ended = forked.run(*options, signalled=(-signal.SIGTERM, 1))
    assert ended.code == 130, ended.output
    assert "Traceback" not in ended.output
    assert f"Go on with: python train.py --resume --out {out}" in ended.output
    state, _ = run_folder.load_state(out)
    assert (state.epoch, state.step) == (1, 3)


def test_three_kills_in_a_row_end_in_the_bits_of_a_run_that_nobody_killed(
    labels: Path, finished: Path, forked: ForkedTrain, tmp_path: Path
) -> None:
    out = tmp_path / "killed"
    options = (*SMALL, "--labels", labels, "--out", out, *RECIPE, "--resume", "auto", "--save-every", 0)
    for epoch in range(3):
        assert forked.run(*options, signalled=(signal.SIGKILL, epoch)).code == -signal.SIGKILL
    ended = forked.run(*options)
    assert ended.code == 0, ended.output
    same_results(finished, out)


def test_a_run_leaves_a_checkpoint_that_scores_in_the_labels_units(finished: Path, labels: Path) -> None:
    model = checkpoint.load(finished / "best.safetensors")
    assert (model.spec.height, model.spec.width, model.spec.target) == (
        64,
        64,
        f"mos of {labels.parent.name}/labels.csv",
    )
    with (finished / "predictions.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["image"] for row in rows] == [f"{i}.png" for i in range(0, 48, 4)]
    assert {row["by"] for row in rows} == {"phone"}
    first = labels.parent / rows[0]["image"]
    image = cv2.cvtColor(cv2.imread(str(first)), cv2.COLOR_BGR2RGB)[:, 4:68]
    with torch.inference_mode():
        score = model.predict(torch.from_numpy(np.ascontiguousarray(image))[None])[0]
    assert score.item() == pytest.approx(float(rows[0]["score"]), abs=1e-4)


def test_the_figures_are_those_of_the_predictions(finished: Path) -> None:
    with (finished / "predictions.csv").open() as file:
        rows = list(csv.DictReader(file))
    metrics = json.loads((finished / "metrics.json").read_text())
    scores, labels = [float(row["score"]) for row in rows], [float(row["mos"]) for row in rows]
    assert metrics["srcc"] == pytest.approx(srcc(scores, labels))
    assert (metrics["n"], metrics["unreadable"], metrics["split"]) == (12, 0, "test")
    assert list((finished / "tensorboard").iterdir())


def test_a_finished_run_is_not_scored_again(finished: Path) -> None:
    before = (finished / "metrics.json").stat().st_mtime_ns
    result = CliRunner().invoke(train.main, ["--resume", "--out", str(finished), "--cpu"])
    assert result.exit_code == 0, result.output
    assert "is finished" in result.output
    assert (finished / "metrics.json").stat().st_mtime_ns == before


@pytest.mark.slow
def test_noise_is_learned_and_ranked_on_images_not_trained_on(labels: Path, tmp_path: Path) -> None:
    result = run_train("--labels", labels, "--out", tmp_path / "run", "--epochs", 12, "--batch-size", 4, "--seed", 1)
    assert result.exit_code == 0, result.output
    assert json.loads((tmp_path / "run/metrics.json").read_text())["srcc"] > 0.7


def test_shares_are_learned_by_earth_movers_distance(labels: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    result = run_train("--labels", labels, "--out", out, "--epochs", 1, "--outputs", 5, "--loss", "emd+0.1*ranking")
    assert result.exit_code == 0, result.output
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["target"].startswith("mean rating (1-5)")
    spec = checkpoint.load(out / "best.safetensors").spec
    assert (spec.outputs, spec.score_range, spec.score_shift, spec.score_scale) == (5, (1, 5), 0, 1)


ONE = ("--batch-size", 1, "--loss", "l1")


def test_images_that_cannot_be_read_are_named_and_cost_no_others(labels: Path, tmp_path: Path) -> None:
    with labels.open() as file:
        rows = list(csv.reader(file))
    for row in rows[1:]:
        data = (labels.parent / row[0]).read_bytes()
        cut_short = row[0] in ("0.png", "1.png", "2.png")
        (tmp_path / row[0]).write_bytes(data[:100] if cut_short else data)
    with (tmp_path / "labels.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    result = run_train("--labels", tmp_path / "labels.csv", "--out", tmp_path / "run", "--epochs", 1, *ONE)
    assert result.exit_code == 0, result.output
    assert "Left out of epoch 1: 2.png" in result.output
    assert "(n=11, 1 unreadable)" in result.output
    assert "Left out of the test: 0.png" in result.output
    metrics = json.loads((tmp_path / "run/metrics.json").read_text())
    assert (metrics["n"], metrics["unreadable"]) == (11, 1)


# As `accelerate launch` starts them for several GPUs; for CPUs it would start only one.
LAUNCHER = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")


@contextmanager
def launched(*options: object, signalled: tuple[int, int] | None = None) -> Iterator[subprocess.Popen[str]]:
    """train.py in two processes; a signal comes to the last of them where `signalled` says which and in which epoch."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    script = ["-m", "tests.signalled", *map(int, signalled)] if signalled else [ROOT / "train.py"]
    command = [sys.executable, *LAUNCHER, *map(str, [*script, *SMALL, *options])]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen(command, env=environment, start_new_session=True, **pipes)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()  # a launcher ends its own
            process.communicate()


@pytest.mark.slow
def test_two_processes_train_as_one_would_and_outlive_the_loss_of_one(labels: Path, tmp_path: Path) -> None:
    out, alone = tmp_path / "both", tmp_path / "alone"
    options = ("--labels", labels, "--epochs", 2, "--batch-size", 4, "--lr", 1e-4)
    with launched(*options, "--out", out, "--save-every", 0, signalled=(signal.SIGKILL, 1)) as process:
        errors = process.communicate(timeout=300)[1]
    assert process.returncode != 0
    assert "SIGKILL" in errors
    assert not (out / "metrics.json").exists()
    assert run_folder.load_state(out)[0].epoch == 1
    with launched("--out", out, "--resume", "auto") as process:
        said, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    assert "on 2 x cpu" in said
    assert said.count("Test:") == 1
    result = run_train(*options, "--out", alone)
    assert result.exit_code == 0, result.output
    rows, expected = ([*csv.DictReader((folder / "predictions.csv").open())] for folder in (out, alone))
    assert [row["image"] for row in rows] == [f"{i}.png" for i in range(0, 48, 4)]
    assert [float(row["score"]) for row in rows] == pytest.approx([float(row["score"]) for row in expected], abs=1e-3)
    losses = [
        [epoch["loss"] for epoch in json.loads((folder / "metrics.json").read_text())["training"]["epochs"]]
        for folder in (out, alone)
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


def test_without_arguments_it_says_what_it_needs() -> None:
    result = CliRunner().invoke(train.main, [])
    assert result.exit_code == 0
    assert "python train.py --labels labels.csv" in result.output
    assert "python -m musiq.datasets.synthetic" in result.output


def test_the_list_of_datasets_is_printed_by_the_command() -> None:
    result = CliRunner().invoke(train.main, ["--list-data"])
    assert result.exit_code == 0
    assert "kadid10k: KADID-10k" in result.output
    assert "https://live.ece.utexas.edu/research/ChallengeDB/" in result.output


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--labels", "none.csv"], "Cannot read the labels none.csv"),
        (["--data", "koniq10k"], "needs --root DIR"),
        (["--labels", "{labels}", "--outputs", "10"], "columns c1..c10"),
        (["--labels", "{labels}", "--loss", "l7"], "no loss 'l7'"),
        (["--labels", "{labels}", "--root", "nowhere"], "48 of 48 images are missing"),
        (["--labels", "{labels}", "--trunk-weights", "x.pth"], "is for the resnet50 presets"),
        (["--labels", "{labels}", "--preset", "resnet50", "--trunk-weights", "x.pth"], "Cannot read x.pth"),
        (["--labels", "{labels}", "--height", "16"], "at least 32"),
        (["--labels", "{labels}", "--lr", "1e30", "--clip", "0"], "smaller --lr"),
        (["--labels", "{labels}", "--start", "{labels}"], "no checkpoint"),
        (["--resume", "--out", "nowhere"], "holds no run to resume"),
    ],
)
def test_what_cannot_be_is_one_line(
    labels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: list[str], says: str
) -> None:
    monkeypatch.chdir(tmp_path)
    result = run_train(*(option.format(labels=labels) for option in options), "--epochs", 1)
    assert result.exit_code == 1, result.output
    errors = [line for line in result.output.splitlines() if line.startswith("Error: ")]
    assert len(errors) == 1
    assert says in errors[0]
    assert "Traceback" not in result.output


def test_a_run_is_not_overwritten_nor_changed_by_resuming(finished: Path, labels: Path) -> None:
    result = run_train("--labels", labels, "--out", finished)
    assert result.exit_code == 1
    assert "holds a run already" in result.output
    result = run_train("--resume", "--out", finished, "--lr", "0.5")
    assert result.exit_code == 1
    assert "--lr 0.001" in result.output


@pytest.mark.slow
def test_a_decoding_process_that_the_system_ends_costs_no_more_than_the_last_steps(
    labels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def starve(*_: object) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    options = ("--labels", labels, "--out", tmp_path / "run", "--epochs", 1)
    with monkeypatch.context() as patched:
        patched.setattr(LabelledImages, "__getitem__", starve)
        result = run_train(*options, "--workers", 2)
    assert result.exit_code == 1
    (said,) = (line for line in result.output.splitlines() if line.startswith("Error"))
    assert "most often for lack of memory" in said
    command = said[said.index("--resume") :].split()
    assert command[-2:] == ["--workers", "1"]
    assert run_train(*command).exit_code == 0


def test_a_step_that_memory_has_no_room_for_says_what_to_change(
    labels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Objective, "backward", lambda *_: torch.empty(1 << 58))
    result = run_train("--labels", labels, "--out", tmp_path / "run", "--batch-size", 8)
    assert result.exit_code == 1
    assert "not enough memory on cpu for 8 images of 64x64 a step: give --checkpointing" in result.output


def test_training_can_start_from_a_checkpoint_with_a_new_head(finished: Path, labels: Path, tmp_path: Path) -> None:
    start = finished / "best.safetensors"
    options = ["--labels", str(labels), "--start", str(start), "--outputs", "5"]
    result = run_train(*options, "--out", tmp_path / "run", "--epochs", 1, "--lr", 1e-12, "--weight-decay", 0)
    assert result.exit_code == 0, result.output
    before, after = checkpoint.load(start).state_dict(), checkpoint.load(tmp_path / "run/best.safetensors").state_dict()
    assert torch.allclose(before["trunk.dense.weight"], after["trunk.dense.weight"], atol=1e-6)
    assert after["head.weight"].shape[0] == 5
