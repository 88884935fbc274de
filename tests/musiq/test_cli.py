"""`musiq-score` as its users run it: real processes, real files, mixed good and bad input, kills."""

from __future__ import annotations

import csv
import io
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from musiq.cli import main
from musiq.output import parquet
from musiq.output.resumable import RowFile
from musiq.output.text import Csv
from musiq.scoring import Row
from tests.score_samples import HEIGHT, WIDTH, save_mean_model, saved, scene
from tests.terminals import shown_in_terminal

ROOT = Path(__file__).resolve().parents[2]
COMMAND = [sys.executable, "-m", "musiq.cli"]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def score(*arguments: str | Path, cwd: Path, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    command = [*COMMAND, *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, input=stdin, capture_output=True, env=ENVIRONMENT, timeout=300)


def table(text: bytes, delimiter: str = ",") -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text.decode("utf-8", "surrogateescape"), newline=""), delimiter=delimiter))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """mean.onnx, three good images and five bad ones."""
    top = tmp_path_factory.mktemp("score")
    save_mean_model(top / "mean.onnx")
    (top / "photos" / "sub").mkdir(parents=True)
    jpeg = saved(scene(1, 200, 300), "jpeg")
    (top / "photos" / "a.jpg").write_bytes(jpeg)
    (top / "photos" / "b.png").write_bytes(saved(scene(2), "png"))
    (top / "photos" / "sub" / "c.webp").write_bytes(saved(scene(3, 90, 90), "webp"))
    (top / "bad").mkdir()
    (top / "bad" / "cut.jpg").write_bytes(jpeg[: len(jpeg) // 2])
    (top / "bad" / "cut.png").write_bytes(saved(scene(2), "png")[:-500])
    (top / "bad" / "empty.jpg").write_bytes(b"")
    (top / "bad" / "text.jpg").write_bytes(b"This is not an image.\n")
    return top


def test_all_scored_exits_with_0(folder: Path) -> None:
    done = score("photos", "--model", "mean.onnx", cwd=folder)
    assert done.returncode == 0
    rows = table(done.stdout)
    assert [row["path"] for row in rows] == ["photos/a.jpg", "photos/b.png", "photos/sub/c.webp"]
    assert list(rows[0]) == ["path", "score", "size", "fitted", "error", "model"]
    assert float(rows[1]["score"]) == pytest.approx(scene(2).mean(), abs=1e-4)
    assert [row["fitted"] for row in rows] == ["resized 0.32x", "", "resized 1.07x; cropped 96x96 to 96x64"]
    assert {row["size"] for row in rows} == {"96x64"}
    assert done.stderr.decode().startswith("3 scored, 0 errors, ")
    assert done.stderr.count(b"\n") == 1


def test_a_large_jpeg_is_decoded_smaller_only_when_asked(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "large.jpg").write_bytes(saved(scene(1, 300, 400), "jpeg"))
    arguments = [tmp_path / "large.jpg", "photos", "--model", "mean.onnx"]
    whole = table(score(*arguments, cwd=folder).stdout)
    reduced = table(score(*arguments, "--reduced-jpeg", "--mode", "throughput", cwd=folder).stdout)
    assert [row["fitted"][:16] for row in (whole[0], reduced[0])] == ["resized 0.24x; c", "decoded at 1/2; "]
    assert float(reduced[0]["score"]) == pytest.approx(float(whole[0]["score"]), abs=0.5)
    assert reduced[1:] == whole[1:]


def test_bad_images_among_good_ones_are_rows_and_exit_with_3(folder: Path) -> None:
    done = score("bad", "photos", "missing.jpg", "missing-folder/", "mean.onnx", "--model", "mean.onnx", cwd=folder)
    assert done.returncode == 3
    reasons = {row["path"]: row["error"] for row in table(done.stdout)}
    assert len(reasons) == 10
    for path, words in {
        "bad/cut.jpg": "cut short or corrupt",
        "bad/cut.png": "cut short or corrupt",
        "bad/empty.jpg": "The file is empty",
        "bad/text.jpg": "it looks like text",
        "missing.jpg": "no such file",
        "missing-folder/": "no such file or folder",
        "mean.onnx": "no image of a known kind",
    }.items():
        assert words in reasons[path]
    assert sum(not reason for reason in reasons.values()) == 3
    assert done.stderr.decode().startswith("3 scored, 7 errors, ")
    assert done.stderr.count(b"\n") == 1  # the decoders themselves keep quiet


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["photos", "--model", "missing.onnx"], "missing.onnx"),
        (["photos", "--model", "photos/a.jpg"], "a.jpg"),
        (["nothing", "--model", "mean.onnx"], "There is no image in nothing"),
        (["-", "--model", "mean.onnx"], "the list on stdin is empty"),
        (["photos", "--model", "mean.onnx", "--resume"], "name it with --out"),
        (["photos", "--model", "mean.onnx", "--out", "scores.xyz"], "end it in .csv, .tsv, .jsonl, .parquet, .txt"),
        (
            ["photos", "--model", "mean.onnx", "--format", "parquet"],
            "cannot be written to stdout: name a file with --out",
        ),
        (["photos", "--model", "mean.onnx", "--out", "photos", "--format", "csv"], "it is a folder"),
        (["photos", "--model", "mean.onnx", "--out", "mean.onnx/x.csv"], "Cannot write mean.onnx/x.csv"),
        (["photos", "--model", "mean.onnx", "--device", "abacus"], "abacus"),
    ],
)
def test_what_cannot_run_is_one_line_and_exits_with_1(folder: Path, arguments: list[str], words: str) -> None:
    (folder / "nothing").mkdir(exist_ok=True)
    done = score(*arguments, cwd=folder)
    assert done.returncode == 1
    assert done.stderr.startswith(b"Error: ")
    assert words in done.stderr.decode()
    assert done.stderr.count(b"\n") == 1


def test_an_onnx_file_that_is_none_is_one_line(folder: Path) -> None:
    (folder / "broken.onnx").write_bytes(b"garbage" * 100)
    done = score("photos", "--model", "broken.onnx", cwd=folder)
    assert done.returncode == 1
    assert done.stderr.startswith(b"Error: ")
    assert done.stderr.count(b"\n") == 1


def test_the_newest_export_is_the_default_model(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "exports").mkdir()
    for age, name in enumerate(("newest", "older", "oldest")):
        path = save_mean_model(tmp_path / "exports" / f"{name}.onnx")
        os.utime(path, (1e9 - age, 1e9 - age))
    done = score(folder / "photos" / "b.png", cwd=tmp_path)
    assert table(done.stdout)[0]["model"].startswith("newest@")


def test_a_list_on_stdin_may_hold_files_and_folders(folder: Path) -> None:
    done = score("-", "--model", "mean.onnx", cwd=folder, stdin=b"photos/b.png\r\n\nphotos/sub\nmissing.jpg\n")
    assert [row["path"] for row in table(done.stdout)] == ["photos/b.png", "photos/sub/c.webp", "missing.jpg"]
    assert done.returncode == 3


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl", "parquet"])
def test_paths_keep_their_bytes_in_every_format(folder: Path, tmp_path: Path, kind: str) -> None:
    names = [
        b"plain.png",
        b'comma, "quote".png',
        b"line\nfeed.png",
        "日本.png".encode(),
        b"latin\xe9.png",
        b"tab\t.png",
    ]
    for name in names:
        Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name)).write_bytes(saved(scene(2), "png"))
    out = tmp_path / f"scores.{kind}"
    for flags in ([], ["--resume"]):  # resuming finds all of them there
        done = score(".", "--model", folder / "mean.onnx", "--out", out, *flags, cwd=tmp_path)
        assert done.returncode == 0
        if kind == "parquet":
            paths = [row.path for row in parquet.read(out)]
        elif kind == "jsonl":
            paths = [json.loads(line)["path"] for line in out.read_text().splitlines()]
        else:
            paths = [row["path"] for row in table(out.read_bytes(), "\t" if kind == "tsv" else ",")]
        assert sorted(map(os.fsencode, paths)) == sorted(names)


def test_out_appears_only_when_all_rows_are_there(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "scores.csv"
    out.parent.mkdir()
    out.write_text("what was there before\n")
    done = score("photos", "bad", "--model", "mean.onnx", "--out", out, "--fail-on-error", cwd=folder)
    assert done.returncode == 1
    assert done.stderr.startswith(b"Error: bad/cut.jpg: The image (JPEG 300x200) is cut short")
    assert out.read_text() == "what was there before\n"
    done = score("photos", "bad", "--model", "mean.onnx", "--out", out, cwd=folder)
    assert done.returncode == 3
    assert len(table(out.read_bytes())) == 7
    assert [path.name for path in out.parent.iterdir()] == ["scores.csv"]
    assert done.stdout == b""


def test_resume_after_a_finished_run_adds_what_is_new(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "scores.csv"
    score("photos/a.jpg", "photos/a.jpg", "--model", "mean.onnx", "--out", out, cwd=folder)
    done = score("photos", "photos/a.jpg", "photos/a.jpg", "--model", "mean.onnx", "--out", out, "--resume", cwd=folder)
    paths = [row["path"] for row in table(out.read_bytes())]
    assert sorted(paths) == ["photos/a.jpg"] * 3 + ["photos/b.png", "photos/sub/c.webp"]
    assert done.stderr.startswith(b"3 scored, 0 errors")


def test_resume_refuses_rows_of_another_model_and_other_columns(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "scores.csv"
    score("photos", "--model", "mean.onnx", "--out", out, cwd=folder)
    before = out.read_bytes()
    five = save_mean_model(tmp_path / "five.onnx", outputs=5)
    done = score("photos", "--model", five, "--out", out, "--resume", cwd=folder)
    assert (done.returncode, b"other columns" in done.stderr) == (1, True)
    other = tmp_path / "other.onnx"
    other.write_bytes((folder / "mean.onnx").read_bytes())
    done = score("photos", "--model", other, "--out", out, "--resume", cwd=folder)
    assert (done.returncode, b"scores of the model mean@" in done.stderr) == (1, True)
    assert out.read_bytes() == before


def test_shares_have_columns_of_their_own(folder: Path, tmp_path: Path) -> None:
    five = save_mean_model(tmp_path / "five.onnx", outputs=5)
    rows = table(score("photos/b.png", "bad/empty.jpg", "--model", five, cwd=folder).stdout)
    assert [float(rows[0][f"share_{rating}"]) for rating in range(1, 6)] == pytest.approx([0.2] * 5)
    assert rows[1]["share_5"] == ""
    done = score("photos/b.png", "--model", five, "--format", "jsonl", cwd=folder)
    assert json.loads(done.stdout)["shares"] == pytest.approx([0.2] * 5)


def test_a_terminal_sees_count_rate_and_errors_and_then_the_closing_line(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "list").write_text("photos/a.jpg\nmissing.jpg\n" * 400)
    environment = {**ENVIRONMENT, "TERM": "xterm", "COLUMNS": "120"}
    command = [*COMMAND, "-", "--model", "mean.onnx", "--out", str(tmp_path / "scores.csv"), "--batch-size", "1"]
    with (tmp_path / "list").open() as listed:
        code, plain = shown_in_terminal(command, ["stderr"], cwd=folder, stdin=listed, env=environment)
    assert code == 3
    assert re.search(rb"\d+/800 [\d:\- ]+ [\d.,]+ images/s, \d+ errors", plain)
    assert re.search(rb"400 scored, 400 errors, [\d.,]+ images/s \(decode \d+%, model \d+% busy\)\r\n$", plain)


def test_a_reader_that_goes_away_ends_the_run_quietly(folder: Path) -> None:
    command = " ".join(COMMAND) + " photos photos photos photos --model mean.onnx --batch-size 1 | head -1"
    done = subprocess.run(command, shell=True, cwd=folder, capture_output=True, env=ENVIRONMENT, timeout=300)
    assert done.stdout.startswith(b"path,score")
    assert b"Traceback" not in done.stderr
    assert b"BrokenPipe" not in done.stderr


def test_ctrl_c_says_how_to_go_on(folder: Path, tmp_path: Path) -> None:
    many = "\n".join(["photos/a.jpg"] * 20_000).encode()
    out = tmp_path / "scores.csv"
    command = [*COMMAND, "-", "--model", "mean.onnx", "--out", str(out)]
    process = subprocess.Popen(command, cwd=folder, stdin=subprocess.PIPE, stderr=subprocess.PIPE, env=ENVIRONMENT)
    assert process.stdin
    process.stdin.write(many)
    process.stdin.close()
    wait_for_rows(out.with_name("scores.csv.part"), process)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=300) == 130
    assert process.stderr
    stderr = process.stderr.read().decode()
    assert "the same command with --resume goes on" in stderr
    assert "Traceback" not in stderr
    assert not out.exists()


def wait_for_rows(part: Path, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 300
    while not part.exists() or part.stat().st_size < 300:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_killed_again_and_again_and_resumed_no_row_is_lost_doubled_or_torn(
    folder: Path, tmp_path: Path, kind: str
) -> None:
    listed = "".join(f"{path}\n" for i in range(700) for path in (f"./{'/' * i}photos/b.png", f"missing-{i}, no.jpg"))
    out, part = tmp_path / f"scores.{kind}", tmp_path / f"scores.{kind}.part"
    command = [*COMMAND, "-", "--model", "mean.onnx", "--out", str(out), "--resume", "--batch-size", "2"]
    chance, kills = random.Random(3), 0
    for _ in range(8):
        process = subprocess.Popen(command, cwd=folder, stdin=subprocess.PIPE, stderr=subprocess.PIPE, env=ENVIRONMENT)
        assert process.stdin
        process.stdin.write(listed.encode())
        process.stdin.close()
        grown = part.stat().st_size if part.exists() else 0
        while process.poll() is None and (not part.exists() or part.stat().st_size <= grown):
            time.sleep(0.001)
        time.sleep(chance.uniform(0, 0.02))
        kills += process.poll() is None
        process.kill()
        process.wait()
        if part.exists() and chance.random() < 0.7:  # a torn write, as a power cut or a full disk leaves it
            part.write_bytes(part.read_bytes()[: -chance.randrange(1, 60)])
    assert kills >= 4
    done = score(*command[3:], cwd=folder, stdin=listed.encode())
    assert done.returncode in (0, 3)
    rows = table(out.read_bytes()) if kind == "csv" else list(map(vars, parquet.read(out)))
    assert [row["path"] for row in rows] == listed.splitlines()
    assert all(bool(row["score"] not in ("", None)) != bool(row["error"]) for row in rows)
    assert not part.exists()


def test_two_processes_never_write_one_file(tmp_path: Path) -> None:
    with RowFile(tmp_path / "scores.csv", Csv(), ["mean@0"]) as file:
        file.write(Row("a.jpg", 1.0))
        code = (
            "import sys; from pathlib import Path; from musiq.output.resumable import RowFile\n"
            "from musiq.output.text import Csv\n"
            "RowFile(Path(sys.argv[1]), Csv(), ['mean@0'])"
        )
        command = [sys.executable, "-c", code, str(tmp_path / "scores.csv")]
        done = subprocess.run(command, capture_output=True, env=ENVIRONMENT)
        assert b"Another process is writing" in done.stderr
        file.finish()
    assert [row["path"] for row in table((tmp_path / "scores.csv").read_bytes())] == ["a.jpg"]


def test_options_reach_the_decoder(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "clear.png").write_bytes(saved(scene(1, HEIGHT, WIDTH * 2)[:, :, [0, 1, 2, 0]] * 0, "png"))
    for background, want in (("white", 255), ("black", 0)):
        done = score("clear.png", "--model", folder / "mean.onnx", "--background", background, cwd=tmp_path)
        assert float(table(done.stdout)[0]["score"]) == want
    done = score("clear.png", "--model", folder / "mean.onnx", "--max-pixels", "100", cwd=tmp_path)
    assert "at most 100 are decoded" in table(done.stdout)[0]["error"]
    options = ["--workers", "3", "--threads", "1", "--device", "cpu", "--batch-size", "2"]
    assert score("photos", "--model", "mean.onnx", *options, cwd=folder).returncode == 0


def test_help_works_without_any_extra(folder: Path) -> None:
    code = (
        "import sys\n"
        "for name in ('torch', 'torchvision', 'onnx', 'onnxruntime', 'openvino', 'tensorrt', 'PIL', 'scipy', 'fsspec'):\n"
        "    sys.modules[name] = None\n"
        "from musiq.cli import main; main(['--help'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, env=ENVIRONMENT)
    assert done.returncode == 0
    assert b"--resume" in done.stdout


def test_help_shows_every_default() -> None:
    text = " ".join(CliRunner().invoke(main, ["--help"]).output.split())
    for default in ("newest in exports/", "stdout", "178000000", "[default: auto]", "[default: white]", "default: (8"):
        assert default in text
