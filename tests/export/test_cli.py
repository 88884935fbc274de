"""The command: what it makes of its options, and what goes wrong: one line each, and nothing left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from musiq import artifact
from musiq.errors import pip_install
from musiq_export import exporter
from musiq_export.formats import find
from tests.exporting import run


@pytest.mark.slow
@pytest.mark.parametrize("names", [("onnx", "openvino", "torchscript", "pt2"), ("trt-rtx",)])
def test_a_full_disk_ends_every_export_with_one_line_and_nothing_left(
    names: tuple[str, ...], small_checkpoint: Path, tmp_path: Path
) -> None:
    for name in names:
        pytest.importorskip(find(name).package)
    code = (
        "import resource, signal, sys\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, 500_000))\n"
        "from musiq_export.cli import main\n"
        "main()"
    )
    formats = [part for name in names for part in ("--format", name)]
    command = [sys.executable, "-c", code, "--checkpoint", small_checkpoint, *formats, "--out", tmp_path / "out"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    assert done.stderr.count("Error: Cannot write") == len(names), done.stderr
    assert "Traceback" not in done.stderr
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.slow
def test_an_artifact_that_disagrees_is_not_kept(
    small_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = exporter.reference_scores
    monkeypatch.setattr(exporter, "reference_scores", lambda *given: honest(*given) + 0.5)
    result = run("--checkpoint", small_checkpoint, "--out", tmp_path)
    assert result.exit_code == 1
    assert "[✗] largest difference 0.5" in result.output
    assert "does not score like small.safetensors, so it was not kept." in result.output
    (left,) = tmp_path.iterdir()
    assert left.name.endswith(".onnx.refused.json")
    shown = run("--table", tmp_path)
    assert f"| {left.name.removesuffix('.refused.json')} |  | fp32 |  | refused: " in shown.output
    monkeypatch.undo()
    assert run("--checkpoint", small_checkpoint, "--out", tmp_path).exit_code == 0
    assert not left.exists()


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


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (("--height", "999999999"), "is not in the range 32<=x<=65535"),
        (("--width", "65536"), "is not in the range 32<=x<=65535"),
        (("--batch-opt", "65537"), "is not in the range 1<=x<=65536"),
        (("--batch", "1..4", "--batch-opt", "5"), "expected one of --batch's sizes"),
        (("--batch", "1..99999999999"), "is no batch size"),
        (("--calibration-images", "nowhere"), "There is no nowhere: give --calibration-images a folder"),
        (("--name", "../model"), "expected the name of a file"),
        (("--name", ".."), "expected the name of a file"),
    ],
)
def test_options_that_make_no_sense_are_refused_before_anything_is_read(
    given: tuple[str, ...], reason: str, tmp_path: Path
) -> None:
    result = run(*given, "--checkpoint", tmp_path / "none.safetensors", "--out", tmp_path / "out")
    assert result.exit_code in (1, 2)
    assert reason in result.output.strip().splitlines()[-1]
    assert not (tmp_path / "out").exists()


def test_images_beyond_memory_are_one_line_that_says_what_to_make_smaller(
    small_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def generated(height: int, width: int) -> None:
        raise MemoryError("Unable to allocate 192. GiB")

    monkeypatch.setattr("musiq_export.check.images.generated", generated)
    result = run("--checkpoint", small_checkpoint, "--out", tmp_path / "out")
    assert result.exit_code == 1
    assert result.output.strip().splitlines()[-1] == (
        "Error: Memory is short (Unable to allocate 192. GiB). Give a smaller --size, or fewer --max-images."
    )


@pytest.mark.parametrize("limit", [("--min-srcc", "1.5"), ("--min-srcc", "-0.1"), ("--max-difference", "-1")])
def test_limits_that_nothing_or_everything_meets_are_refused(limit: tuple[str, str], tmp_path: Path) -> None:
    for option, value in (limit, (limit[0], "nan"), (limit[0], "inf")):
        result = run(option, value, "--checkpoint", tmp_path / "none.safetensors")
        assert result.exit_code == 2
        assert f"Invalid value for '{option}'" in result.output


def test_without_an_extra_there_is_help_and_the_install_line_is_given(tiny_checkpoint: Path) -> None:
    heavy = ("torch", "torchvision", "onnxruntime", "openvino", "scipy", "onnx", "onnxscript", "safetensors", "einops")
    code = f"import sys; sys.modules.update(dict.fromkeys({heavy})); from musiq_export.cli import main; main()"
    for arguments, exit_code in (("--help",), 0), (("--checkpoint", tiny_checkpoint), 1):
        command = [sys.executable, "-c", code, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == exit_code, done.stderr
    assert done.stderr.strip().endswith(f"needs torch: {pip_install('train')}.")


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


@pytest.mark.slow
def test_the_command_tunes_for_the_machine_at_hand_unless_told(
    small_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def tuned(name: str, *given: str) -> tuple[str, str]:
        asked = ("--checkpoint", small_checkpoint, "--format", "torchscript", "--out", tmp_path, "--name", name)
        result = run(*asked, *given)
        assert result.exit_code == 0, result.output
        record = artifact.read_record(tmp_path / f"{name}.torchscript")
        assert record is not None
        return record.details.tuned_for, result.output

    monkeypatch.setattr("musiq_export.options.cuda_at_hand", lambda: False)
    target, output = tuned("here")
    assert target == "cpu"
    assert "tuned for a cpu; --tune-for gpu for the other" in output
    target, output = tuned("asked", "--tune-for", "gpu")
    assert target == "gpu"
    assert "tuned" not in output
    monkeypatch.setattr("musiq_export.options.cuda_at_hand", lambda: True)
    target, output = tuned("there")
    assert target == "gpu"
    assert "tuned for a gpu; --tune-for cpu for the other" in output


@pytest.mark.slow
def test_a_folder_is_shown_as_a_table(every_float_file: Path) -> None:
    table = run("--table", every_float_file).output
    assert len(table.strip().splitlines()) == 2 + 12
    assert "| s-fp16.xml | openvino | fp16 |" in table


@pytest.mark.parametrize(
    "locale",
    [
        {"PYTHONIOENCODING": "latin-1"},
        pytest.param({"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}, marks=pytest.mark.slow),
    ],
)
def test_a_terminal_without_the_mark_of_success_costs_no_build(
    small_checkpoint: Path, tmp_path: Path, locale: dict[str, str]
) -> None:
    asked = ["--checkpoint", small_checkpoint, "--format", "torchscript", "--out", tmp_path, "--name", "t"]
    command = [sys.executable, "-m", "musiq_export.cli", *asked]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **locale}
    done = subprocess.run(command, capture_output=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr
    assert b"SRCC" in done.stdout
    assert sorted(path.name for path in tmp_path.iterdir()) == ["t.torchscript", "t.torchscript.json"]


def test_places_that_no_runtime_can_read_are_told_before_the_build(tiny_checkpoint: Path, tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    os.mkfifo(tmp_path / "fifo")
    for arguments, words in (
        (["--checkpoint", tiny_checkpoint, "--out", folder], r"is no UTF-8, as runtimes need it: rename it"),
        (["--checkpoint", tiny_checkpoint, "--out", tmp_path, "--timing-cache", tmp_path / "fifo"], "it is a FIFO"),
        (["--checkpoint", tmp_path / "fifo", "--out", tmp_path], "Cannot read the checkpoint"),
        (["--checkpoint", tiny_checkpoint, "--verify", tmp_path], "it is a folder"),
        (["--checkpoint", tiny_checkpoint, "--verify", tmp_path / "no.onnx"], "it is missing"),
        (["--table", tmp_path / "nowhere"], "There is no folder"),
    ):
        result = run(*arguments)
        assert (result.exit_code, result.output.splitlines()[-1].startswith("Error: ")) == (1, True)
        assert words in result.output
    assert [path.name for path in tmp_path.iterdir()] == ["fifo"]
