"""examples/vbench.py gives VBench's layout, with the scores of the model on torchvision's own frames."""

from __future__ import annotations

import json
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from musiq.errors import MusiqError
from musiq.model import checkpoint
from musiq.runtimes.registry import open_runtime
from musiq.video import open_video
from tests.musiq.images.test_vbench import torchvisions
from tests.musiq.video.clips import save_clip
from tests.recipe import lively_model, photo

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "examples" / "vbench.py"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of a `tiny` of one layer for images of any size."""
    path = tmp_path_factory.mktemp("model") / "tiny.safetensors"
    checkpoint.save(lively_model("tiny", height=None, width=None, layers=1), path)
    return path


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two clips, one large enough to be resized, and a file that is none."""
    folder = tmp_path_factory.mktemp("videos")
    for name, size in (("large", (540, 720)), ("small", (96, 128))):
        save_clip(folder / f"{name}.mp4", images=[photo(*size, seed) for seed in range(2)])
    (folder / "broken.mp4").write_bytes(b"no video")
    return folder


def check(written: Path, videos: Path, model: Path, mode: str) -> float:
    """Compare with the model on torchvision's own frames; the overall value."""
    runtime, expected, clips = open_runtime(model, "cpu"), [], [videos / "large.mp4", videos / "small.mp4"]
    for clip in clips:
        with open_video(clip, max_pixels=10**8) as video:
            frames = [torchvisions(frame.pixels(), mode) for frame in video.frames([0, 1])]
        expected.append(float(np.mean([runtime(frame[None])[0] for frame in frames])))
    overall, results = json.loads(written.read_text())["imaging_quality"]
    assert [each["video_path"] for each in results] == list(map(str, clips))
    assert [each["video_results"] for each in results] == pytest.approx(expected, abs=1e-3)
    assert overall == pytest.approx(np.mean(expected) / 100, abs=1e-5)
    return float(overall)


def test_vbench_layout_and_the_scores_of_torchvisions_frames(model: Path, videos: Path, tmp_path: Path) -> None:
    out = tmp_path / "results.json"
    command = [sys.executable, SCRIPT, model, videos, out]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT, timeout=300)
    assert done.returncode == 3, done.stderr
    assert f"{videos / 'broken.mp4'}: The file is no video" in done.stderr
    assert done.stdout == f"imaging_quality {check(out, videos, model, 'longer'):.6f}\n"


def test_its_other_modes_are_vbench_s_too(model: Path, videos: Path, tmp_path: Path) -> None:
    example, out = runpy.run_path(str(SCRIPT)), tmp_path / "results.json"
    assert example["main"](str(model), str(videos), str(out), "shorter-centercrop") == 1
    check(out, videos, model, "shorter_centercrop")
    with pytest.raises(MusiqError, match="There is no mode 'best'; there are longer, shorter, shorter-centercrop"):
        example["main"](str(model), str(videos), str(out), "best")
    with pytest.raises(MusiqError, match=f"Cannot write {tmp_path}: it is a folder"):
        example["main"](str(model), str(videos), str(tmp_path))
