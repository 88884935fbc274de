"""examples/vbench.py gives VBench's layout, with the scores of the model on torchvision's own frames."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from musiq.model import checkpoint
from musiq.runtimes.registry import open_runtime
from musiq.video import open_video
from tests.musiq.images.test_vbench import torchvisions
from tests.musiq.video.clips import save_clip
from tests.recipe import lively_model, photo

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of a `tiny` of one layer for images of any size."""
    path = tmp_path_factory.mktemp("model") / "tiny.safetensors"
    checkpoint.save(lively_model("tiny", height=None, width=None, layers=1), path)
    return path


@pytest.mark.parametrize("mode", ["longer", "shorter-centercrop"])
def test_vbench_layout_and_the_scores_of_torchvisions_frames(mode: str, model: Path, tmp_path: Path) -> None:
    videos, out = tmp_path / "videos", tmp_path / "results.json"
    videos.mkdir()
    clips = [
        save_clip(videos / f"{name}.mp4", images=[photo(*size, seed) for seed in range(2)])
        for name, size in (("large", (540, 720)), ("small", (96, 128)))
    ]
    (videos / "broken.mp4").write_bytes(b"no video")
    command = [sys.executable, ROOT / "examples" / "vbench.py", model, videos, out, mode]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT, timeout=300)
    assert done.returncode == 3, done.stderr
    assert f"{videos / 'broken.mp4'}: The file is no video" in done.stderr
    runtime, expected = open_runtime(model, "cpu"), []
    for clip in clips:
        with open_video(clip, max_pixels=10**8) as video:
            frames = [torchvisions(frame.pixels(), mode.replace("-", "_")) for frame in video.frames([0, 1])]
        expected.append(float(np.mean([runtime(frame[None])[0] for frame in frames])))
    overall, results = json.loads(out.read_text())["imaging_quality"]
    assert [each["video_path"] for each in results] == list(map(str, clips))
    assert [each["video_results"] for each in results] == pytest.approx(expected, abs=1e-3)
    assert overall == pytest.approx(np.mean(expected) / 100, abs=1e-5)
    assert done.stdout == f"imaging_quality {overall:.6f}\n"
