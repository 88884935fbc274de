"""The size of an artifact: what is asked, what a preset is meant for, what a format can; and artifacts for any size."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import Result

from musiq import artifact
from musiq.artifact import Record
from musiq.errors import MusiqError
from musiq.model import checkpoint
from musiq.presets import PRESETS
from musiq.runtimes.registry import open_runtime
from musiq.spec import Spec
from musiq_export import exporter, formats
from musiq_export.check import images
from musiq_export.check.images import LARGEST, OF_EACH_SIZE, SIZES
from musiq_export.formats import FORMATS
from musiq_export.graph.simplify import gflop, simplify
from musiq_export.graph.sized import sized
from musiq_export.request import LIMITS, Request
from musiq_export.sizes import Size, size_line, spec_for
from tests.export.conftest import FILES, smaller_images
from tests.exporting import run
from tests.recipe import lively_model, photo

OTHER_SIZES = ((70, 111), (1, 1), (131, 47), (20, 25), (33, 500), (400, 300), (128, 128))


def made(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> tuple[dict[str, str], str]:
    """By the name of each format, the file that a command would make; and what it prints."""
    found: dict[str, str] = {}

    def note(format: Any, request: Any, reference: Any, limits: Any, path: Path, say: Any) -> None:
        assert request.model.spec == reference.model.spec
        sizes = {image.shape[:2] for image in reference.images}
        assert len(sizes) > 8 if request.model.spec.any_size else sizes == {request.model.spec.fixed_size}
        found[format.name] = path.name
        raise MusiqError("enough")

    monkeypatch.setattr("musiq_export.cli.export", note)
    monkeypatch.setattr("musiq_export.cli.export_repository", note)
    monkeypatch.setattr(formats, "check_trt", lambda request: None)
    return found, run(*arguments).output


@pytest.mark.parametrize(
    "text",
    ["", "1024", "1024x", "x768", "1024x768x3", "31x64", "65536x64", "-64x64", "64.5x64", "Any", "10²x64", "1e3x64"],
)
def test_what_is_no_size_is_one_line_that_says_what_is(text: str, tmp_path: Path) -> None:
    result = run("--size", text, "--checkpoint", tmp_path / "none.safetensors", "--out", tmp_path / "out")
    expected = "expected any, or WIDTHxHEIGHT such as 1024x768, of 32 to 65535 pixels a side."
    assert (result.exit_code, result.output) == (1, f"Error: --size {text!r} is no size; {expected}\n")


@pytest.mark.parametrize("size", ["any", "96x64"])
def test_a_size_given_twice_is_refused(size: str, tmp_path: Path) -> None:
    result = run("--size", size, "--height", 64, "--checkpoint", tmp_path / "none.safetensors")
    assert (result.exit_code, len(result.output.splitlines())) == (1, 1)
    assert "Leave out --height and --width, or --size." in result.output


def test_a_size_is_width_by_height_as_the_sides_alone_are() -> None:
    assert Size.parse("1024x768") == Size.parse(None, 768, 1024) == Size(height=768, width=1024)
    assert not Size.parse(None).is_given
    assert Size.parse("any").is_given


PAPER = PRESETS["musiq"].at_any_size()
ANY, USUAL = "any", "1024x768"


@pytest.mark.parametrize(
    ("spec", "usual", "legacy"),
    [
        (PAPER, ANY, USUAL),  # as the paper's weights come
        (PRESETS["musiq-pyiqa"].at_any_size(), ANY, USUAL),
        (PRESETS["musiq"].at(384, 512), ANY, "512x384"),  # trained by train.py
        (PRESETS["resnet50"], USUAL, USUAL),
        (PRESETS["resnet50-classic"], USUAL, USUAL),
        (PRESETS["tiny"], "256x192", "256x192"),
        (PRESETS["tiny"].at_any_size(), ANY, USUAL),
    ],
)
def test_without_a_size_a_preset_gets_what_it_is_meant_for_where_the_format_can(
    spec: Spec, usual: str, legacy: str
) -> None:
    for name, format in FORMATS.items():
        wanted = usual if name in ("onnx", "openvino", "pt2", "triton") else legacy
        assert spec_for(format, "image", Size(), spec).size_name == wanted, name
        assert spec_for(format, "pyramid", Size(), spec).size_name == legacy, name


def test_formats_of_one_export_get_sizes_of_their_own_and_a_fixed_one_says_that_it_crops(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "m.safetensors"
    checkpoint.save(lively_model("musiq", layers=1, height=64, width=96), path)
    wanted = ("--format", "onnx", "--format", "torchscript", "--format", "triton")
    files, output = made(monkeypatch, "--checkpoint", path, *wanted, "--out", tmp_path)
    assert files == {"onnx": "musiq-any.onnx", "torchscript": "musiq-96x64.torchscript", "triton": "model.onnx"}
    assert "musiq, any size (1024x768: 919 tokens, " in output
    (line,) = [line for line in output.splitlines() if "cropped" in line]
    assert line.startswith(
        "musiq at 96x64: other images will be resized to cover it and cropped; --size any scores each"
    )
    files, output = made(monkeypatch, "--checkpoint", path, *wanted, "--out", tmp_path, "--size", "128x96")
    assert files["onnx"] == "musiq-128x96.onnx"
    assert "musiq at 128x96: other images" in output


def test_a_preset_of_one_size_says_nothing_of_cropping(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files, output = made(monkeypatch, "--checkpoint", tiny_checkpoint, "--format", "onnx", "--out", tmp_path)
    assert files == {"onnx": "tiny-256x192.onnx"}
    assert "cropped" not in output


def test_what_a_format_cannot_do_at_any_size_is_said_before_anything_is_built(
    small_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    any_size = ("--checkpoint", small_checkpoint, "--size", "any", "--out", tmp_path / "out")
    engine = run(*any_size, "--format", "trt-rtx")
    assert engine.exit_code == 1
    assert engine.output.splitlines()[-1].startswith(
        "Error: trt-rtx with --inputs image is for images of one size. Give --size 1024x768, or --inputs patches"
    )
    scales = run(*any_size, "--inputs", "pyramid")
    assert scales.output.splitlines()[-1] == (
        "Error: --inputs pyramid is for images of one size. Leave it out, or give --size 1024x768."
    )
    assert not (tmp_path / "out").exists()
    files, output = made(monkeypatch, *any_size, "--format", "all")
    assert set(files) == set(FILES)
    for name in ("trt", "trt-rtx"):
        assert f"[-] {name} fp32 is left out: {name} with --inputs image is for images of one size." in output


def test_a_preset_whose_arithmetic_knows_one_size_is_refused_for_any(tmp_path: Path) -> None:
    path = tmp_path / "classic.safetensors"
    checkpoint.save(lively_model("resnet50-classic", layers=1), path)
    result = run("--checkpoint", path, "--size", "any", "--out", tmp_path / "out")
    assert result.exit_code == 1
    assert "resnet50-classic has no form for images of any size" in result.output.splitlines()[-1]
    assert "Give --size 1024x768, or take another preset." in result.output
    assert not (tmp_path / "out").exists()


def test_artifacts_for_any_size_are_called_so_and_say_what_they_were_checked_on(
    any_size_export: tuple[Path, Result], small_checkpoint: Path
) -> None:
    out, result = any_size_export
    assert result.output.count("on 25 images (generated)") == len(FILES)
    assert len(SIZES) == 8
    model = simplify(checkpoint.load(small_checkpoint, 768, 1024))
    assert f"tiny, any size (1024x768: {model.spec.tokens} tokens, " in result.output
    for name in FILES:
        path = out / f"tiny-any{FORMATS[name].suffix}"
        record = artifact.read_record(path)
        assert record is not None
        assert record.check is not None
        assert record.spec.any_size
        assert (record.check.passed, record.check.images) == (True, len(SIZES) * OF_EACH_SIZE + 1)
        assert record.details.gflop == round(gflop(model), 4)
        assert json.loads(artifact.record_path(path).read_text())["spec"]["height"] is None


@pytest.mark.parametrize("name", FILES)
def test_one_artifact_scores_images_of_any_size_as_models_for_their_sizes_do(
    name: str, any_size_export: tuple[Path, Result], small_checkpoint: Path
) -> None:
    runtime = open_runtime(any_size_export[0] / f"tiny-any{FORMATS[name].suffix}", "cpu")
    for index, (height, width) in enumerate(OTHER_SIZES):
        pair = np.stack([photo(height, width, seed) for seed in (index, index + 50)])
        with torch.inference_mode():
            expected = checkpoint.load(small_checkpoint, height, width).predict(torch.from_numpy(pair))[0].numpy()
        np.testing.assert_allclose(runtime(pair), expected, atol=2e-5)
        np.testing.assert_allclose(runtime(pair[:1]), expected[:1], atol=2e-5)
    runtime.close()


def test_half_precision_at_any_size_keeps_sizes_and_places_exact(
    small_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Where a CPU has no instructions for them, large images take minutes.
    monkeypatch.setattr(images, "SIZES", OTHER_SIZES)
    monkeypatch.setattr(images, "LARGEST", (1, 700))
    given = ("--checkpoint", small_checkpoint, "--size", "any", "--format", "torchscript", "--tune-for", "gpu")
    result = run(*given, "--precision", "fp16", "--precision", "bf16", "--out", tmp_path)
    assert result.exit_code == 0, result.output
    for precision in ("fp16", "bf16"):
        record = artifact.read_record(tmp_path / f"tiny-any-{precision}.torchscript")
        assert record is not None
        assert record.check is not None
        assert record.check.max_difference > 1e-5  # it is no fp32


def test_a_file_for_any_size_is_verified_as_such(
    any_size_export: tuple[Path, Result], small_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    smaller_images(monkeypatch)
    path = tmp_path / "s.torchscript"
    path.write_bytes((any_size_export[0] / "tiny-any.torchscript").read_bytes())
    record = artifact.read_record(any_size_export[0] / "tiny-any.torchscript")
    assert record is not None
    artifact.write_record(path, replace(record, check=None, unverified="not there"))
    with pytest.warns(UserWarning, match="not there"):
        result = run("--verify", path, "--checkpoint", small_checkpoint)
    assert result.exit_code == 0, result.output
    verified = artifact.read_record(path)
    assert verified is not None
    assert verified.check is not None
    assert (verified.unverified, verified.check.images) == ("", len(SIZES) * OF_EACH_SIZE + 1)


class Wrong:
    """PyTorch itself as a runtime, but for what `spoil` does to the scores of a call: it knows the sizes of this call's
    images and of the last one's."""

    call_shares, provider = "size", "made up"

    def __init__(self, model: Any, spoil: Callable[[list[tuple[int, ...]], tuple[int, ...] | None], bool]) -> None:
        self.model, self.spec, self.spoil = model, model.spec, spoil
        self.last: tuple[int, ...] | None = None

    def __call__(self, images: Sequence[Any]) -> Any:
        shapes = [image.shape for image in images]
        scores = exporter.reference_scores(self.model, images)
        spoilt = self.spoil(shapes, self.last)
        self.last = shapes[0]
        return scores + np.float32(0.5 * spoilt)

    def close(self) -> None:
        pass


@pytest.mark.parametrize(
    ("spoil", "passes"),
    [
        (lambda shapes, last: False, True),
        (lambda shapes, last: last is not None and shapes[0] != last and shapes[0] == (70, 50, 3), False),
        (lambda shapes, last: len(shapes) > 1, False),
        (lambda shapes, last: len(shapes) == 1 and shapes[0] == (20, 25, 3), False),
    ],
    ids=["right", "wrong after another size", "wrong in a batch", "wrong at one size"],
)
def test_a_file_that_is_wrong_in_a_mixture_in_a_batch_or_at_one_size_does_not_pass(
    spoil: Any, passes: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = lively_model("tiny", height=None, width=None, layers=1)
    mixture = [photo(*size, seed) for seed, size in enumerate(((64, 96), (70, 50), (20, 25)) * 2)]
    monkeypatch.setattr(exporter, "open_runtime", lambda path: Wrong(model, spoil))
    record = Record(spec=model.spec, format="onnx", precision="fp32", sha256="")
    reference = exporter.Reference(model, "m", "0", mixture, "made")
    check = exporter.run_check(Path("m.onnx"), record, reference, LIMITS["fp32"], lambda line: None)
    assert (check.passed, check.images) == (passes, 6)


def test_the_reference_at_the_first_size_is_a_model_of_that_size(monkeypatch: pytest.MonkeyPatch) -> None:
    model = lively_model("tiny", height=None, width=None, layers=1)
    model.pyramid.gain *= 1.1  # as if what is made in the graph were wrong
    three = [photo(64, 96, 0), photo(70, 50, 1), photo(64, 96, 2)]
    found = exporter.Reference(model, "m", "0", three, "made").scores
    right = lively_model("tiny", height=64, width=96, layers=1)
    with torch.inference_mode():
        expected = right.predict(torch.from_numpy(np.stack([three[0], three[2]])))[0].numpy()
    np.testing.assert_allclose(found[[0, 2]], expected, atol=2e-5)
    assert np.abs(exporter.reference_scores(model, three[:1]) - expected[:1]).max() > 1e-3


@pytest.mark.parametrize("preset", ["tiny", "musiq"])
def test_a_model_of_another_size_has_the_same_weights_and_arithmetic_of_its_own(preset: str) -> None:
    at_any = lively_model(preset, height=None, width=None, layers=1)
    fixed = lively_model(preset, height=70, width=111, layers=1)
    image = torch.from_numpy(photo(70, 111, 3)[None])
    with torch.inference_mode():
        expected = fixed.predict(image)[0]
        torch.testing.assert_close(sized(at_any, fixed.spec).predict(image)[0], expected, atol=2e-6, rtol=0)
        torch.testing.assert_close(sized(fixed, at_any.spec).predict(image)[0], expected, atol=2e-5, rtol=0)
    assert sized(fixed, fixed.spec) is fixed
    usual = sized(at_any, at_any.spec.at(768, 1024))
    assert gflop(at_any) == gflop(usual)
    assert gflop(simplify(at_any)) == gflop(simplify(usual))
    line = size_line(at_any.spec, gflop(at_any), 1.0)
    assert f"({usual.spec.size_name}: {usual.spec.tokens} tokens, {gflop(usual):.1f} GFLOP, simplified 1.0)" in line


def test_the_largest_image_of_a_check_fills_parts_that_the_usual_size_leaves_empty() -> None:
    from musiq.model.chunking import LEAST_OPEN

    usual, largest = (PAPER.at(*size).tokens for size in ((768, 1024), LARGEST))
    assert usual < LEAST_OPEN < largest


def test_a_request_for_any_size_is_refused_by_a_format_that_has_one() -> None:
    request = Request(lively_model("tiny", height=None, width=None, layers=1))
    for name in ("trt", "trt-rtx", "triton-trt"):
        with pytest.raises(MusiqError, match=f"{name} with --inputs image is for images of one size"):
            formats.check_possible(FORMATS[name], request)
    formats.check_possible(FORMATS["torchscript"], request)
