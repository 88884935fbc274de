"""`python -m musiq_bench.profiling.random_checkpoint`: a checkpoint for benchmarks."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from musiq.errors import pip_install
from musiq.model import checkpoint
from musiq_bench.profiling.random_checkpoint import main
from tests.recipe import photo


def test_the_checkpoint_is_the_same_each_time_and_tells_images_apart(tmp_path: Path) -> None:
    files = [tmp_path / "a.safetensors", tmp_path / "b.safetensors"]
    for file in files:
        done = CliRunner().invoke(main, ["tiny", str(file)])
        assert (done.exit_code, done.output.strip()) == (0, str(file))
    assert files[0].read_bytes() == files[1].read_bytes()
    model = checkpoint.load(files[0], 64, 96)
    with torch.inference_mode():
        scores = model.predict(torch.from_numpy(np.stack([photo(64, 96, seed) for seed in range(8)])))[0]
    assert scores.std() > 0.1
    assert len(scores.unique()) == 8


def test_an_unknown_preset_is_refused(tmp_path: Path) -> None:
    done = CliRunner().invoke(main, ["huge", str(tmp_path / "a.safetensors")])
    assert done.exit_code == 2
    assert not list(tmp_path.iterdir())


def test_a_name_of_another_format_and_a_missing_torch_are_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    for name, words in (
        ("a.npz", "give a name that ends in .safetensors."),
        ("a.safetensors", f"needs torch: {pip_install('train')}."),
    ):
        done = CliRunner().invoke(main, ["tiny", str(tmp_path / name)])
        assert (done.exit_code, done.output.count("\n")) == (1, 1)
        assert words in done.output
    assert not list(tmp_path.iterdir())
