"""`python -m musiq_bench.profiling.random_checkpoint`: a checkpoint for benchmarks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from click.testing import CliRunner

from musiq.model import checkpoint
from musiq_bench.profiling.random_checkpoint import main
from tests.recipe import photo


def test_the_checkpoint_is_the_same_each_time_and_tells_images_apart(tmp_path: Path) -> None:
    files = [tmp_path / "a.safetensors", tmp_path / "b.safetensors"]
    for file in files:
        done = CliRunner().invoke(main, ["tiny", str(file)])
        assert done.exit_code == 0, done.output
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
