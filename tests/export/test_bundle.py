"""The files of the box, and their scores those of the checkpoint that they are made from."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from musiq import bundled
from musiq.artifact import read_record
from musiq.model import checkpoint as checkpoints
from musiq.runtimes.registry import open_runtime
from musiq_export.bundle import main
from tests.recipe import lively_model, photo
from tests.score_samples import saved

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained `tiny`, as far as a file can tell: of a fixed size, with a score range and notes."""
    model = lively_model("tiny", score_range=(0.0, 100.0), score_shift=50.0, score_scale=20.0)
    path = tmp_path_factory.mktemp("run") / "best.safetensors"
    checkpoints.save(model, path, {"epoch": 3})
    return path


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for seed, (height, width) in enumerate([(96, 128), (200, 150), (33, 47)]):
        (folder / f"{seed}.png").write_bytes(saved(photo(height, width, seed), "png"))
    return folder


@pytest.fixture(scope="module")
def made(checkpoint: Path, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the box."""
    out = tmp_path_factory.mktemp("box")
    done = CliRunner().invoke(
        main, ["--checkpoint", str(checkpoint), "--resize", "longer=160", "--images", str(photos), "--out", str(out)]
    )
    assert done.exit_code == 0, done.output
    return out


def test_the_box_holds_a_checkpoint_and_a_file_for_any_size(made: Path) -> None:
    weights, artifact = made / f"{bundled.NAME}.safetensors", made / f"{bundled.NAME}.onnx"
    assert sorted(path.name for path in made.iterdir()) == sorted(
        [weights.name, artifact.name, f"{artifact.name}.json"]
    )
    record = read_record(artifact)
    assert record is not None
    assert record.check is not None
    assert record.check.passed
    assert record.checkpoint["name"] == weights.name
    assert (record.precision, record.spec.any_size, record.spec.resize) == ("fp32", True, "longer=160")
    assert checkpoints.load(weights).spec == record.spec
    assert checkpoints.notes(weights) == {"epoch": 3}


def test_both_score_like_the_original(made: Path, checkpoint: Path) -> None:
    original = checkpoints.load(checkpoint, any_size=True)
    stored = checkpoints.load(made / f"{bundled.NAME}.safetensors")
    runtime = open_runtime(made / f"{bundled.NAME}.onnx")
    for seed, (height, width) in enumerate([(120, 160), (70, 50)]):
        image = photo(height, width, 10 + seed)[None]
        with torch.inference_mode():
            wanted, kept = (float(model.predict(torch.from_numpy(image))[0]) for model in (original, stored))
        assert kept == wanted
        assert float(runtime(image)[0]) == pytest.approx(wanted, abs=1e-3)
