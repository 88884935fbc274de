"""Images on which fp32 itself is uncertain do not decide an export; images on which the artifact is wrong do."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from musiq import artifact
from musiq.model import checkpoint
from musiq.runtimes.registry import open_runtime
from musiq_export import exporter
from musiq_export.check.compare import compare
from musiq_export.check.float64 import find_uncertain, reference_scores
from musiq_export.check.images import generated
from musiq_export.cli import main
from musiq_export.graph.simplify import simplify
from musiq_export.request import LIMITS
from tests.recipe import lively_model, photo


class Cancelling(torch.nn.Module):
    """The mean of an image, with `offset` added and taken away again: in fp32 that loses the digits below its last."""

    def __init__(self, offset: float) -> None:
        super().__init__()
        self.register_buffer("offset", torch.tensor(offset))

    def predict(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        mean = images.to(self.offset.dtype).mean(dim=(1, 2, 3))
        # Dark images alone meet the cancellation.
        offset = torch.where(mean < 10, self.offset, 0)
        return ((mean + offset) - offset,)


DARK = 3


def photos() -> Any:
    """Forty images of one grey each, the fourth of them dark."""
    levels = np.linspace(20, 250, 40).astype(np.uint8)
    levels[DARK] = 4
    images = np.repeat(levels, 8 * 8 * 3).reshape(40, 8, 8, 3)
    images[:, 0, 0] += 1  # so that no mean is a whole number
    return images


def scored(model: torch.nn.Module, images: Any, dtype: Any = np.float32) -> Any:
    return np.array([model.predict(torch.from_numpy(image[None]))[0].item() for image in images], dtype)


def aside(found: Any, models: Sequence[torch.nn.Module] = (Cancelling(1e8), Cancelling(3e7))) -> list[int]:
    images = photos()
    return np.flatnonzero(find_uncertain(models, images, found, scored(models[0], images), 1e-3)).tolist()


def test_an_image_that_fp32_cannot_score_is_set_aside() -> None:
    exact = scored(Cancelling(0.0), photos())
    assert abs(scored(Cancelling(1e8), photos())[DARK] - exact[DARK]) > 1
    assert aside(exact) == [DARK]


def test_an_image_that_is_further_off_than_rounding_explains_decides() -> None:
    found = scored(Cancelling(0.0), photos())
    found[DARK] += 100
    assert aside(found) == []


def test_a_wrong_score_where_fp32_is_sure_decides_beside_an_uncertain_one() -> None:
    found = scored(Cancelling(0.0), photos())
    found[7] += 0.1
    assert aside(found) == [DARK]
    reference = scored(Cancelling(1e8), photos())
    spec = lively_model("tiny").spec
    of_all = [np.arange(len(found)) == DARK]
    assert not compare(found, reference, spec, LIMITS["fp32"], "test", "made", *of_all).passed
    found[7] -= 0.1
    check = compare(found, reference, spec, LIMITS["fp32"], "test", "made", *of_all)
    assert check.uncertain == 1
    assert check.max_difference > 1 > check.decisive_difference


def test_many_differences_are_the_artifacts() -> None:
    found = scored(Cancelling(0.0), photos())
    found[10:20] += 0.01
    assert aside(found) == []


def test_images_of_several_sizes_are_set_aside_alike() -> None:
    sizes = [image if index % 2 else image[:4] for index, image in enumerate(photos())]
    model, exact = Cancelling(1e8), scored(Cancelling(0.0), sizes)
    uncertain = find_uncertain([model, Cancelling(3e7)], sizes, exact, scored(model, sizes), 1e-3)
    assert np.flatnonzero(uncertain).tolist() == [DARK]


def test_a_model_of_any_size_is_its_own_judge_in_float64() -> None:
    model = lively_model("tiny", height=None, width=None, layers=1)
    images = [photo(40, 50, 0), photo(70, 33, 1), photo(20, 25, 2)]
    reference = reference_scores(model, images)
    wrong = reference + np.float32(0.01) * (np.arange(3) == 1).astype(np.float32)
    assert not find_uncertain([model, simplify(model)], images, wrong, reference, 1e-3).any()
    exact = reference_scores(copy.deepcopy(model).double(), images)
    np.testing.assert_allclose(reference, exact, atol=1e-5)


def test_nan_is_never_set_aside() -> None:
    found = scored(Cancelling(0.0), photos())
    found[DARK] = np.nan
    assert aside(found) == []


@pytest.mark.slow
def test_an_export_tells_what_it_set_aside(
    small_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = exporter.reference_scores

    def worse(model: Any, images: Any) -> Any:
        """As if PyTorch's fp32 were off on the first image."""
        scores = honest(model, images)
        scores[0] += 0.5
        return scores

    monkeypatch.setattr(exporter, "reference_scores", worse)
    arguments = [
        "--checkpoint",
        str(small_checkpoint),
        "--out",
        str(tmp_path),
        "--name",
        "t",
        "--format",
        "torchscript",
        "--min-srcc",
        "0",
    ]
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 0, done.output
    assert "but 0.5 among 1 of the images" in done.output
    record = artifact.read_record(tmp_path / "t.torchscript")
    assert record is not None
    assert record.check is not None
    assert (record.check.uncertain, round(record.check.max_difference, 3)) == (1, 0.5)
    model, image = checkpoint.load(small_checkpoint), generated(64, 96)[:1]
    with torch.inference_mode():
        exact = model.double().predict(torch.from_numpy(image))[0].item()
    assert open_runtime(tmp_path / "t.torchscript")(image)[0] == pytest.approx(exact, abs=1e-4)
