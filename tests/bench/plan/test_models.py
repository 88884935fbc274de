"""Model files: found, named, and with their references."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from musiq import bundled
from musiq.artifact import Check, Int8Details, Record, Refusal, record_path, write_record, write_refusal
from musiq.errors import MusiqError
from musiq.file_formats import FILE_FORMATS
from musiq.files import sha256
from musiq.presets import preset
from musiq_bench.plan.models import default_models, describe, find_models, reference_of, short_names
from tests.bench_cases import artifact

pytest_plugins = ["tests.bench_fixtures"]


def artifact_of(path: Path, checkpoint: dict[str, str], check: Check | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"graph " + str(path).encode())
    write_record(path, Record(preset("tiny"), "onnx", "fp16", sha256(path), checkpoint, check=check))
    return path


def test_an_artifact_finds_the_checkpoint_that_it_was_exported_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    weights = tmp_path / "runs" / "first" / "best.safetensors"
    weights.parent.mkdir(parents=True)
    weights.write_bytes(b"weights")
    named = {"name": "best.safetensors", "sha256": sha256(weights)}
    found = describe(artifact_of(Path("exports/model.onnx"), named))
    assert (found.format, found.precision) == ("onnx", "fp16")
    reference, doubt = reference_of(found, None)
    assert reference is not None
    assert reference.path.resolve() == weights
    assert (reference.height, reference.width, doubt) == (192, 256, "")

    weights.write_bytes(b"other weights")
    reference, why = reference_of(found, None)
    assert reference is None
    assert "best.safetensors was not found as it was" in why
    reference, why = reference_of(found, describe(weights))
    assert reference is None
    assert "it was not exported from best.safetensors" in why


def test_the_reference_of_an_artifact_for_any_size_gets_its_images_and_its_policy(two: list[Path]) -> None:
    for resize, policy in (("", "native"), ("longer=512", "longer=512")):
        spec = dataclasses.replace(preset("tiny").at_any_size(), resize=resize)
        reference, doubt = reference_of(describe(artifact(two[1], two[0], spec=spec)), describe(two[0]))
        assert reference is not None
        assert (reference.any_size, reference.resize, reference.height, doubt) == (True, policy, None, "")


def test_a_foreign_artifact_takes_the_given_checkpoint_with_a_doubt(tmp_path: Path) -> None:
    weights, graph = tmp_path / "best.safetensors", tmp_path / "model.onnx"
    weights.write_bytes(b"weights")
    graph.write_bytes(b"graph")
    reference, doubt = reference_of(describe(graph), describe(weights))
    assert reference == describe(weights)
    assert doubt == "no record says that it was exported from best.safetensors"
    assert reference_of(describe(graph), None) == (None, "no record names its checkpoint; give it with --checkpoint")


def test_models_are_found_in_folders_and_told_apart_by_theirs(tmp_path: Path) -> None:
    for name in ("a/model.onnx", "b/model.onnx", "b/other.onnx", "b/.part-1-x.onnx", "b/model.onnx.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    found = find_models([tmp_path, tmp_path / "a" / "model.onnx"])
    assert [short_names(found)[each] for each in found] == ["a/model", "b/model", "other"]


def test_an_artifact_that_its_export_refused_is_there_with_its_precision_and_reason(tmp_path: Path) -> None:
    write_refusal(tmp_path / "model-int8.onnx", Refusal("int8", "It is slower than fp32."))
    (found,) = find_models([tmp_path])
    assert found == describe(tmp_path / "model-int8.onnx")
    assert (found.path.name, found.format, found.precision, found.inside) == ("model-int8.onnx", "onnx", "int8", None)
    assert found.refusal == Refusal("int8", "It is slower than fp32.")


def test_without_any_model_all_of_exports_is_measured_or_the_model_in_the_box(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bundled, "FOLDER", tmp_path)
    (tmp_path / f"{bundled.NAME}.onnx").touch()
    exports = tmp_path / "exports"
    assert default_models(exports) == (tmp_path / f"{bundled.NAME}.onnx",)
    exports.mkdir()
    assert default_models(exports) == (tmp_path / f"{bundled.NAME}.onnx",)
    (exports / "model.xml").touch()
    assert default_models(exports) == (exports,)


@pytest.mark.parametrize(
    ("name", "message"),
    [("no.onnx", "Cannot read"), ("notes.txt", "is of no known kind"), ("empty", "There is no model in")],
)
def test_what_is_no_model_is_named(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(MusiqError, match=message):
        find_models([tmp_path / name])


def test_formats_are_called_as_the_exporter_calls_them(tmp_path: Path) -> None:
    from musiq_export.formats import FORMATS as EXPORTED

    for name in FILE_FORMATS.keys() - {"pytorch"}:
        file = tmp_path / f"model{EXPORTED[name].suffix}"
        file.write_bytes(b"")
        assert describe(file).format == name


def test_the_precision_inside_and_the_size_are_of_all_that_belongs_to_the_artifact(two: list[Path]) -> None:
    folder = two[0].parent
    counted = describe(artifact(folder / "a.onnx", two[0], weight_types={"float32": 30, "float16": 970}))
    assert counted.inside == "float16 97%, float32 3%"
    quantised = describe(artifact(folder / "b.onnx", two[0], int8=Int8Details(products=83)))
    assert quantised.inside == "83 products in int8"
    assert describe(two[1]).inside is None
    assert describe(two[0]).inside == "float32 100%"
    (folder / "c.xml").write_bytes(b"x" * 1000)
    (folder / "c.bin").write_bytes(b"x" * 2_000_000)
    assert describe(folder / "c.xml").file_mb == pytest.approx(2.001)


def test_a_record_that_lies_is_a_row_and_not_the_end(two: list[Path]) -> None:
    record_path(two[1]).write_text("{}")
    assert describe(two[1]).record is None
