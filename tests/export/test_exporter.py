"""`musiq-export`: a file that exists is a file that agreed, and says what it is."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from musiq import artifact, files
from musiq.errors import MusiqError
from musiq.model import checkpoint
from musiq.runtimes.registry import open_runtime
from musiq_export import exporter
from musiq_export.check.images import GENERATED
from musiq_export.formats import FORMATS, find
from musiq_export.graph.simplify import simplify
from musiq_export.request import LIMITS, Request
from tests.exporting import run
from tests.recipe import lively_model, photo


def test_the_record_tells_origin_content_and_check(tiny_checkpoint: Path, tiny_onnx: Path) -> None:
    record = json.loads(artifact.record_path(tiny_onnx).read_text())
    assert record["sha256"] == files.sha256(tiny_onnx)
    assert record["checkpoint"] == {"name": "tiny.safetensors", "sha256": files.sha256(tiny_checkpoint)}
    assert record["layers"]["Conv"] == 2  # the 7x7 and the 3x3; those of 1x1 are products of matrices
    assert record["check"]["passed"] is True
    assert record["check"]["images"] == GENERATED
    assert record["check"]["max_difference"] < 1e-4
    assert {"musiq", "torch", "onnx"} <= set(record["versions"])


@pytest.mark.slow
def test_every_format_has_the_float_precision_inside_that_was_asked_for(every_float_file: Path) -> None:
    for name in ("onnx", "openvino", "torchscript", "pt2"):
        for precision, kind in (("fp32", "float32"), ("fp16", "float16"), ("bf16", "bfloat16")):
            called = "s" if precision == "fp32" else f"s-{precision}"
            record = artifact.read_record(every_float_file / f"{called}{FORMATS[name].suffix}")
            assert record is not None
            weights = record.details.weight_types
            assert weights[kind] > 0.8 * sum(weights.values()), (name, precision, weights)
            assert record.unverified if (name, precision) == ("onnx", "bf16") else record.check is not None


@pytest.mark.parametrize("target", ["cpu", "gpu"])
def test_the_record_says_what_it_was_tuned_for_which_for_an_engine_is_a_gpu(target: str, tmp_path: Path) -> None:
    model = lively_model("tiny", height=64, width=96, layers=1)
    reference = exporter.Reference(model, "m", "0", np.stack([photo(64, 96, seed) for seed in range(3)]), "made")
    format = dataclasses.replace(find("torchscript"), gpu_only=target == "gpu")
    record = exporter.export(
        format, Request(simplify(model)), reference, LIMITS["fp32"], tmp_path / "m.torchscript", print
    )
    assert record.details.tuned_for == target


def test_one_format_that_fails_costs_no_other(
    small_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise MusiqError("TorchScript is broken today.")

    monkeypatch.setitem(FORMATS, "torchscript", dataclasses.replace(FORMATS["torchscript"], build=fail))
    result = run(
        "--checkpoint", small_checkpoint, "--format", "ts", "--format", "onnx", "--out", tmp_path, "--name", "t"
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
    failed = run("--verify", path, "--checkpoint", tiny_checkpoint)
    assert failed.exit_code == 1
    assert "does not score like tiny.safetensors: the file stays, and its record calls it unverified." in failed.output
    with pytest.warns(
        UserWarning, match=r"check failed: tiny.onnx does not score like tiny.safetensors\. Check it with"
    ):
        open_runtime(path)
