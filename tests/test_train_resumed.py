"""train.py --resume: it goes on with the same run on images that are there, or it stops with the state of before."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

torch = pytest.importorskip("torch")
pytest.importorskip("accelerate")

import train  # noqa: E402, after the check for what it needs
from musiq.model import checkpoint  # noqa: E402
from musiq.training import run as runs  # noqa: E402
from musiq.training import run_folder  # noqa: E402
from musiq.training.run import StopAskedError  # noqa: E402
from tests.train_sets import SMALL, noisy_set  # noqa: E402

RECIPE = ("--epochs", 2, "--batch-size", 3, "--save-every", 0)


def run_train(*options: object) -> Result:
    return CliRunner().invoke(train.main, [*SMALL, *map(str, options)])


When = Callable[[int, int, Callable[[], object]], None]


@pytest.fixture
def when(monkeypatch: pytest.MonkeyPatch) -> When:
    """Does something in a run once a step of an epoch is done and saved."""
    save_if_due = runs.save_if_due

    def at(epoch: int, step: int, act: Callable[[], object]) -> None:
        def save_and_act(run: runs.Run, learner: runs.Learner) -> None:
            save_if_due(run, learner)
            if (run.state.epoch, run.state.step) == (epoch, step):
                act()

        monkeypatch.setattr(runs, "save_if_due", save_and_act)

    return at


def stop() -> None:
    raise StopAskedError("Stopped.")


@pytest.fixture
def labels(tmp_path: Path) -> Path:
    return noisy_set(tmp_path / "set")


@pytest.fixture
def stopped(labels: Path, tmp_path: Path, when: When) -> Path:
    """A run that was stopped in its second epoch, its images in the folder `set`."""
    when(1, 2, stop)
    result = run_train("--labels", labels, "--out", tmp_path / "run", *RECIPE)
    assert result.exit_code == 130, result.output
    return tmp_path / "run"


def errors(result: Result) -> str:
    """The one line of what is wrong."""
    assert result.exit_code == 1, result.output
    assert "Traceback" not in result.output
    (line,) = (line for line in result.output.splitlines() if line.startswith("Error: "))
    return line


def test_a_run_whose_images_are_gone_waits_for_them(stopped: Path, tmp_path: Path) -> None:
    before = (stopped / "state.pt").read_bytes()
    (tmp_path / "set").rename(tmp_path / "away")
    for options in ((), ("--skip-missing",)):
        line = errors(run_train("--resume", "--out", stopped, *options))
        assert "12 of the 12 train images of the run in" in line
        assert "set/train/0.png first" in line
        assert "Put them back where they were" in line
    assert (stopped / "state.pt").read_bytes() == before
    assert not (stopped / "metrics.json").exists()
    (tmp_path / "away").rename(tmp_path / "set")
    result = run_train("--resume", "--out", stopped)
    assert result.exit_code == 0, result.output
    assert json.loads((stopped / "metrics.json").read_text())["n"] == 12
    shutil.rmtree(tmp_path / "set")
    result = run_train("--resume", "--out", stopped)
    assert "is finished" in result.output  # needs none any more


def test_a_run_goes_on_without_a_few_of_its_images_where_it_is_told_to(stopped: Path, tmp_path: Path) -> None:
    (tmp_path / "set/train/0.png").unlink()
    line = errors(run_train("--resume", "--out", stopped))
    assert "1 of the 12 train images" in line
    assert "or go on without them by --skip-missing" in line
    result = run_train("--resume", "--out", stopped, "--skip-missing")
    assert result.exit_code == 0, result.output
    (tmp_path / "run/metrics.json").unlink()
    for name in ("0.png", "1.png"):
        (tmp_path / "set/test" / name).unlink()
    line = errors(run_train("--resume", "--out", stopped, "--skip-missing"))
    assert "2 of the 12 test images" in line
    assert "more than 10%" in line


def test_images_that_go_in_the_middle_of_an_epoch_leave_the_state_of_before(
    labels: Path, tmp_path: Path, when: When
) -> None:
    assert run_train("--labels", labels, "--out", tmp_path / "whole", *RECIPE).exit_code == 0
    when(1, 2, lambda: (tmp_path / "set").rename(tmp_path / "away"))
    line = errors(run_train("--labels", labels, "--out", tmp_path / "run", *RECIPE))
    assert "3 of the 12 images of epoch 2 could not be read, more than 10%" in line
    assert f"python train.py --resume --out {tmp_path / 'run'}" in line
    state, _ = run_folder.load_state(tmp_path / "run")
    assert (state.epoch, state.step, state.unread) == (1, 2, 0)
    (tmp_path / "away").rename(tmp_path / "set")
    assert run_train("--resume", "--out", tmp_path / "run").exit_code == 0
    expected, found = (checkpoint.load(tmp_path / name / "last.safetensors") for name in ("whole", "run"))
    for name, value in expected.state_dict().items():
        assert torch.equal(found.state_dict()[name], value), name


@pytest.mark.parametrize(("split", "says"), [("val", "the validation split"), ("test", "the test split")])
def test_a_split_that_goes_before_it_is_scored_ends_the_run_unfinished(
    labels: Path, tmp_path: Path, when: When, split: str, says: str
) -> None:
    when(0, 3, lambda: (tmp_path / "set" / split).rename(tmp_path / "away"))
    options = ("--labels", labels, "--out", tmp_path / "run", *RECIPE, "--epochs", 1)
    assert f"12 of the 12 images of {says} could not be read" in errors(run_train(*options))
    assert (tmp_path / "run/best.safetensors").exists() is (split == "test")
    assert not (tmp_path / "run/metrics.json").exists()
    (tmp_path / "away").rename(tmp_path / "set" / split)
    assert run_train("--resume", "--out", tmp_path / "run").exit_code == 0
    assert json.loads((tmp_path / "run/metrics.json").read_text())["unreadable"] == 0


def test_a_step_of_which_no_image_could_be_read_is_not_saved(labels: Path, tmp_path: Path, when: When) -> None:
    """One broken image of 12 is less than a tenth."""
    first = runs_first_image(labels, tmp_path)
    (tmp_path / "set" / first).write_bytes(b"broken")
    seen: list[int] = []
    when(0, 1, lambda: seen.append(run_folder.load_state(tmp_path / "run")[0].step))
    one = ("--batch-size", 1, "--loss", "l1")
    result = run_train("--labels", labels, "--out", tmp_path / "run", *RECIPE, *one, "--near-duplicates", "keep")
    assert result.exit_code == 0, result.output
    assert f"Left out of epoch 1: {first}" in result.output
    assert seen == [0]


def runs_first_image(labels: Path, tmp_path: Path) -> str:
    """The image of the first step of a run with one image in a batch."""
    from musiq.datasets import read_labels
    from musiq.training.dataloader import epoch_order

    items = read_labels(labels).split("train")
    return items[epoch_order(len(items), seed=0, epoch=0)[0]].image


OTHER = [
    (["--labels", "{set}/other.csv"], "with --labels {set}/labels.csv, and with --labels {set}/other.csv"),
    (["--data", "ava={set}"], "without --data, and with --data ava"),
    (["--root", "{set}/train"], "with --root {set}, and with --root {set}/train"),
    (["--target", "stars"], "with --target mos of set/labels.csv, and with --target stars"),
    (["--max-images", "30"], "with --max-images 36, and with --max-images 30"),
    (["--score-range", "0", "5"], "with --score-range 1 5, and with --score-range 0 5"),
    (["--near-duplicates", "drop"], "with --near-duplicates group, and with --near-duplicates drop"),
    (["--terms", "free"], "with --terms not stated"),
    (["--split", "{set}/split.csv"], "without --split, and with --split {set}/split.csv"),
]


def test_a_run_is_not_resumed_on_other_data_and_by_its_own_command_line_is(labels: Path, tmp_path: Path) -> None:
    shutil.copy(labels, labels.with_name("other.csv"))
    own = ("--labels", labels, "--score-range", 1, 5, "--max-images", 36, "--out", tmp_path / "run", "--epochs", 1)
    command = (*own, "--batch-size", 3, "--resume", "auto")
    assert run_train(*command).exit_code == 0
    (tmp_path / "run/metrics.json").unlink()  # as if it had been stopped before it was scored
    for options, says in OTHER:
        line = errors(
            run_train("--resume", "--out", tmp_path / "run", *(part.format(set=labels.parent) for part in options))
        )
        assert f"This run was started {says.format(set=labels.parent)}" in line
        assert "leave the option out to resume" in line
    assert not (tmp_path / "run/metrics.json").exists()
    result = run_train(*command)
    assert result.exit_code == 0, result.output
    assert "Test:" in result.output
    assert "is finished" in run_train(*command).output


def test_paths_of_the_same_file_are_the_same(labels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = ("--out", tmp_path / "run", "--epochs", 1, "--batch-size", 3)
    assert run_train("--labels", labels, *options).exit_code == 0
    monkeypatch.chdir(labels.parent)
    (tmp_path / "link").symlink_to(labels.parent)
    for other in ("labels.csv", "../set/labels.csv", tmp_path / "link/labels.csv"):
        result = run_train("--labels", other, "--root", ".", *options, "--resume", "auto")
        assert "is finished" in result.output, result.output


def test_one_command_line_without_a_folder_begins_a_run_and_goes_on_with_it(
    labels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    command = ("--labels", labels, "--epochs", 1, "--batch-size", 3, "--resume", "auto")
    assert "Test:" in run_train(*command).output
    assert "is finished" in run_train(*command).output
    assert len(list((tmp_path / "runs").iterdir())) == 1


def test_public_datasets_are_compared_by_name_and_folder_however_they_were_said(tmp_path: Path) -> None:
    from musiq.datasets.load import DataOptions, Origin
    from musiq.errors import MusiqError

    begun = DataOptions(data=("spaq", "ava=a"), root=(Path("s"),))
    record = {"labels": {"target": "x", "score_range": None, "terms": ""}, "origin": vars(Origin.of(begun))}
    (tmp_path / "run.json").write_text(json.dumps(record))
    for options, given in (
        (begun, {"data", "root"}),
        (DataOptions(data=("spaq=s", "ava=a")), {"data"}),
        (DataOptions(data=("spaq", "ava")), {"data"}),
        (DataOptions(root=(Path("s"), Path("a"))), {"root"}),
    ):
        run_folder.check_same_data(tmp_path, options, given)
    for options, given, says in (
        (
            DataOptions(data=("ava=a", "spaq=s")),
            {"data"},
            "with --data spaq --data ava, and with --data ava --data spaq",
        ),
        (DataOptions(data=("spaq=s", "ava=b")), {"data"}, r"--root \S*/a, and with --root \S*/s --root \S*/b"),
        (DataOptions(labels=Path("l.csv")), {"labels"}, r"without --labels, and with --labels \S*/l\.csv"),
    ):
        with pytest.raises(MusiqError, match=says):
            run_folder.check_same_data(tmp_path, options, given)
