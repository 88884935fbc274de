"""`musiq-export`: a file that exists is a file that agreed, and says what it is."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import helper

from musiq import artifact, files
from musiq.errors import MusiqError
from musiq.metrics import srcc
from musiq.model import checkpoint
from musiq.runtimes.registry import RUNTIMES, open_runtime
from musiq.spec import Spec
from musiq_export import exporter
from musiq_export.check import images
from musiq_export.check.compare import LIMITS, Limits, compare
from musiq_export.formats import FORMATS, find
from musiq_export.graph.onnx import lower
from tests.exporting import run
from tests.recipe import lively_model, photo


def test_the_onnx_file_scores_like_pytorch_at_every_batch_size(tiny_checkpoint: Path, tiny_onnx: Path) -> None:
    session = onnxruntime.InferenceSession(str(tiny_onnx), providers=["CPUExecutionProvider"])
    model = checkpoint.load(tiny_checkpoint)
    for batch in (1, 2, 5):
        images = np.stack([photo(192, 256, seed) for seed in range(batch)])
        with torch.inference_mode():
            expected = model.predict(torch.from_numpy(images))[0].numpy()
        np.testing.assert_allclose(session.run(["score"], {"image": images})[0], expected, atol=2e-5)


def test_the_onnx_file_is_whole_typed_and_knows_itself_but_not_where_it_was_made(tiny_onnx: Path) -> None:
    model = onnx.load(tiny_onnx)
    onnx.checker.check_model(model, full_check=True)
    assert model.opset_import[0].version == 18
    image = model.graph.input[0]
    assert (image.name, image.type.tensor_type.elem_type) == ("image", onnx.TensorProto.UINT8)
    dims = [dim.dim_param or dim.dim_value for dim in image.type.tensor_type.shape.dim]
    assert dims == ["batch", 192, 256, 3]
    properties = {entry.key: entry.value for entry in model.metadata_props}
    assert Spec.from_json(properties["musiq.spec"]).preset == "tiny"
    raw = tiny_onnx.read_bytes()
    assert b"site-packages" not in raw
    assert str(Path.cwd()).encode() not in raw
    assert not any(node.op_type == "BatchNormalization" for node in model.graph.node)
    assert [path.name for path in tiny_onnx.parent.iterdir() if "part" in path.name] == []


def exported_in(opset: int, precision: str, checkpoint: Path, path: Path) -> onnx.ModelProto:
    """An export by the real command, whose scores were checked against PyTorch's."""
    what = ("--checkpoint", checkpoint, "--opset", opset, "--precision", precision)
    result = run(*what, "--out", path.parent, "--name", path.stem)
    assert result.exit_code == 0, result.output
    return onnx.load(path)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_opset_23_has_one_operator_for_attention_and_the_same_scores(
    precision: str, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    nodes = exported_in(23, precision, tiny_checkpoint, tmp_path / "new.onnx").graph.node
    attention = [node for node in nodes if node.op_type == "Attention"]
    assert attention
    assert [len([name for name in node.output if name]) for node in attention] == [1] * len(attention)
    assert "Softmax" not in {node.op_type for node in nodes}


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_opset_17_gives_a_file_for_older_runtimes_with_the_same_scores(
    precision: str, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    model = exported_in(17, precision, tiny_checkpoint, tmp_path / "old.onnx")
    onnx.checker.check_model(model, full_check=True)
    assert (model.opset_import[0].version, model.ir_version) == (17, 8)
    assert "Pad" in {node.op_type for node in model.graph.node}  # which onnx's own converter cannot lower
    images = np.stack([photo(192, 256, seed) for seed in range(3)])
    session = onnxruntime.InferenceSession(str(tmp_path / "old.onnx"), providers=["CPUExecutionProvider"])
    with torch.inference_mode():
        expected = checkpoint.load(tiny_checkpoint).predict(torch.from_numpy(images))[0].numpy()
    tolerance = {"fp32": 2e-5, "fp16": 5e-3}[precision]
    np.testing.assert_allclose(session.run(["score"], {"image": images})[0], expected, atol=tolerance)


def test_an_operator_that_changed_since_is_not_passed_off_as_the_older_one() -> None:
    axes = helper.make_node("ReduceMean", ["x", "axes"], ["y"])  # an input since opset 18, an attribute before
    x, y = (helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [2, 3]) for name in "xy")
    graph = helper.make_graph(
        [axes], "changed", [x], [y], [helper.make_tensor("axes", onnx.TensorProto.INT64, [1], [1])]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    with pytest.raises(MusiqError, match=r"ReduceMean means something else in opset 17 than in 18"):
        lower(model, 17)


def test_the_record_tells_origin_content_and_check(tiny_checkpoint: Path, tiny_onnx: Path) -> None:
    record = json.loads(artifact.record_path(tiny_onnx).read_text())
    assert record["sha256"] == files.sha256(tiny_onnx)
    assert record["checkpoint"] == {"name": "tiny.safetensors", "sha256": files.sha256(tiny_checkpoint)}
    assert record["layers"]["Conv"] == 2  # the 7x7 and the 3x3; those of 1x1 are products of matrices
    assert record["check"]["passed"] is True
    assert record["check"]["images"] == images.GENERATED
    assert record["check"]["max_difference"] < 1e-4
    assert {"musiq", "torch", "onnx"} <= set(record["versions"])


def test_graphs_at_1024x768_have_well_under_1500_nodes(tmp_path: Path) -> None:
    from musiq_export.builders.onnx import to_onnx
    from musiq_export.graph.simplify import simplify
    from musiq_export.request import Request

    for preset in ("musiq", "resnet50-classic"):
        graph = to_onnx(Request(simplify(lively_model(preset)))).graph
        assert 100 < len(graph.node) < 1000


def test_every_format_and_float_precision_by_one_command_with_that_precision_inside(
    tiny_checkpoint: Path, tmp_path: Path
) -> None:
    formats = ["onnx", "openvino", "torchscript", "pt2"]
    arguments = [part for name in formats for part in ("--format", name)]
    arguments += [part for name in ("fp16", "bf16") for part in ("--precision", name)]
    result = run("--checkpoint", tiny_checkpoint, *arguments, "--out", tmp_path, "--name", "t")
    assert result.exit_code == 0, result.output
    for name in formats:
        for precision, kind in (("fp16", "float16"), ("bf16", "bfloat16")):
            record = artifact.read_record(tmp_path / f"t-{precision}{FORMATS[name].suffix}")
            assert record is not None
            weights = record.details["weights"]
            assert weights[kind] > 0.8 * sum(weights.values()), (name, precision, weights)
            assert record.unverified if (name, precision) == ("onnx", "bf16") else record.check is not None
    table = run("--table", tmp_path).output
    assert len(table.strip().splitlines()) == 2 + 8
    assert "| t-fp16.xml | openvino | fp16 |" in table


def test_an_artifact_of_another_precision_inside_does_not_pass() -> None:
    from musiq_export.check import weight_types

    elements = weight_types.count([("float32", [10, 10]), ("float16", [3]), ("int64", [1000])])
    assert elements == {"float32": 100, "float16": 3}
    with pytest.raises(MusiqError, match="was to be fp16, but of 103 weights only 3 are"):
        weight_types.check(elements, "fp16")


def test_one_format_that_fails_costs_no_other(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise MusiqError("TorchScript is broken today.")

    monkeypatch.setattr("musiq_export.builders.torch.build_torchscript", fail)
    result = run(
        "--checkpoint", tiny_checkpoint, "--format", "ts", "--format", "onnx", "--out", tmp_path, "--name", "t"
    )
    assert result.exit_code == 1
    assert "Error: TorchScript is broken today." in result.output
    assert "1 of 2 artifacts could not be made" in result.output
    assert sorted(path.name for path in tmp_path.iterdir()) == ["t.onnx", "t.onnx.json"]


def test_a_check_can_be_finished_later_with_the_same_checkpoint_only(
    tiny_checkpoint: Path, tiny_onnx: Path, tmp_path: Path
) -> None:
    path = tmp_path / "tiny.onnx"
    path.write_bytes(tiny_onnx.read_bytes())
    record = artifact.read_record(tiny_onnx)
    assert record is not None
    artifact.write_record(path, dataclasses.replace(record, check=None, unverified="no driver there"))
    with pytest.warns(UserWarning, match=r"unverified: no driver there.*musiq-export --verify"):
        open_runtime(path)
    checkpoint.save(lively_model("tiny", outputs=5), tmp_path / "other.safetensors")
    refused = run("--verify", path, "--checkpoint", tmp_path / "other.safetensors")
    assert "is not the checkpoint that tiny.onnx was made from (tiny.safetensors)" in refused.output
    with pytest.warns(UserWarning, match="no driver there"):
        assert run("--verify", path, "--checkpoint", tiny_checkpoint).exit_code == 0
    verified = artifact.read_record(path)
    assert verified is not None
    assert verified.check is not None
    assert (verified.unverified, verified.check.passed) == ("", True)


def test_a_nan_at_either_batch_size_is_not_hidden_by_the_other() -> None:
    reference, fine = np.zeros(4, np.float32), np.full(4, 0.1, np.float32)
    broken = np.array([0.1, np.nan], np.float32)
    assert np.isnan(exporter.worse_of(fine, broken, reference)[1])
    alone = fine.copy()
    alone[1] = np.nan
    assert np.isnan(exporter.worse_of(alone, fine[:2], reference)[1])
    further = exporter.worse_of(fine, np.array([0.3, 0.05], np.float32), reference)
    np.testing.assert_allclose(further, [0.3, 0.1, 0.1, 0.1])


def test_a_record_says_that_a_check_failed_but_not_that_a_machine_could_not_run_it(
    tiny_checkpoint: Path, tiny_onnx: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "tiny.onnx"
    path.write_bytes(tiny_onnx.read_bytes())
    before = artifact.record_path(tiny_onnx).read_text()
    artifact.record_path(path).write_text(before)

    def cannot_open(*_: object) -> None:
        raise MusiqError("no such runtime here")

    with monkeypatch.context() as patch:
        patch.setattr(exporter, "open_runtime", cannot_open)
        assert "no such runtime here" in run("--verify", path, "--checkpoint", tiny_checkpoint).output
    assert artifact.record_path(path).read_text() == before
    honest = exporter.reference_scores
    monkeypatch.setattr(exporter, "reference_scores", lambda *given: honest(*given) + 0.5)
    assert run("--verify", path, "--checkpoint", tiny_checkpoint).exit_code == 1
    record = artifact.read_record(path)
    assert record is not None
    assert record.unverified.startswith("its check failed: tiny.onnx does not score like")


def test_the_check_uses_the_users_own_images(tiny_checkpoint: Path, tmp_path: Path) -> None:
    import cv2

    for seed in range(4):
        cv2.imwrite(str(tmp_path / f"{seed}.png"), photo(200, 300, seed))
    (tmp_path / "broken.jpg").write_bytes(b"no image")
    result = run("--checkpoint", tiny_checkpoint, "--images", tmp_path, "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert "on 4 images" in result.output
    assert "[✓] SRCC 1.0000 ≥ 0.9999" in result.output


def test_a_check_fails_for_nan_for_large_differences_and_for_lost_ranks() -> None:
    spec, limits = lively_model("tiny", score_range=(0.0, 100.0)).spec, Limits(difference=1.0, srcc=0.99)
    reference = np.linspace(10, 90, 60, dtype=np.float32)

    def passes(found: np.ndarray) -> bool:
        return compare(found.astype(np.float32), reference, spec, limits, "test", "made up").passed

    assert passes(reference + 0.9)
    assert not passes(reference + 1.1)
    assert not passes(np.where(np.arange(60) == 3, np.nan, reference))
    near = np.float32(50) + np.linspace(0, 0.5, 60, dtype=np.float32)
    shuffled = np.random.default_rng(0).permutation(near)
    assert srcc(shuffled, near) < 0.9
    assert not compare(shuffled, near, spec, limits, "test", "made up").passed


def test_few_images_judge_ranks_only_where_exact_agreement_is_asked_for() -> None:
    spec = lively_model("tiny", score_range=(0.0, 100.0)).spec
    reference = np.arange(16, dtype=np.float32) / 100
    swapped = reference.copy()
    swapped[[3, 4]] = swapped[[4, 3]]
    for precision, passes in (("fp16", True), ("fp32", False)):
        limits = Limits(difference=1.0, srcc=LIMITS[precision].srcc)
        assert compare(swapped, reference, spec, limits, "test", "made up").passed is passes


def test_every_format_ends_in_what_one_runtime_opens() -> None:
    assert {format.suffix for format in FORMATS.values()} <= set(RUNTIMES)
    assert [find(alias).name for format in FORMATS.values() for alias in (format.name, *format.aliases)]


def test_generated_images_are_the_same_for_everybody_and_differ_in_what_scores_see() -> None:
    one = images.generated(96, 128)
    np.testing.assert_array_equal(one, images.generated(96, 128))
    sharpness = [float(np.abs(np.diff(image.astype(np.float64), axis=1)).mean()) for image in one]
    assert max(sharpness) > 5 * min(sharpness)
