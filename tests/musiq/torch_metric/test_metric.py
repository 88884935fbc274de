"""MUSIQ as a metric and loss of PyTorch scores as `musiq.load` does, and its gradients are those of its scores."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import PIL.Image
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

import musiq
from musiq.images.fit import Resize
from musiq.torch_metric import MUSIQ
from musiq.torch_metric.resize import resized_as_files_are, resized_with_gradient
from tests.recipe import photo

Save = Callable[..., Path]
SIZES = [(64, 96), (33, 47), (150, 90)]


def tensor(image: NDArray[np.uint8]) -> Tensor:
    """(1, 3, H, W) in [0, 1]."""
    return torch.from_numpy(image).permute(2, 0, 1)[None] / 255


@pytest.mark.parametrize(
    ("preset", "resize", "changes"),
    [
        ("tiny", None, {}),
        ("tiny", "longer=80", {}),
        ("tiny", None, {"resize": "shorter=48,enlarge"}),
        ("tiny", None, {"height": 64, "width": 96}),
        ("musiq", None, {"outputs": 10}),
        ("musiq-pyiqa", None, {}),
    ],
    ids=str,
)
def test_tensors_and_paths_score_as_the_same_pixels_do_in_musiq_score(
    saved_model: Save, tmp_path: Path, preset: str, resize: str | None, changes: dict[str, Any]
) -> None:
    path, images = saved_model(preset, **changes), [photo(*size, seed) for seed, size in enumerate(SIZES)]
    with musiq.load(path, "cpu", resize=resize) as scorer:
        expected = [scorer.score(image) for image in images]
        policy = scorer.resize
    assert max(expected) - min(expected) > 0.1
    cv2.imwrite(str(tmp_path / "photo.png"), cv2.cvtColor(images[0], cv2.COLOR_RGB2BGR))
    metric = musiq.create_metric(path, "cpu", resize=resize)
    found = metric([*map(tensor, images), tensor(images[1])[0], tmp_path / "photo.png"])
    np.testing.assert_allclose(found, [*expected, expected[1], expected[0]], atol=1e-5)
    assert (found.shape, found.requires_grad, metric.resize, metric.lower_better) == ((5,), False, policy, False)
    np.testing.assert_allclose(metric(tensor(images[0]).repeat(2, 1, 1, 1)), [expected[0]] * 2, atol=1e-5)
    np.testing.assert_allclose(metric(str(tmp_path / "photo.png")), expected[:1], atol=1e-5)


@pytest.mark.parametrize(
    ("preset", "resize", "changes"),
    [("tiny", None, {}), ("tiny", "longer=40", {}), ("tiny", None, {"height": 40, "width": 48}), ("musiq", None, {})],
    ids=str,
)
def test_gradients_are_the_finite_differences_of_the_scores_in_float64(
    saved_model: Save, preset: str, resize: str | None, changes: dict[str, Any]
) -> None:
    metric = musiq.create_metric(saved_model(preset, **changes), "cpu", as_loss=True, resize=resize).double()
    images = torch.cat([tensor(photo(50, 70, seed)) for seed in (1, 2)]).double() * 1.4 - 0.2  # some outside [0, 1]
    images.requires_grad_()
    metric(images).sum().backward()
    gradient = images.grad
    assert gradient is not None
    assert float(gradient.abs().max()) > 0
    for seed in range(5):
        direction = torch.randn(images.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        with torch.no_grad():
            # Steps so short that hardly a ReLU turns on or off in between.
            ahead, behind = (metric(images + step * direction).sum() for step in (1e-8, -1e-8))
        assert float((ahead - behind) / 2e-8) == pytest.approx(float((gradient * direction).sum()), rel=1e-5)
    assert all(parameter.grad is None for parameter in metric.parameters())


@pytest.mark.parametrize(
    "resize", ["longer=40", "shorter=31", "shorter=90,enlarge", "cover", "vbench", "vbench-shorter-centercrop"]
)
def test_resizes_with_a_gradient_are_those_of_files_but_for_rounding(saved_model: Save, resize: str) -> None:
    spec = musiq.create_metric(saved_model(height=40, width=48), "cpu").spec
    for seed, size in enumerate([(64, 96), (97, 43), (20, 30), (700, 561)]):
        image = tensor(photo(*size, seed)) * 255
        exact = resized_as_files_are(image, spec, Resize.parse(resize)).float()
        smooth = resized_with_gradient(image, spec, Resize.parse(resize))
        assert smooth.shape == exact.shape
        assert float((smooth.clamp(0, 255) - exact).abs().max()) < 1.01
        assert float((smooth.clamp(0, 255) - exact).abs().mean()) < 0.3


def test_floats_between_the_255ths_are_scored_as_they_are(saved_model: Save) -> None:
    metric = musiq.create_metric(saved_model(), "cpu")
    image = tensor(photo(64, 96, 0)) * 0.9 + 0.05
    between = metric(image + 0.4 / 255)
    assert abs(float(between - metric(image))) > 1e-4
    assert float(metric(image.double())) == pytest.approx(float(metric(image)), abs=1e-5)


def test_the_score_does_not_depend_on_training_or_autocast_around_it(saved_model: Save) -> None:
    image, metric = tensor(photo(64, 96, 0)), musiq.create_metric(saved_model(), "cpu")
    alone = metric(image)
    around = torch.nn.Sequential(metric).train()
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(around(image), alone)


def test_a_loss_lets_other_values_pass_and_a_metric_those_that_rounding_left_outside(saved_model: Save) -> None:
    image, path = tensor(photo(64, 96, 0)) * 1.6 - 0.3, saved_model()
    loss = musiq.create_metric(path, "cpu", as_loss=True)
    assert float(loss(image)) != float(loss(image.clamp(0, 1)))
    metric = musiq.create_metric(path, "cpu")
    assert float(metric(image.clamp(-0.0009, 1.0009))) == float(metric(image.clamp(0, 1)))


IMAGE = torch.rand(1, 3, 40, 50, generator=torch.Generator().manual_seed(0))
NHWC = IMAGE.permute(0, 2, 3, 1)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (IMAGE * 255, "from .* to 2[0-9.]*; expected .* in .0, 1.: divide values of 0 to 255 by 255"),
        (IMAGE * 2 - 1, "from -[0-9.]* to [0-9.]*; .*: clamp it, or undo its normalisation"),
        (IMAGE - 0.0015, "from -0.00[0-9]* to "),
        (IMAGE.where(IMAGE > 0.01, float("nan")), r"not a number \(NaN\)"),
        (IMAGE.where(IMAGE > 0.01, float("inf")), "to inf"),
        (NHWC, r"shape \(1, 40, 50, 3\); .*: it looks like \(N, H, W, 3\), so give it as images.permute\(0, 3, 1, 2\)"),
        ((IMAGE * 255).byte(), "of torch.uint8; .*: divide values of 0 to 255 by 255"),
        (IMAGE[0], r"shape \(3, 40, 50\); .*: give one image as image\[None\]"),
        (IMAGE[:, :1], "grey becomes RGB"),
        (IMAGE[:, [0, 1, 2, 0]], "transparency"),
        (IMAGE[0, 0], "dimensions"),
        (IMAGE[:0], "nothing in it"),
        (IMAGE[:, :, :0], "nothing in it"),
        ([IMAGE, IMAGE.numpy()], r"Cannot score a numpy.ndarray; .*torch.from_numpy"),
        (IMAGE.numpy(), r"Cannot score a numpy.ndarray; .*torch.from_numpy"),
        (PIL.Image.new("RGB", (8, 8)), "Cannot score a PIL.Image.Image; .*, or the path of a file"),
        (b"\xff\xd8\xff", "Cannot score a builtins.bytes"),
        (None, "Cannot score a builtins.NoneType"),
        ([], "no images to score"),
        (iter([]), "no images to score"),
        ("nowhere.png", "nowhere.png: .*no such file"),
    ],
    ids=lambda value: value[:20] if isinstance(value, str) else "",
)
def test_what_is_no_image_is_refused_in_one_line_that_says_what_to_do(
    saved_model: Save, images: Any, message: str
) -> None:
    with pytest.raises(musiq.MusiqError, match=message) as caught:
        musiq.create_metric(saved_model(), "cpu")(images)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"device": "gpu"}, "There is no device 'gpu'; expected auto, cpu"),
        ({"device": "xpu"}, "The model cannot go to xpu "),
        ({"model": ""}, "Give the path of a checkpoint file"),
        ({"resize": "cover"}, "cover is for models of one size"),
        ({"model": "nowhere.pth"}, "Cannot read the checkpoint nowhere.pth"),
    ],
    ids=str,
)
def test_a_metric_that_cannot_be_made_says_why(saved_model: Save, options: dict[str, Any], message: str) -> None:
    with pytest.raises(musiq.MusiqError, match=message):
        musiq.create_metric(**{"model": saved_model(), **options})


def test_the_class_of_vbench_changes_one_import(saved_model: Save) -> None:
    """As its imaging quality uses it: a module moved to a device, its flag set, called on a frame a time."""
    path = saved_model("musiq-pyiqa")
    model = MUSIQ(pretrained_model_path=str(path))
    model.to(torch.device("cpu"))
    model.training = False
    frames = torch.from_numpy(np.stack([photo(72, 128, seed) for seed in (1, 2)])).permute(0, 3, 1, 2) / 255.0
    with musiq.load(path, "cpu") as scorer:
        expected = [scorer.score(photo(72, 128, seed)) for seed in (1, 2)]
    assert [float(model(frame[None])) for frame in frames] == pytest.approx(expected, abs=1e-5)
    assert model(frames).shape == (2, 1)
