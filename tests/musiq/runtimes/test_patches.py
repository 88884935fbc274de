"""Files that take images cut into patches: any size, alone and in mixtures, as the model in PyTorch scores them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import pytest
import torch
from click.testing import CliRunner

import musiq
from musiq.cli import main
from musiq.errors import MusiqError
from musiq.presets import PRESETS
from musiq.runtimes.batching import PADDED_PATCHES, PATCHES, Feed
from musiq.runtimes.registry import open_runtime
from tests.recipe import photo

SIZES = [(64, 96), (33, 47), (96, 64), (1, 1), (100, 10), (130, 200), (20, 25)]
IMAGES = [photo(*size, seed) for seed, size in enumerate(SIZES)]
SPEC = PRESETS["tiny"].at_any_size()
TOKENS = [SPEC.at(*size).tokens for size in SIZES]


@pytest.fixture(scope="module")
def expected(patch_model: Any) -> np.ndarray:
    """The oracle: the model for any size in PyTorch, with its pyramid in the graph, one image at a time."""
    with torch.no_grad():
        return np.array([patch_model.predict(torch.from_numpy(image[None]))[0].item() for image in IMAGES])


@pytest.mark.parametrize("format", ["onnx", "openvino", "pt2", "torchscript"])
def test_an_image_scores_the_same_alone_and_in_any_mixture(
    patch_file: Callable[..., Path], expected: np.ndarray, format: str
) -> None:
    runtime = open_runtime(patch_file(format, PADDED_PATCHES), "cpu")
    assert runtime.call_shares == "nothing"
    np.testing.assert_allclose([runtime([image])[0] for image in IMAGES], expected, rtol=0, atol=1e-5)
    draw = np.random.default_rng(0)
    for _ in range(10):
        chosen = draw.choice(len(IMAGES), draw.integers(2, 6))
        np.testing.assert_allclose(runtime([IMAGES[i] for i in chosen]), expected[chosen], rtol=0, atol=1e-5)


@pytest.mark.parametrize("format", ["onnx", "openvino", "pt2"])
def test_without_padding_images_of_as_many_tokens_share_a_call(
    patch_file: Callable[..., Path], expected: np.ndarray, format: str
) -> None:
    runtime = open_runtime(patch_file(format, PATCHES), "cpu")
    assert runtime.call_shares == "tokens"
    np.testing.assert_allclose([runtime([image])[0] for image in IMAGES], expected, rtol=0, atol=1e-5)
    assert TOKENS[0] == TOKENS[2]  # 64x96 and 96x64
    np.testing.assert_allclose(runtime([IMAGES[0], IMAGES[2]]), expected[[0, 2]], rtol=0, atol=1e-5)
    with pytest.raises(MusiqError, match=rf"{TOKENS[4]} to {TOKENS[0]} tokens; .* or export with --padded"):
        runtime([IMAGES[0], IMAGES[4]])


def test_images_padded_to_one_number_of_tokens_have_one_shape_and_larger_ones_a_reason(
    patch_file: Callable[..., Path], expected: np.ndarray
) -> None:
    most = max(TOKENS[:5])
    path = patch_file("onnx", PADDED_PATCHES, (most, most), 2)
    shapes = [[size.dim_value for size in put.type.tensor_type.shape.dim] for put in onnx.load(path).graph.input]
    assert shapes == [[2, most - 1, 3, 32, 32], [2, most - 1], [2, most - 1], [2]]
    runtime = open_runtime(path, "cpu")
    np.testing.assert_allclose(runtime(IMAGES[:5]), expected[:5], rtol=0, atol=1e-5)
    with pytest.raises(MusiqError) as refused:
        runtime(IMAGES[4:6])
    assert str(refused.value) == (
        f"An image of 200x130 has {TOKENS[5]} tokens; this file was exported for {most} at most. Export it again with "
        f"--tokens {TOKENS[5]}, or make the image smaller (--resize longer=N)."
    )


def test_a_path_is_scored_like_with_any_other_file_and_an_image_too_large_costs_no_other(
    patch_file: Callable[..., Path], expected: np.ndarray, tmp_path: Path
) -> None:
    for index, image in enumerate(IMAGES):
        cv2.imwrite(str(tmp_path / f"{index}.png"), image[..., ::-1])
    with musiq.load(patch_file("onnx", PATCHES), "cpu") as scorer:
        assert scorer.score(tmp_path / "5.png") == pytest.approx(expected[5], abs=1e-5)
    limited = patch_file("onnx", PADDED_PATCHES, (max(TOKENS[:5]),) * 2, 2)
    result = CliRunner().invoke(main, [str(tmp_path), "--model", str(limited), "--device", "cpu"])
    rows = [line.split(",", 2) for line in result.stdout.splitlines()[1:]]
    assert [bool(row[1]) for row in rows] == [True] * 5 + [False, True]
    found = np.array([row[1] for row in rows])[[0, 1, 2, 3, 4, 6]].astype(float)
    np.testing.assert_allclose(found, expected[[0, 1, 2, 3, 4, 6]], rtol=0, atol=1e-5)
    assert f"has {TOKENS[5]} tokens" in rows[5][2]


@pytest.mark.parametrize(
    ("inputs", "limits", "size", "wanted"),
    [
        (PATCHES, (16, 64), (1, 100), "--tokens 12..64."),
        (PATCHES, (16, 64), (200, 200), "--tokens 16..75, or make the image smaller"),
        (PATCHES, (16, 0), (1, 100), "exported for 16 or more. Export it again with --tokens 12..."),
        (PADDED_PATCHES, (64, 64), (200, 200), "exported for 64 at most. Export it again with --tokens 75, or"),
        (PADDED_PATCHES, (16, 64), (1, 100), ""),  # which is padded to 16
        (PATCHES, (1, 0), (3000, 4000), ""),
        ("image", (1, 0), (3000, 4000), ""),
    ],
)
def test_limits_of_tokens_are_said_with_what_to_ask_for(
    inputs: str, limits: tuple[int, int], size: tuple[int, int], wanted: str
) -> None:
    reason = Feed(SPEC, inputs, tokens=limits).why_not(*size)
    assert wanted in reason
    assert bool(reason) == bool(wanted)


def test_a_file_of_patches_says_its_limits_inside() -> None:
    feed = Feed(SPEC, PADDED_PATCHES, 2, 8, (16, 4096))
    metadata = feed.metadata("fp16")
    assert metadata["musiq.tokens"] == "16..4096"
    assert Feed.from_metadata(metadata, "x.onnx") == feed
    plain = dataclasses.replace(feed, inputs="image", tokens=(1, 0))
    assert "musiq.tokens" not in plain.metadata("fp16")  # older versions read it as they did
