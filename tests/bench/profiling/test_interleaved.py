"""`python -m musiq_bench.profiling.interleaved`: models beside each other, call by call, in one process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from click.testing import CliRunner

from musiq_bench.profiling.interleaved import main, speed_table

PYIQA = '''
"""Stands where pyiqa's module does, and says on stderr what it was given."""
import sys
import torch

class MUSIQ(torch.nn.Module):
    def __init__(self, pretrained):
        super().__init__()
        assert not pretrained  # which would fetch weights

    def forward(self, x):
        print("given", x.dtype, tuple(x.shape), round(float(x.max()), 3), torch.get_num_threads(), file=sys.stderr)
        return x.mean((1, 2, 3))[:, None]
'''


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for i in range(3):
        cv2.imwrite(str(folder / f"{i}.png"), np.full((192, 256, 3), 255 - i, np.uint8))
    return folder


def test_a_ratio_is_that_of_calls_in_the_same_turn_for_each_image() -> None:
    # The machine halves its speed in the third turn, for both alike.
    table = speed_table(["slow", "fast"], [1, 4], [[0.3, 0.3, 0.6], [0.4, 0.4, 0.8]])
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


def test_pyiqa_gets_the_images_of_the_other_models_as_its_own_loader_would_give_them(
    photos: Path, tiny_onnx: Path, tmp_path: Path
) -> None:
    module = tmp_path / "site" / "pyiqa" / "archs" / "musiq_arch.py"
    module.parent.mkdir(parents=True)
    module.write_text(PYIQA)
    command = [
        sys.executable,
        "-m",
        "musiq_bench.profiling.interleaved",
        "pyiqa",
        str(tiny_onnx),
        "--images",
        str(photos),
    ]
    done = subprocess.run(
        [*command, "--turns", "1", "--threads", "1"],
        env={**os.environ, "PYTHONPATH": str(tmp_path / "site")},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert [row.split(" | ")[0] for row in done.stdout.splitlines()[4:]] == ["| pyiqa", f"| {tiny_onnx}"]
    given = [line for line in done.stderr.splitlines() if line.startswith("given")]
    assert given == ["given torch.float32 (1, 3, 192, 256) 1.0 1"] * 3  # two to warm up, one turn


@pytest.mark.parametrize(
    ("models", "more", "said"),
    [
        (["pyiqa"], [], "Only pyiqa is given; give a model beside it"),
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
