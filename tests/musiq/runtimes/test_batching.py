"""Batches of any size on artifacts of other inputs and of fixed batches."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from musiq.presets import PRESETS
from musiq.runtimes.batching import Feed
from musiq.runtimes.registry import open_runtime
from tests.musiq.runtimes.conftest import FORMATS
from tests.recipe import photo


@pytest.mark.slow
@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("options", [("--inputs", "pyramid"), ("--batch", "2"), ("--batch", "2..3")], ids="-".join)
def test_other_inputs_and_fixed_batches_score_any_number_of_images_alike(
    artifacts: Callable[..., Path], tiny_checkpoint: Path, format: str, options: tuple[str, str]
) -> None:
    images = np.stack([photo(192, 256, seed) for seed in range(5)])
    expected = open_runtime(tiny_checkpoint, "cpu")(images)
    runtime = open_runtime(artifacts(format, *options), "cpu")
    for n in (1, 2, 5):
        np.testing.assert_allclose(runtime(images[:n]), expected[:n], atol=2e-5)


@pytest.mark.parametrize(
    ("size", "threads", "allowed", "expected"),
    [
        ((192, 256), 2, (1, 0), 8),
        ((384, 512), 2, (1, 0), 2),
        ((768, 1024), 2, (1, 0), 1),
        ((768, 1024), 16, (1, 0), 5),
        ((768, 1024), 64, (1, 0), 8),
        ((768, 1024), None, (1, 0), 8),  # a GPU
        ((768, 1024), 2, (4, 4), 4),  # a file of one batch size computes all of it for one image too
        ((192, 256), 2, (1, 3), 3),
        ((192, 256), None, (32, 32), 32),
    ],
)
def test_by_default_a_call_gets_as_many_images_as_keep_it_busy_and_the_file_allows(
    size: tuple[int, int], threads: int | None, allowed: tuple[int, int], expected: int
) -> None:
    spec = dataclasses.replace(PRESETS["tiny"], height=size[0], width=size[1])
    assert Feed(spec, "image", *allowed).default_batch(threads) == expected


def test_calls_at_once_share_the_default_batch_unless_the_file_takes_one_size_alone() -> None:
    spec = dataclasses.replace(PRESETS["tiny"], height=192, width=256)
    assert [Feed(spec).default_batch(16, calls) for calls in (1, 4, 16)] == [8, 2, 1]
    assert Feed(spec, "image", 8, 8).default_batch(16, calls=4) == 8
