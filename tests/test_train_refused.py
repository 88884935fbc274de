"""train.py refuses, before the first batch, what could not learn or would wait for ever."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

pytest.importorskip("torch")
pytest.importorskip("accelerate")

import train
from musiq.errors import MusiqError, pip_install
from musiq.model import checkpoint
from musiq.training import dataloader
from musiq.training.dataloader import MIB, check_shared_memory
from tests.recipe import lively_model
from tests.train_sets import SMALL, noisy_set

ROOT = Path(train.__file__).parent


@pytest.fixture(scope="module")
def labels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return noisy_set(tmp_path_factory.mktemp("refused") / "set", per_split=6)


def run_train(*options: object) -> Result:
    return CliRunner().invoke(train.main, [*SMALL, *map(str, options)])


def refused(out: Path, *options: object) -> str:
    """The line of a run that was refused before anything was written."""
    result = run_train("--out", out, *options)
    assert result.exit_code == 1, result.output
    assert "Traceback" not in result.output
    assert not (out / "run.json").exists()
    (line,) = (line for line in result.output.splitlines() if line.startswith("Error: "))
    return line


RECIPES = [
    (None, "Cannot read the recipe"),
    ("lr = = 1", "is no TOML"),
    ("speed = 9", "there is no option 'speed'"),
]


@pytest.mark.parametrize(("text", "says"), RECIPES)
def test_a_recipe_that_cannot_be_used_is_one_line(tmp_path: Path, text: str | None, says: str) -> None:
    recipe = tmp_path / "recipe.toml"
    if text is not None:
        recipe.write_text(text)
    assert says in refused(tmp_path / "run", "--config", recipe)


def test_without_torch_the_install_line_is_given(labels: Path) -> None:
    code = "import sys; sys.modules['torch'] = None; import train; train.main()"
    command = [sys.executable, "-c", code, "--labels", labels]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert (done.returncode, done.stderr) == (
        1,
        f"Error: train.py trains with PyTorch and needs torch: {pip_install('train')}.\n",
    )


@pytest.mark.parametrize("command", ["train.py", "-m musiq.training.compare_runs", "-m musiq.datasets.synthetic"])
def test_help_has_its_short_name(command: str) -> None:
    done = subprocess.run(
        [sys.executable, *command.split(), "-h"], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert done.stdout.startswith("Usage: ")


ONE_IMAGE = [
    (("--loss", "ranking", "--batch-size", 1), "--loss ranking compares the images of a batch"),
    (("--loss", "fidelity", "--batch-size", 1), "here a batch, over all processes, is 1 of 6"),
    (("--loss", "l1+0.5*ranking", "--batch-size", 1), "Give a larger --batch-size, or use --loss l1"),
    (("--batch-size", 1), "--loss ranking compares"),  # the preset's own loss
    (
        ("--loss", "plcc", "--batch-size", 2),
        "--loss plcc compares the images of a batch and learns nothing from fewer than 3",
    ),
]


@pytest.mark.parametrize(("options", "says"), ONE_IMAGE)
def test_a_loss_of_pairs_is_refused_where_a_batch_has_none(
    labels: Path, tmp_path: Path, options: tuple[object, ...], says: str
) -> None:
    assert says in refused(tmp_path / "run", "--labels", labels, *options)


def test_a_loss_of_pairs_is_refused_where_two_images_are_left_to_train_on(labels: Path, tmp_path: Path) -> None:
    rows = labels.read_text().splitlines()
    few = labels.with_name("few.csv")
    few.write_text("\n".join([*rows[:3], *rows[7:]]) + "\n")
    line = refused(tmp_path / "run", "--labels", few, "--loss", "plcc", "--batch-size", 16)
    assert "here a batch, over all processes, is 2 of 2" in line
    assert run_train("--labels", few, "--loss", "ranking", "--epochs", 1, "--out", tmp_path / "two").exit_code == 0


def shares_set(folder: Path, name: str, ratings: list[tuple[int, int, int, int, int]]) -> Path:
    """A set of one train image for each of these ratings, and one of val."""
    shutil.copytree(folder, folder.with_name(name))
    rows = [("train", i, rating) for i, rating in enumerate(ratings)] + [("val", 0, (0, 0, 1, 1, 0))]
    text = [f"{split}/{i}.png,3,{split},{','.join(map(str, rating))}" for split, i, rating in rows]
    path = folder.with_name(name) / "rated.csv"
    path.write_text("\n".join(["image,mos,split,c1,c2,c3,c4,c5", *text]) + "\n")
    return path


def test_a_loss_of_pairs_is_refused_where_all_labels_are_the_same(labels: Path, tmp_path: Path) -> None:
    same = shares_set(labels.parent, "same", [(0, 1, 1, 1, 0), (1, 0, 1, 0, 1), (0, 0, 1, 0, 0)])
    line = refused(
        tmp_path / "run", "--labels", same, "--outputs", 5, "--loss", "emd+ranking", "--near-duplicates", "keep"
    )
    assert "--loss ranking learns nothing from labels that are all equal" in line


def test_a_loss_of_pairs_is_refused_where_each_dataset_has_one_image_to_train_on() -> None:
    from musiq.training.losses import check_pairs

    with pytest.raises(MusiqError, match="fewer than 2 of one dataset; there are at most 1 to train on"):
        check_pairs(((1.0, "ranking"),), size=2, labels=[1.0, 2.0], datasets=[0, 1])
    check_pairs(((1.0, "ranking"),), size=2, labels=[1.0, 2.0, 1.0], datasets=[0, 0, 1])
    check_pairs(((1.0, "fidelity"),), size=2, labels=[1.0, 1.0], datasets=[0, 0])  # learns that they are equal
    check_pairs(((1.0, "l1"),), size=1, labels=[1.0], datasets=[0])


MODELS = [
    (("--preset", "lite", "--trunk", "timm:resnet19"), "has no network 'resnet19'; near are resnet18"),
    (
        ("--preset", "lite", "--trunk", "timm:resnet18.none_such"),
        "has no network 'resnet18.none_such'; near are resnet18.",
    ),
    (("--preset", "lite", "--trunk-weights", "none.pth"), "Cannot read none.pth"),
    (("--freeze", 8, "--start", "{start}"), "--freeze 8 is for trunks over whole scales"),
]


@pytest.mark.parametrize(("options", "says"), MODELS)
def test_a_model_that_cannot_be_built_leaves_no_run(
    labels: Path, tmp_path: Path, options: tuple[object, ...], says: str
) -> None:
    checkpoint.save(lively_model("tiny"), tmp_path / "start.safetensors")
    given = [str(option).format(start=tmp_path / "start.safetensors") for option in options]
    assert says in refused(tmp_path / "run", "--labels", labels, *given)


LAUNCHER = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--batch-size", "1", "--loss", "l1"), "A step needs an image for each of the 2 processes; --batch-size is 1"),
        (("--batch-size", "3", "--loss", "plcc"), "here a batch, over all processes, is 2 of 6"),
    ],
)
def test_two_processes_need_images_for_both(labels: Path, tmp_path: Path, options: tuple[str, ...], says: str) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    words = [*SMALL, "--labels", labels, "--out", tmp_path / "run", *options]
    command = [sys.executable, *LAUNCHER, ROOT / "train.py", *words]
    ended = subprocess.run([*map(str, command)], env=environment, capture_output=True, text=True, timeout=300)
    assert ended.returncode != 0
    assert says in ended.stderr
    assert not (tmp_path / "run/run.json").exists()


# --- shared memory ---------------------------------------------------------------------------------------------------

MAKES_ROOM = "mount -t tmpfs -o size=64m tmpfs /dev/shm && exec "
UNCHECKED = (
    "from musiq.training import dataloader, run; run.check_shared_memory = lambda *_: None; import train; train.main()"
)


def in_small_shared_memory(*command: object) -> subprocess.CompletedProcess[str]:
    """Run Python with these arguments where /dev/shm has 64 MiB, as in a container; skips where that cannot be had."""
    if shutil.which("unshare") is None:
        pytest.skip("needs unshare")
    namespace = ["unshare", "--mount", "sh", "-c"]
    if subprocess.run([*namespace, MAKES_ROOM + "true"], capture_output=True).returncode:
        pytest.skip("needs the right to mount a file system, as root has it")
    words = [sys.executable, *map(str, command)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    script = [*namespace, MAKES_ROOM + '"$0" "$@"', *words]
    return subprocess.run(script, env=environment, capture_output=True, text=True, timeout=120)


LARGE = (*SMALL, "--height", 768, "--width", 1024, "--epochs", 1)


def test_batches_that_shared_memory_cannot_hold_are_refused_before_anything_is_written(
    labels: Path, tmp_path: Path
) -> None:
    many = noisy_set(tmp_path / "set", per_split=40)
    options = (*LARGE, "--labels", many, "--out", tmp_path / "run", "--batch-size", 8, "--workers", 2)
    ended = in_small_shared_memory(ROOT / "train.py", *options)
    assert ended.returncode == 1, ended.stderr
    assert "--workers 2 pass images on in shared memory and need 90 MiB of it; /dev/shm has 64 MiB free" in ended.stderr
    assert "Give --workers 1 or --workers 0, or the container more: docker run --shm-size 1g" in ended.stderr
    assert not (tmp_path / "run/run.json").exists()


def test_shared_memory_that_runs_out_all_the_same_ends_the_run_in_one_line(labels: Path, tmp_path: Path) -> None:
    """As when other programs fill it: the run used to wait for ever for the batch that could not be passed on."""
    many = noisy_set(tmp_path / "set", per_split=32)
    options = (*LARGE, "--labels", many, "--out", tmp_path / "run", "--batch-size", 32, "--workers", 2)
    ended = in_small_shared_memory("-c", UNCHECKED, *options)
    assert ended.returncode == 1, ended.stderr
    (line,) = (line for line in ended.stderr.splitlines() if line.startswith("Error: "))
    assert "found no room in shared memory" in line
    assert f"python train.py --resume --out {tmp_path / 'run'} --workers 0" in line


class Status:
    """What os.statvfs says of a file system of so many bytes."""

    f_frsize = 4096

    def __init__(self, free: int, limited: bool = True) -> None:
        self.f_bavail, self.f_blocks = free // 4096, free // 4096 if limited else 0


def test_what_workers_need_is_what_they_read_ahead_in_all_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dataloader.os, "statvfs", lambda _: Status(64 * MIB))
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    check_shared_memory(workers=2, batches=100, batch_bytes=12 * MIB)  # 5 x 12
    check_shared_memory(workers=2, batches=3, batch_bytes=20 * MIB)  # there are no more of them
    check_shared_memory(workers=0, batches=100, batch_bytes=100 * MIB)
    with pytest.raises(MusiqError, match=r"need 65 MiB of it; .* 64 MiB free. Give --workers 1 or --workers 0, or"):
        check_shared_memory(workers=2, batches=100, batch_bytes=13 * MIB)
    with pytest.raises(MusiqError, match=r"Give --workers 0, or the container more: docker run --shm-size 1g\."):
        check_shared_memory(workers=8, batches=100, batch_bytes=24 * MIB)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    with pytest.raises(MusiqError, match="need 120 MiB"):
        check_shared_memory(workers=2, batches=100, batch_bytes=12 * MIB)
    monkeypatch.setattr(dataloader.os, "statvfs", lambda _: Status(0, limited=False))  # a tmpfs of size=0 has no limit
    check_shared_memory(workers=8, batches=100, batch_bytes=24 * MIB)
