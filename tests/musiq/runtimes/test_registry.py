"""The table of runtimes and its door: what is refused, what is warned of, what needs no extra package."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from musiq import artifact
from musiq.errors import MusiqError, pip_install
from musiq.file_formats import ENDINGS
from musiq.runtimes.registry import RUNTIMES, open_runtime
from tests.musiq.runtimes.conftest import FORMATS
from tests.recipe import photo


def test_every_ending_of_the_table_of_formats_has_a_runtime() -> None:
    assert set(RUNTIMES) == set(ENDINGS)


def test_unknown_missing_and_broken_files_are_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "model.tflite").write_bytes(b"x")
    (tmp_path / "broken.onnx").write_bytes(b"x")
    for name, reason in (
        ("model.tflite", "should end in one of"),
        ("none.onnx", "no file"),
        ("broken.onnx", "cannot open"),
    ):
        with pytest.raises(MusiqError, match=reason):
            open_runtime(tmp_path / name)


@pytest.mark.parametrize("format", FORMATS[1:])
def test_a_broken_artifact_of_any_format_is_refused_in_one_line(
    artifacts: Callable[..., Path], tmp_path: Path, format: str
) -> None:
    whole = artifacts(format)
    (tmp_path / whole.name).write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    with pytest.raises(MusiqError, match="Export it again"):
        open_runtime(tmp_path / whole.name, "cpu")
    (tmp_path / artifact.record_path(whole).name).write_text(artifact.record_path(whole).read_text())
    with pytest.raises(MusiqError, match="is not the file that was checked"):
        open_runtime(tmp_path / whole.name, "cpu")


@pytest.mark.parametrize("device", ["gpu", "cuda:x", "cuda:", "tensorrt:", "cpu:0", "CPU0", ""])
def test_an_unknown_device_is_refused(tiny_onnx: Path, device: str) -> None:
    with pytest.raises(MusiqError, match="expected auto, cpu, cuda"):
        open_runtime(tiny_onnx, device)


def test_a_gpu_that_is_not_there_is_named_with_what_to_do(tiny_onnx: Path, tiny_checkpoint: Path) -> None:
    with pytest.raises(MusiqError, match=r"has no CUDAExecutionProvider|on cuda:63"):
        open_runtime(tiny_onnx, "cuda:63")
    with pytest.raises(MusiqError, match=r"There is no cuda:63: PyTorch sees \d+ CUDA devices"):
        open_runtime(tiny_checkpoint, "cuda:63")


def test_a_file_without_a_record_runs_and_says_that_it_is_unverified(tiny_onnx: Path, tmp_path: Path) -> None:
    (tmp_path / "tiny.onnx").write_bytes(tiny_onnx.read_bytes())
    with pytest.warns(UserWarning, match=r"tiny\.onnx is unverified: it has no record"):
        runtime = open_runtime(tmp_path / "tiny.onnx", "cpu")
    assert runtime(photo(192, 256, 1)[None]).shape == (1,)


BLOCKED = """
import sys
for name in {blocked!r}:
    sys.modules[name] = None
import musiq
from click.testing import CliRunner
from musiq.cli import main
assert CliRunner().invoke(main, ["--help"]).exit_code == 0
result = CliRunner().invoke(main, ["{image}", "--model", "{model}"])
print(result.output)
"""
HEAVY = [
    "torch",
    "torchvision",
    "onnxruntime",
    "openvino",
    "tensorrt",
    "tensorrt_rtx",
    "scipy",
    "onnx",
    "safetensors",
    "einops",
]


def _score_without(blocked: list[str], model: Path, file: Path) -> str:
    code = BLOCKED.format(blocked=blocked, image=file, model=model)
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


def test_import_and_help_work_without_any_extra_and_scoring_says_what_to_install(
    tiny_onnx: Path, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    import cv2

    cv2.imwrite(str(tmp_path / "a.png"), photo(192, 256, 1))
    assert f"{pip_install('cpu')}" in _score_without(HEAVY, tiny_onnx, tmp_path / "a.png")
    assert f"{pip_install('train')}" in _score_without(HEAVY, tiny_checkpoint, tmp_path / "a.png")
    without_torch = [name for name in HEAVY if name != "onnxruntime"]
    assert f"{tmp_path / 'a.png'}," in _score_without(without_torch, tiny_onnx, tmp_path / "a.png")


def test_options_that_make_no_sense_are_refused(tiny_onnx: Path) -> None:
    with pytest.raises(MusiqError, match="no mode 'zzz'"):
        open_runtime(tiny_onnx, mode="zzz")
    with pytest.raises(MusiqError, match="threads is 0"):
        open_runtime(tiny_onnx, threads=0)
