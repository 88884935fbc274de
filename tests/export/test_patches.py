"""`musiq-export --inputs patches`: what it refuses, what it says, and what the check of its files is made on."""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch

from musiq import artifact
from musiq.errors import MusiqError
from musiq.presets import PRESETS
from musiq.runtimes import cuda
from musiq.runtimes.base import RuntimeOptions
from musiq.runtimes.batching import Feed
from musiq.runtimes.pytorch import open_checkpoint
from musiq.runtimes.registry import open_runtime
from musiq_export.formats import check_possible, find
from musiq_export.graph.simplify import simplify
from musiq_export.int8.quantize import quantize
from musiq_export.options import parse_tokens
from musiq_export.request import CalibrationImages, Int8Options, Limits, Request
from tests.exporting import run
from tests.recipe import lively_model, photo


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ("--inputs patches --size 96x64", "for images of any size, not for 96x64 alone. Leave --size out, or --inputs"),
        ("--padded", "--padded is for --inputs patches, not for --inputs image. Leave it out"),
        ("--tokens 16..", "--tokens is for --inputs patches, not for --inputs image"),
        ("--inputs pyramid --padded", "not for --inputs pyramid"),
        ("--inputs patches --tokens 64", "images of exactly so many. Give --padded, which pads all to it, or a range"),
        ("--inputs patches --tokens 1..x", "'1..x' is no number of tokens; expected e.g. 16..4096"),
        ("--inputs patches --tokens 0..9", "is no number of tokens"),
        ("--inputs patches --tokens 9..8", "is no number of tokens"),
        ("--inputs patches --padded --tokens 1", "is no number of tokens"),
    ],
)
def test_what_makes_no_sense_is_refused_in_a_line_before_any_work(
    arguments: str, reason: str, small_checkpoint: Path, tmp_path: Path
) -> None:
    result = run("--checkpoint", small_checkpoint, *arguments.split(), "--out", tmp_path / "out")
    assert result.exit_code == 1
    assert reason in result.output.splitlines()[-1]
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("text", "padded", "limits"),
    [(None, True, (1, 0)), ("16..", False, (16, 0)), ("16..4096", True, (16, 4096)), ("1024", True, (1024, 1024))],
)
def test_tokens_are_a_range_or_with_padding_one_number(text: str | None, padded: bool, limits: tuple[int, int]) -> None:
    assert parse_tokens(text, "patches", padded) == limits


def test_patches_are_no_inputs_of_a_trunk_that_sees_whole_scales() -> None:
    model: Any = SimpleNamespace(spec=PRESETS["resnet50"].at_any_size())
    with pytest.raises(MusiqError, match=r"\(musiq, musiq-pyiqa, tiny\), not for resnet50\. Leave it out"):
        check_possible(find("onnx"), Request(model, inputs="patches"))


def test_a_file_with_limits_is_checked_on_images_within_them(small_checkpoint: Path, tmp_path: Path) -> None:
    asked = ("--checkpoint", small_checkpoint, "--inputs", "patches", "--out", tmp_path)
    result = run(*asked, "--padded", "--tokens", "128", "--batch", "2")
    assert result.exit_code == 0, result.output
    path = tmp_path / "tiny-any-padded-patches.onnx"
    assert "images padded to 128 tokens" in result.output
    record = artifact.read_record(path)
    assert record is not None
    assert (record.inputs, record.batch, record.details.tokens) == ("padded-patches", (2, 2), (128, 128))
    assert record.check is not None
    assert record.check.passed
    assert 0 < record.check.images < 25  # some of the generated ones are larger
    images = [photo(64, 96, 1), photo(130, 140, 2), photo(9, 300, 3)]
    expected = open_checkpoint(small_checkpoint, RuntimeOptions("cpu"), any_size=True)
    np.testing.assert_allclose(
        open_runtime(path, "cpu")(images), [expected([image])[0] for image in images], rtol=0, atol=1e-5
    )
    result = run(*asked, "--tokens", "20000..30000", "--name", "huge")
    assert re.search(r"No image can be checked\. An image of .* Export it again with --tokens \d", result.output)
    assert not list(tmp_path.glob("huge*"))


@pytest.mark.skipif(not find_spec("tensorrt_rtx"), reason="tensorrt-rtx is not installed")
@pytest.mark.skipif(not cuda.why_no_gpu(), reason="this machine has a GPU")
def test_an_engine_says_for_how_many_tokens_it_is(small_checkpoint: Path, tmp_path: Path) -> None:
    asked = ("--format", "trt-rtx", "--inputs", "patches", "--precision", "fp16", "--gpus", "86", "--name", "e")
    result = run("--checkpoint", small_checkpoint, *asked, "--out", tmp_path)
    assert result.exit_code == 0, result.output
    assert "e.rtx.engine" in result.output
    assert ", for images of 16 to 4096 tokens, built in" in result.output
    assert "unverified: no NVIDIA driver here" in result.output
    record = artifact.read_record(tmp_path / "e.rtx.engine")
    assert record is not None
    assert record.spec.any_size
    assert (record.details.tokens, record.details.profile) == ((16, 4096), (1, 4, 4))


def test_int8_is_calibrated_on_the_patches_of_images_of_any_size() -> None:
    model = lively_model("tiny", layers=1, height=None, width=None)
    images = [photo(40 + 5 * seed, 120 - 3 * seed, seed) for seed in range(16)]
    int8 = Int8Options(CalibrationImages(tuple(map(str, range(16))), images), Limits(50.0, 0.0))
    graph, details = quantize(Request(simplify(model), "int8", "padded-patches", int8=int8))
    assert details.products > 0
    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    feed = Feed.from_metadata({entry.key: entry.value for entry in graph.metadata_props}, "q.onnx")
    names = [put.name for put in session.get_inputs()]
    found = feed.run(images, lambda arrays: session.run(None, dict(zip(names, arrays, strict=True))))["score"]
    with torch.no_grad():
        expected = np.array([model.predict(torch.from_numpy(image[None]))[0].item() for image in images])
    assert 0 < np.abs(found - expected).max() < 0.2 * np.ptp(expected)
