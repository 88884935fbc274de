"""What goes wrong with an export: one line each, nothing left behind, and no file that is not what it says."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from musiq import artifact
from musiq.errors import MusiqError
from musiq.runtimes.registry import open_runtime
from musiq_export import exporter, staging
from musiq_export.cli import parse_batch
from musiq_export.formats import find
from tests.exporting import run


@pytest.mark.parametrize("name", ["onnx", "openvino", "torchscript", "pt2", "trt-rtx"])
def test_a_full_disk_ends_an_export_with_one_line_and_nothing_left(
    name: str, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    pytest.importorskip(find(name).package)
    code = (
        "import resource, signal, sys\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, 500_000))\n"
        "from musiq_export.cli import main\n"
        "main()"
    )
    command = [sys.executable, "-c", code, "--checkpoint", tiny_checkpoint, "--format", name, "--out", tmp_path / "out"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    assert done.stderr.strip().splitlines()[-1].startswith("Error: Cannot write")
    assert "Traceback" not in done.stderr
    assert list((tmp_path / "out").iterdir()) == []


def test_an_onnx_file_whose_data_lies_outside_its_folder_is_refused(tmp_path: Path) -> None:
    from onnx import TensorProto, helper

    (tmp_path / "secret.bin").write_bytes(bytes(16))
    weight = TensorProto(name="w", data_type=1, dims=[4], data_location=TensorProto.EXTERNAL)
    weight.external_data.add(key="location", value="../secret.bin")
    floats = [helper.make_tensor_value_info(name, 1, [4]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Add", ["x", "w"], ["y"])], "g", floats[:1], floats[1:], [weight])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "m.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(MusiqError, match=r"cannot open .*External data path"):
        open_runtime(tmp_path / "in" / "m.onnx", "cpu")


def test_an_artifact_that_disagrees_is_not_kept(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = exporter.reference_scores
    monkeypatch.setattr(exporter, "reference_scores", lambda *given: honest(*given) + 0.5)
    result = run("--checkpoint", tiny_checkpoint, "--out", tmp_path)
    assert result.exit_code == 1
    assert "[✗] largest difference 0.5" in result.output
    assert "does not score like tiny.safetensors" in result.output
    assert list(tmp_path.iterdir()) == []


def test_a_mistyped_format_is_answered_with_the_nearest() -> None:
    with pytest.raises(MusiqError, match="Did you mean onnx"):
        find("onxx")


@pytest.mark.parametrize("text", ["0", "-1", "8..2", "two", "1..x", ""])
def test_an_impossible_batch_is_refused(text: str) -> None:
    with pytest.raises(MusiqError, match="no batch size"):
        parse_batch(text)


def test_user_errors_are_one_line_and_exit_code_1(tmp_path: Path) -> None:
    for arguments in (
        ["--checkpoint", tmp_path / "none.pth"],
        ["--checkpoint", __file__],
        ["--format", "trtt"],
    ):
        result = run(*arguments, "--out", tmp_path / "out")
        assert result.exit_code == 1
        assert result.output.strip().splitlines()[-1].startswith("Error: ")
        assert "Traceback" not in result.output
    assert not (tmp_path / "out").exists()


def test_without_any_run_the_message_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert "Give --checkpoint, or run train.py first" in run().output


def test_without_torch_the_install_line_is_given(tiny_checkpoint: Path) -> None:
    code = "import sys; sys.modules['torch'] = None; from musiq_export.cli import main; main()"
    command = [sys.executable, "-c", code, "--checkpoint", tiny_checkpoint]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.strip().endswith("needs torch: pip install 'musiq[train]'.")


def test_an_unwritable_folder_is_an_error_and_not_a_traceback(tiny_checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    result = run("--checkpoint", tiny_checkpoint, "--out", tmp_path / "file")
    assert result.exit_code == 1
    assert "Cannot write into" in result.output


def test_an_interrupted_export_leaves_nothing_behind(tiny_checkpoint: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "musiq_export.cli", "--checkpoint", tiny_checkpoint, "--out", tmp_path / "out"]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob("out/.part-*")) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=300)
    assert process.returncode != 0
    assert list((tmp_path / "out").iterdir()) == []


def test_a_signal_right_after_the_temporary_folder_was_made_finds_it_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mkdir = Path.mkdir

    def make_and_stop(folder: Path, **options: bool) -> None:
        mkdir(folder, **options)
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "mkdir", make_and_stop)
    with pytest.raises(KeyboardInterrupt), staging.staging(tmp_path / "model.onnx"):
        pytest.fail("the folder was never handed out")
    assert list(tmp_path.iterdir()) == []


def test_an_artifact_changed_by_one_byte_is_refused_at_load(tiny_onnx: Path, tmp_path: Path) -> None:
    copy = tmp_path / tiny_onnx.name
    data = bytearray(tiny_onnx.read_bytes())
    data[len(data) // 2] ^= 1
    copy.write_bytes(data)
    artifact.record_path(copy).write_text(artifact.record_path(tiny_onnx).read_text())
    with pytest.raises(MusiqError, match="is not the file that was checked"):
        open_runtime(copy)
