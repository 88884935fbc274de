"""`python -m musiq_bench.profiling.interleaved`: models beside each other, call by call, in one process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from click.testing import CliRunner

from musiq_bench.profiling.interleaved import Measured, Model, main, size_table, speed_table
from tests.recipe import torch_weight

PYIQA = '''
"""Stands where pyiqa's module does, and says on stderr what it was given."""
import sys
import torch

class MUSIQ(torch.nn.Module):
    def __init__(self, pretrained, num_class=1):
        super().__init__()
        assert not pretrained  # which would fetch weights
        self.head = torch.nn.Linear(3, num_class)

    def forward(self, x):
        print("given", x.dtype, tuple(x.shape), round(float(x.max()), 3), torch.get_num_threads(), file=sys.stderr)
        return self.head(x.mean((2, 3)))[:, :1]
'''


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for i in range(3):
        cv2.imwrite(str(folder / f"{i}.png"), np.full((192, 256, 3), 255 - i, np.uint8))
    return folder


HEAD = {"head.weight": (10, 3), "head.bias": (10,)}
"""Shapes of the tensors of PYIQA."""


def timed_model(name: str, batch: int, seconds: list[float], size: tuple[int, int] | None = None) -> Measured:
    """A model that took these seconds, and scored every image 1."""
    images = np.zeros((batch, 8, 8, 3), np.uint8)
    model = Model(name, lambda given: np.ones(len(given)), size, "")
    return Measured(model, images, batch, [np.ones(batch)], seconds)


def test_a_ratio_is_that_of_calls_in_the_same_turn_for_each_image() -> None:
    # The machine halves its speed in the third turn, for both alike.
    table = speed_table([timed_model("slow", 1, [0.3, 0.3, 0.6]), timed_model("fast", 4, [0.4, 0.4, 0.8])])
    assert table.splitlines()[2:] == [
        "| slow | 1 | 300.0 | 1.00 (1.00-1.00) |",
        "| fast | 4 | 100.0 | 3.00 (3.00-3.00) |",
    ]


def test_the_command_compares_files_and_batches(photos: Path, tiny_onnx: Path) -> None:
    done = CliRunner().invoke(main, [str(tiny_onnx), "--images", str(photos), "--batch", "1", "--batch", "3"])
    assert done.exit_code == 0, done.output
    assert done.output.startswith("14 turns of 2 calls, ")
    rows = [row.split(" | ") for row in done.output.splitlines()[4:]]
    assert [row[:2] for row in rows] == [[f"| {tiny_onnx}", "1"], [f"| {tiny_onnx}", "3"]]
    assert rows[0][3] == "1.00 (1.00-1.00) |"
    assert all(float(row[2]) > 0 for row in rows)


def test_a_broken_image_is_named_and_another_takes_its_place(photos: Path, tiny_onnx: Path) -> None:
    (photos / "0.png").write_bytes(b"nothing of an image")
    done = CliRunner().invoke(main, [str(tiny_onnx), "--images", str(photos), "--batch", "2", "--turns", "1"])
    assert done.exit_code == 0, done.output
    assert done.stderr.startswith(f"{photos / '0.png'}: ")
    assert [row.split(" | ")[1] for row in done.stdout.splitlines()[4:]] == ["2"]


def beside_pyiqa(folder: Path, *asked: str) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own, where PYIQA stands for the package."""
    module = folder / "site" / "pyiqa" / "archs" / "musiq_arch.py"
    module.parent.mkdir(parents=True, exist_ok=True)
    module.write_text(PYIQA)
    environment = {**os.environ, "PYTHONPATH": str(folder / "site")}
    command = [sys.executable, "-m", "musiq_bench.profiling.interleaved", *asked]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)


def test_pyiqa_gets_the_images_of_the_other_models_as_its_own_loader_would_give_them(
    photos: Path, tiny_onnx: Path, tmp_path: Path
) -> None:
    asked = ["pyiqa", str(tiny_onnx), "--images", str(photos), "--turns", "1", "--threads", "1"]
    done = beside_pyiqa(tmp_path, *asked)
    assert done.returncode == 0, done.stderr
    assert [row.split(" | ")[0] for row in done.stdout.splitlines()[4:]] == ["| pyiqa", f"| {tiny_onnx}"]
    given = [line for line in done.stderr.splitlines() if line.startswith("given")]
    assert given == ["given torch.float32 (1, 3, 192, 256) 1.0 1"] * 3  # two to warm up, one turn


def test_pyiqa_holds_the_weights_of_a_file_and_sees_each_size(photos: Path, tmp_path: Path) -> None:
    tensors = {name: torch.from_numpy(torch_weight(name, shape)) for name, shape in HEAD.items()}
    torch.save({"params": tensors}, tmp_path / "weights.pth")
    model, asked = f"pyiqa={tmp_path / 'weights.pth'}", ["--images", str(photos), "--turns", "1"]
    done = beside_pyiqa(tmp_path, model, model, *asked, "--size", "24x16", "--size", "9x7")
    assert done.returncode == 0, done.stderr
    assert "(1, 3, 16, 24)" in done.stderr
    assert "(1, 3, 7, 9)" in done.stderr
    assert f"{model}: scores differ by at most 0.0e+00" in done.stdout
    torch.save({"other.weight": tensors["head.weight"]}, tmp_path / "weights.pth")
    done = beside_pyiqa(tmp_path, model, *asked)
    assert (done.returncode, done.stdout) == (1, "")
    assert "weights.pth does not hold the weights of pyiqa's MUSIQ" in done.stderr
    assert done.stderr.count("\n") == 1


def test_sizes_stand_down_and_models_across_with_the_geometric_mean_below() -> None:
    rows = {
        "8x8": {0: timed_model("first", 1, [0.4]), 1: timed_model("any", 1, [0.1]), 2: timed_model("one", 1, [0.2])},
        "16x16": {0: timed_model("first", 1, [0.9]), 1: timed_model("any", 1, [0.9])},
        "32x32": {1: timed_model("any", 1, [0.5])},
    }
    assert size_table(rows, ["first", "any", "one"]).splitlines() == [
        "| ms an image | first | any | one |",
        "| --- | --- | --- | --- |",
        "| 8x8 | 400.0 | 100.0: 4.00 (4.00-4.00) | 200.0: 2.00 (2.00-2.00) |",
        "| 16x16 | 900.0 | 900.0: 1.00 (1.00-1.00) |  |",
        "| 32x32 |  | 500.0 |  |",
        "| geometric mean |  | 2.00 | 2.00 |",
    ]


def test_a_model_of_one_size_stands_beside_one_of_any_at_its_own_size_alone(
    photos: Path, any_size: Path, one_size: Path
) -> None:
    asked = ["--images", str(photos), "--size", "96x64", "--size", "128x160", "--turns", "2"]
    done = CliRunner().invoke(main, [str(any_size), str(one_size), *asked])
    assert done.exit_code == 0, done.output
    assert done.output.startswith("2 turns of 3 calls, ")
    rows = [line.split("|")[1:-1] for line in done.output.splitlines()[4:7]]
    assert [row[0].strip() for row in rows] == ["96x64", "128x160", "geometric mean"]
    assert [bool(row[2].strip()) for row in rows] == [True, False, True]
    assert all(float(row[1]) > 0 for row in rows[:2])
    assert "scores differ" not in done.output, "each was saved with weights of its own, as far as a file's digest tells"


def test_scores_of_the_same_weights_are_compared(any_size: Path, photos: Path) -> None:
    asked = ["--images", str(photos), "--size", "96x64", "--batch", "1", "--batch", "2", "--turns", "1"]
    done = CliRunner().invoke(main, [str(any_size), str(any_size), *asked])
    assert done.exit_code == 0, done.output
    assert [line.split(" |")[0] for line in done.output.splitlines()[4:6]] == ["| 96x64", "| 96x64, batch 2"]
    assert done.output.endswith(f"\n{any_size}: scores differ by at most 0.0e+00 from those of {any_size}.\n")


@pytest.mark.parametrize(
    ("models", "more", "said"),
    [
        (["pyiqa=nowhere.pth"], [], "nowhere.pth"),
        (["MODEL"], ["--size", "64by96"], "'64by96' is no size; give width and height in pixels, such as 512x288."),
        (["MODEL"], ["--size", "70000x9"], "'70000x9' is no size"),
        (
            ["MODEL"],
            ["--size", "100x100"],
            "No model here takes images of 100x100; give one for that size, or for any.",
        ),
        (["pyiqa", "MODEL"], [], "pyiqa cannot be imported"),
        (["MODEL"], ["--batch", "4"], "There are 3 images for a batch of 4"),
        (["nothing.onnx"], [], "nothing.onnx"),
    ],
)
def test_what_cannot_be_compared_is_one_line(
    models: list[str], more: list[str], said: str, photos: Path, tiny_onnx: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyiqa", None)  # as where it is not installed
    arguments = [str(tiny_onnx) if model == "MODEL" else model for model in models]
    done = CliRunner().invoke(main, [*arguments, "--images", str(photos), *more])
    assert done.exit_code == 1
    assert done.output.startswith("Error: ")
    assert said in done.output
    assert done.output.count("\n") == 1
