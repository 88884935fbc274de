"""`musiq-export --format triton`: a model repository that Triton's own schema and its backends' rules agree with."""

from __future__ import annotations

import dataclasses
import os
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
import tritonclient.grpc as triton
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

import musiq
from musiq import artifact
from musiq.errors import MusiqError
from musiq.model import checkpoint
from musiq.runtimes import cuda
from musiq.runtimes.registry import open_runtime
from musiq_export import exporter, formats, request
from musiq_export.builders import tensorrt
from musiq_export.request import BatchRange, Request
from musiq_export.triton import LARGEST_BATCH, QUEUE_DELAY_US, config
from tests.exporting import run
from tests.fake_triton import check_fits, read_config, serving
from tests.recipe import lively_model, photo

SMALL = ("--height", 64, "--width", 96)
FILES = ["1/model.onnx", "1/model.onnx.json", "config.pbtxt"]


def exported(source: Path, out: Path, *arguments: object) -> Path:
    result = run("--checkpoint", source, "--format", "triton", *SMALL, "--out", out, "--name", "m", *arguments)
    assert result.exit_code == 0, result.output
    assert f"tritonserver --model-repository={out}" in result.output
    return out / "m"


def inside(folder: Path) -> list[str]:
    return sorted(str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file())


def session_of(folder: Path) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(str(folder / "1" / "model.onnx"), providers=["CPUExecutionProvider"])


@pytest.fixture(scope="module")
def five_shares(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint whose model predicts the shares of five ratings."""
    path = tmp_path_factory.mktemp("checkpoint") / "five.safetensors"
    checkpoint.save(lively_model("tiny", outputs=5, layers=1), path)
    return path


@pytest.fixture(scope="module")
def repository(five_shares: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exported(five_shares, tmp_path_factory.mktemp("repository")).parent


def test_the_configuration_says_what_tritons_schema_has_for_it_and_fits_the_model(repository: Path) -> None:
    folder = repository / "m"
    assert inside(folder) == FILES
    config = read_config(folder)
    check_fits(config, session_of(folder))
    assert (config.platform, config.backend) == ("onnxruntime_onnx", "onnxruntime")
    assert (config.default_model_filename, config.max_batch_size) == ("model.onnx", LARGEST_BATCH)
    (image,), (score, shares) = config.input, config.output
    assert (image.name, image.data_type, list(image.dims)) == ("image", model_config_pb2.TYPE_UINT8, [64, 96, 3])
    assert (score.name, score.data_type, list(score.dims)) == ("score", model_config_pb2.TYPE_FP32, [1])
    assert score.HasField("reshape")
    assert list(score.reshape.shape) == []
    assert (shares.name, shares.data_type, list(shares.dims)) == ("shares", model_config_pb2.TYPE_FP32, [5])
    assert not shares.HasField("reshape")
    assert config.dynamic_batching.max_queue_delay_microseconds == QUEUE_DELAY_US
    assert list(config.dynamic_batching.preferred_batch_size) == []
    (group,) = config.instance_group
    assert (group.count, group.kind) == (1, model_config_pb2.ModelInstanceGroup.KIND_AUTO)
    (accelerator,) = config.optimization.execution_accelerators.gpu_execution_accelerator
    assert (accelerator.name, dict(accelerator.parameters)) == ("cuda", {"use_tf32": "0"})


def test_the_model_inside_was_checked_has_its_record_and_scores_without_triton(
    repository: Path, five_shares: Path
) -> None:
    path = repository / "m" / "1" / "model.onnx"
    record = artifact.read_record(path)
    assert record is not None
    assert record.check is not None
    assert (record.format, record.check.passed, record.unverified) == ("triton", True, "")
    image = photo(64, 96, 1)
    with musiq.load(path) as scorer:
        found = scorer.score(image)
    model = checkpoint.load(five_shares, 64, 96)
    with torch.inference_mode():
        np.testing.assert_allclose(found, model.predict(torch.from_numpy(image[None]))[0].numpy()[0], atol=2e-5)
    assert "| m/1/model.onnx | triton | fp32 |" in run("--table", repository).output


def test_any_height_and_width_is_minus_one_in_the_configuration() -> None:
    model = lively_model("tiny", height=None, width=None, layers=1, outputs=5)
    for batch, dims in (((1, 0), [-1, -1, 3]), ((4, 4), [4, -1, -1, 3])):
        record = artifact.Record(spec=model.spec, format="triton", precision="fp32", sha256="", batch=batch)
        text = config("m", "model.onnx", Request(model, batch=BatchRange(*batch)), record)
        (image,) = text_format.Parse(text, model_config_pb2.ModelConfig()).input
        assert (image.name, image.data_type, list(image.dims)) == ("image", model_config_pb2.TYPE_UINT8, dims)


def test_a_client_gets_scores_and_shares_of_one_image_and_of_a_batch(repository: Path) -> None:
    images = np.stack([photo(64, 96, seed) for seed in range(LARGEST_BATCH + 1)])
    local = open_runtime(repository / "m" / "1" / "model.onnx", "cpu").run(images)
    with serving(repository) as (_, address), triton.InferenceServerClient(address) as client:
        for n in (1, 3, LARGEST_BATCH):
            tensor = triton.InferInput("image", [n, 64, 96, 3], "UINT8")
            tensor.set_data_from_numpy(images[:n])
            answer = client.infer("m", [tensor])
            np.testing.assert_allclose(answer.as_numpy("score"), local["score"][:n, None], atol=2e-5)
            np.testing.assert_allclose(answer.as_numpy("shares"), local["shares"][:n], atol=2e-5)
        tensor = triton.InferInput("image", list(images.shape), "UINT8")
        tensor.set_data_from_numpy(images)
        with pytest.raises(triton.InferenceServerException, match="unexpected shape"):
            client.infer("m", [tensor])


def test_the_largest_batch_is_the_users(tiny_checkpoint: Path, tmp_path: Path) -> None:
    folder = exported(tiny_checkpoint, tmp_path, "--batch", "1..64")
    config = read_config(folder)
    check_fits(config, session_of(folder))
    assert config.max_batch_size == 64
    assert [output.name for output in config.output] == ["score"]


def test_a_fixed_batch_is_part_of_the_shapes_and_nobody_batches(tiny_checkpoint: Path, tmp_path: Path) -> None:
    folder = exported(tiny_checkpoint, tmp_path, "--batch", 4)
    config = read_config(folder)
    check_fits(config, session_of(folder))
    assert config.max_batch_size == 0
    assert not config.HasField("dynamic_batching")
    assert (list(config.input[0].dims), list(config.output[0].dims)) == ([4, 64, 96, 3], [4])


def test_scales_as_inputs_are_named_and_typed_as_in_the_model(tiny_checkpoint: Path, tmp_path: Path) -> None:
    folder = exported(tiny_checkpoint, tmp_path, "--inputs", "pyramid", "--precision", "fp16")
    config = read_config(folder)
    assert len(config.input) == 3
    check_fits(config, session_of(folder))


def test_patches_as_inputs_are_named_and_typed_as_in_the_model(small_checkpoint: Path, tmp_path: Path) -> None:
    asked = ("--checkpoint", small_checkpoint, "--format", "triton", "--inputs", "patches", "--padded")
    assert run(*asked, "--out", tmp_path, "--name", "m").exit_code == 0
    folder = tmp_path / "m"
    config = read_config(folder)
    assert [(put.name, list(put.dims)) for put in config.input] == [
        ("patches", [-1, 3, 32, 32]),
        ("positions", [-1]),
        ("scales", [-1]),
        ("lengths", [1]),  # reshaped to nothing, as a score is
    ]
    check_fits(config, session_of(folder))


def test_batches_that_start_above_one_are_refused_before_any_work(tiny_checkpoint: Path, tmp_path: Path) -> None:
    result = run("--checkpoint", tiny_checkpoint, "--format", "triton", "--batch", "2..8", "--out", tmp_path / "out")
    assert result.exit_code == 1
    assert "Triton makes batches from one image on, not from 2: use --batch 1..8, or one size" in result.output
    assert not (tmp_path / "out").exists()


def test_a_model_that_disagrees_leaves_no_folder_and_an_earlier_one_as_it_was(
    tiny_checkpoint: Path, repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = exporter.reference_scores
    monkeypatch.setattr(exporter, "reference_scores", lambda *given: honest(*given) + 0.5)
    before = {name: (repository / "m" / name).read_bytes() for name in FILES}
    for out in (tmp_path, repository):
        arguments = ("--checkpoint", tiny_checkpoint, "--format", "triton", *SMALL, "--out", out, "--name", "m")
        result = run(*arguments)
        assert result.exit_code == 1
        assert "does not score like tiny.safetensors" in result.output
    assert list(tmp_path.iterdir()) == []
    assert [path.name for path in repository.iterdir()] == ["m"]
    assert {name: (repository / "m" / name).read_bytes() for name in FILES} == before


def test_an_earlier_export_is_replaced_but_nothing_else_is(tiny_checkpoint: Path, tmp_path: Path) -> None:
    folder = exported(tiny_checkpoint, tmp_path)
    (folder / "config.pbtxt").write_text("edited")
    assert read_config(exported(tiny_checkpoint, tmp_path)).max_batch_size == LARGEST_BATCH
    (folder / "2").mkdir()
    (folder / "2" / "model.onnx").write_bytes(b"the next version")
    arguments = ("--checkpoint", tiny_checkpoint, "--format", "triton", *SMALL, "--out", tmp_path, "--name", "m")
    refused = run(*arguments)
    assert refused.exit_code == 1
    assert f"holds more than an earlier export ({folder}/2/model.onnx), so it is not replaced" in refused.output
    assert inside(folder) == [*FILES[:2], "2/model.onnx", FILES[2]]
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


def test_an_earlier_export_stays_where_the_new_one_cannot_take_its_place(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = exported(tiny_checkpoint, tmp_path)
    (folder / "config.pbtxt").write_text("edited")
    rename, tried = os.replace, []

    def fails_once(source: Path, goal: Path) -> None:
        if goal == folder and not tried:
            tried.append(source)
            raise OSError(28, "No space left on device")
        rename(source, goal)

    monkeypatch.setattr(os, "replace", fails_once)
    arguments = ("--checkpoint", tiny_checkpoint, "--format", "triton", *SMALL, "--out", tmp_path, "--name", "m")
    result = run(*arguments)
    assert result.exit_code == 1
    assert f"Cannot write {folder}: No space left on device" in result.output
    assert len(tried) == 1
    assert (folder / "config.pbtxt").read_text() == "edited"
    assert inside(folder) == FILES
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


def test_an_engines_repository_prefers_the_sizes_it_was_built_for(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not find_spec("tensorrt_rtx"):
        pytest.skip("tensorrt-rtx is not installed, which stands in for tensorrt: it builds without a GPU")
    import tensorrt_rtx

    monkeypatch.setitem(sys.modules, "tensorrt", tensorrt_rtx)
    monkeypatch.setattr(cuda, "why_no_gpu", lambda: "")
    monkeypatch.setattr(cuda, "find", lambda _: cuda.Gpu(0, "Fake H100", 90))
    monkeypatch.setattr(tensorrt, "why_unverified", lambda *_: "the GPU is made up")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with pytest.warns(DeprecationWarning, match="no-ops"):  # in TensorRT for RTX; `tensorrt` means them
        result = run(
            *("--checkpoint", tiny_checkpoint, "--format", "triton-trt", "--precision", "fp16", *SMALL),
            *("--out", tmp_path / "out", "--name", "m", "--batch", "1..16", "--batch-opt", 4),
        )
    assert result.exit_code == 0, result.output
    assert "unverified: the GPU is made up" in result.output
    folder = tmp_path / "out" / "m"
    assert inside(folder) == ["1/model.engine", "1/model.engine.json", "config.pbtxt"]
    assert (folder / "1" / "model.engine").read_bytes()[:4] == b"vtrt"
    config = read_config(folder)
    assert (config.platform, config.backend) == ("tensorrt_plan", "tensorrt")
    assert (config.default_model_filename, config.max_batch_size) == ("model.engine", 16)
    assert list(config.dynamic_batching.preferred_batch_size) == [4, 16]
    assert config.instance_group[0].kind == model_config_pb2.ModelInstanceGroup.KIND_GPU
    assert not config.HasField("optimization")
    assert (list(config.input[0].dims), list(config.output[0].dims)) == ([64, 96, 3], [1])


def test_all_formats_are_the_files_and_no_repository_unless_asked(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[str] = []

    def note(format: request.Format, *_: object) -> None:
        made.append(format.name)
        raise MusiqError("enough")

    monkeypatch.setattr("musiq_export.cli.export", note)
    monkeypatch.setattr("musiq_export.cli.export_repository", note)
    run("--checkpoint", tiny_checkpoint, "--format", "all", *SMALL, "--out", tmp_path)
    assert "onnx" in made
    assert "triton" not in made
    made.clear()
    run("--checkpoint", tiny_checkpoint, "--format", "all", "--format", "triton", *SMALL, "--out", tmp_path)
    assert {"onnx", "triton"} <= set(made)


def test_without_a_gpu_the_engines_repository_says_what_to_do() -> None:
    if not (reason := cuda.why_no_gpu()):
        pytest.skip("this machine has a GPU")
    request = Request(lively_model("tiny"), batch=BatchRange(1, 8, 8))
    with pytest.raises(MusiqError, match="trt builds for the GPU in the machine") as caught:
        formats.check_possible(formats.find("triton-tensorrt"), request)
    assert reason in str(caught.value)
    with pytest.raises(MusiqError, match="batches from one image on"):
        formats.check_possible(formats.find("triton"), dataclasses.replace(request, batch=BatchRange(2, 0, 8)))


@pytest.mark.gpu
def test_an_engine_in_a_repository_is_checked_on_this_gpu(tiny_checkpoint: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorrt", reason="tensorrt is not installed")
    result = run(
        *("--checkpoint", tiny_checkpoint, "--format", "triton-trt", *SMALL, "--out", tmp_path, "--name", "m"),
    )
    assert result.exit_code == 0, result.output
    record: Any = artifact.read_record(tmp_path / "m" / "1" / "model.engine")
    assert record.check.passed
    assert read_config(tmp_path / "m").max_batch_size == record.batch[1]
