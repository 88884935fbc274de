"""The files of a run: states that survive a full disk or a broken file, the newest run, and runs written before."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

torch = pytest.importorskip("torch")
pytest.importorskip("accelerate")

import train  # noqa: E402, after the check for what it needs
from musiq.datasets import Dataset, Labelled  # noqa: E402
from musiq.errors import MusiqError  # noqa: E402
from musiq.model import checkpoint  # noqa: E402
from musiq.training import run_folder  # noqa: E402
from musiq.training.compare_runs import compare  # noqa: E402
from musiq.training.recipe import Recipe  # noqa: E402
from musiq.training.run_folder import State  # noqa: E402
from tests.full_disk import files_of_at_most  # noqa: E402
from tests.musiq.training.small_model import RECIPE  # noqa: E402


def saved_state(folder: Path, epoch: int) -> None:
    run_folder.save_state(folder, State(epoch=epoch), {"model": {"weight": torch.full((50_000,), float(epoch))}})


def test_a_disk_that_fills_up_while_a_state_is_written_leaves_the_last_good_one(tmp_path: Path) -> None:
    saved_state(tmp_path, epoch=1)
    half = 100_000
    with files_of_at_most(half), pytest.raises(MusiqError, match=r"Cannot write .*state\.pt: its disk may be full"):
        saved_state(tmp_path, epoch=2)
    state, parts = run_folder.load_state(tmp_path)
    assert (state.epoch, float(parts["model"]["weight"][-1])) == (1, 1)
    assert [path.name for path in tmp_path.iterdir()] == ["state.pt"]


def test_a_broken_state_gives_way_to_the_one_before_it(tmp_path: Path) -> None:
    saved_state(tmp_path, epoch=1)
    saved_state(tmp_path, epoch=2)
    whole = (tmp_path / "state.pt").read_bytes()
    (tmp_path / "state.pt").write_bytes(whole[: len(whole) // 2])
    said: list[str] = []
    state, _ = run_folder.load_state(tmp_path, said.append)
    assert state.epoch == 1
    assert "state.pt is broken" in said[0]
    (tmp_path / "state-before.pt").write_bytes(b"")
    with pytest.raises(MusiqError, match="is broken"):
        run_folder.load_state(tmp_path)


def test_the_newest_run_that_can_be_read_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    dataset = Dataset((Labelled("a.png", tmp_path / "a.png", 1.0, "train"),), tmp_path, "stars")
    for name in ("first", "second", "third"):
        run_folder.write_run(Path("runs") / name, RECIPE, dataset, "")
    saved_state(Path("runs/first"), epoch=1)  # begun first, written to last
    assert run_folder.newest().name == "first"
    saved_state(Path("runs/third"), epoch=1)
    Path("runs/third/state.pt").write_bytes(b"half")
    said: list[str] = []
    assert run_folder.newest(said.append).name == "first"
    assert "Passed over" in said[0]
    assert "third" in said[0]


def test_a_run_of_an_earlier_version_is_read_with_the_defaults_of_newer_options() -> None:
    old: dict[str, Any] = {name: value for name, value in vars(RECIPE).items() if name not in ("ema", "scales")}
    assert Recipe(**old) == RECIPE


WRITTEN_BEFORE = Path(__file__).parents[2] / "fixtures/written_before/run"


@pytest.fixture
def written_before(tmp_path: Path) -> Path:
    """A run that an earlier version was stopped in after its first epoch, as if its files had stayed where they were."""
    folder = tmp_path / "run"
    folder.mkdir()
    for name in ("split.csv", "best.safetensors"):
        shutil.copyfile(WRITTEN_BEFORE / name, folder / name)
    shutil.copyfile(WRITTEN_BEFORE / "state-after-epoch-1.pt", folder / "state.pt")
    record = json.loads((WRITTEN_BEFORE / "run.json").read_text())
    record["settings"]["start"] = str(WRITTEN_BEFORE / "best.safetensors")
    record["labels"]["root"] = str(WRITTEN_BEFORE / "photos")
    (folder / "run.json").write_text(json.dumps(record))
    return folder


def test_a_run_folder_of_an_earlier_version_is_read(written_before: Path) -> None:
    recipe, dataset = run_folder.read_run(written_before)
    assert (recipe.preset, recipe.epochs, recipe.loss, recipe.batch_norm) == ("tiny", 2, "l1+ranking", "frozen")
    assert (dataset.counts(), dataset.target, dataset.score_range) == (
        "3 train, 3 val, 3 test",
        "fixture (1-5)",
        (1, 5),
    )
    state, parts = run_folder.load_state(written_before)
    assert (state.epoch, state.step, state.best_epoch) == (1, 0, 0)
    assert [epoch.images for epoch in state.history] == [3]
    assert {"model", "optimizer"} <= set(parts)


def test_a_run_of_an_earlier_version_goes_on_to_what_it_would_have_ended_with(written_before: Path) -> None:
    result = CliRunner().invoke(train.main, ["--resume", "--out", str(written_before), "--workers", "0", "--cpu"])
    assert result.exit_code == 0, result.output
    found, expected = (checkpoint.load(folder / "last.safetensors") for folder in (written_before, WRITTEN_BEFORE))
    for name, value in expected.state_dict().items():
        assert torch.allclose(found.state_dict()[name], value, atol=1e-4), name
    metrics = json.loads((written_before / "metrics.json").read_text())
    assert (metrics["n"], len(metrics["training"]["epochs"])) == (3, 2)


def test_finished_runs_of_an_earlier_version_are_compared(tmp_path: Path) -> None:
    other = shutil.copytree(WRITTEN_BEFORE, tmp_path / "other")
    text = compare([other], against=WRITTEN_BEFORE)
    assert "| other | preset tiny, seed 0 | 3 | 1.0000 |" in text
    assert "+0.0000" in text
