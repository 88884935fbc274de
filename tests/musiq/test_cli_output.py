"""Where `musiq-score` writes and from where it reads a list: devices, FIFOs, links, full disks, odd locales, records."""

from __future__ import annotations

import csv
import io
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.score_samples import save_mean_model, saved, scene

ROOT = Path(__file__).resolve().parents[2]
COMMAND = [sys.executable, "-m", "musiq.cli"]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
C_LOCALE = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
needs_dev_full = pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs Linux's /dev/full")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_mean_model(tmp_path / "mean.onnx")
    (tmp_path / "photos").mkdir()
    for name in ("a.png", "b.png"):
        (tmp_path / "photos" / name).write_bytes(saved(scene(2), "png"))
    return tmp_path


def score(*arguments: str, cwd: Path, stdin: bytes = b"", **locale: str) -> subprocess.CompletedProcess[bytes]:
    command = [*COMMAND, *arguments, "--model", "mean.onnx"]
    environment = {**ENVIRONMENT, **locale}
    return subprocess.run(command, cwd=cwd, input=stdin, capture_output=True, env=environment, timeout=300)


def shell(line: str, cwd: Path, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    """A line of sh, in which $score is the command with its model."""
    environment = {**ENVIRONMENT, "score": " ".join([*COMMAND, "--model", "mean.onnx"])}
    return subprocess.run(line, shell=True, cwd=cwd, input=stdin, capture_output=True, env=environment, timeout=300)


def paths(text: bytes) -> list[str]:
    return [row["path"] for row in csv.DictReader(io.StringIO(text.decode("utf-8", "surrogateescape"), newline=""))]


def assert_one_line(done: subprocess.CompletedProcess[bytes], words: str) -> None:
    assert (done.returncode, done.stderr.count(b"\n")) == (1, 1), done.stderr
    assert done.stderr.startswith(b"Error: ")
    assert words in done.stderr.decode()


PHOTOS = ["photos/a.png", "photos/b.png"]


@pytest.mark.parametrize("name", ["fifo", "fifo.csv"])
def test_rows_go_to_a_fifo_which_stays_one(folder: Path, name: str) -> None:
    os.mkfifo(folder / name)
    reader = subprocess.Popen(["cat", str(folder / name)], stdout=subprocess.PIPE)
    done = score("photos", "--out", name, cwd=folder)
    assert (done.returncode, paths(reader.communicate(timeout=60)[0])) == (0, PHOTOS)
    assert (folder / name).is_fifo()
    assert sorted(path.name for path in folder.iterdir()) == sorted(["mean.onnx", "mean.onnx.json", "photos", name])


def test_rows_go_to_a_device_which_stays_one(folder: Path) -> None:
    pty = pytest.importorskip("pty", reason="needs the terminals of Unix")
    reading, terminal = pty.openpty()
    name = os.ttyname(terminal)
    done = score("photos", "--out", name, cwd=folder)
    assert done.returncode == 0, done.stderr
    assert paths(os.read(reading, 65536).replace(b"\r\n", b"\n")) == PHOTOS
    assert os.path.exists(name)
    assert not os.path.isfile(name)
    for descriptor in (reading, terminal):
        os.close(descriptor)
    assert score("photos", "--out", os.devnull, cwd=folder).returncode == 0


def test_out_to_the_shells_stdout_goes_on_where_that_is(folder: Path) -> None:
    done = shell("(echo before; $score photos --out /dev/stdout; echo after) > rows", folder)
    text = (folder / "rows").read_bytes()
    assert done.stderr.count(b"\n") == 1
    assert text.startswith(b"before\n")
    assert b"after\n" in text
    assert all(name.encode() in text for name in PHOTOS) or not os.path.exists("/dev/stdout")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--out", "socket"], "Cannot write socket: it is a socket"),
        (["--out", "fifo", "--format", "parquet"], "Parquet cannot be written to fifo, as it is made at the end"),
        (["--out", "fifo", "--resume"], "--resume continues a file, and fifo is none"),
        (["--out", "loop.csv"], "Cannot write loop.csv: Too many levels of symbolic links"),
    ],
)
def test_what_cannot_be_written_is_one_line(folder: Path, arguments: list[str], words: str) -> None:
    os.mkfifo(folder / "fifo")
    (folder / "loop.csv").symlink_to("loop.csv")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(folder / "socket"))
    assert_one_line(score("photos", *arguments, "--format", *arguments[3:4] or ["csv"], cwd=folder), words)
    assert (folder / "socket").is_socket()
    assert (folder / "fifo").is_fifo()


@pytest.mark.parametrize(
    ("out", "words"),
    [
        ("photos/a.png", "it is among the images to score. Give another --out."),
        ("../photos/b.png", "it is among the images to score"),
        ("other.png", "it is an image, which the rows would replace. Give another --out."),
        ("named.csv", "it is an image"),
    ],
)
@pytest.mark.parametrize("resume", [(), ("--resume",)])
def test_an_image_is_never_replaced_by_rows(folder: Path, out: str, words: str, resume: tuple[str, ...]) -> None:
    for name in ("other.png", "named.csv"):
        (folder / name).write_bytes((folder / "photos" / "a.png").read_bytes())
    out = out.replace("..", str(folder))
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert_one_line(
        score("photos", "--out", out, "--format", "csv", *resume, cwd=folder), f"Cannot write {out}: {words}"
    )
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("kind", ["csv", "parquet", "txt"])
def test_resume_refuses_rows_scored_with_other_settings(folder: Path, kind: str) -> None:
    (folder / "bad.png").write_bytes(b"")
    arguments = ["photos", "bad.png", "photos", "--out", f"scores.{kind}"]
    assert_one_line(score(*arguments, "--fail-on-error", cwd=folder), "The file is empty")
    for given, words in {
        ("--background", "black"): "rows scored with --background white, not black. Give another --out, or remove it.",
        ("--max-pixels", "900"): "rows scored with --max-pixels 178000000, not 900",
        ("--reduced-jpeg",): "rows scored with --reduced-jpeg off, not on",
    }.items():
        part = (folder / f"scores.{kind}.part").read_bytes()
        done = score(*arguments, "--resume", *given, cwd=folder)
        assert_one_line(done, f"Cannot resume scores.{kind}.part: it holds {words}")
        assert (folder / f"scores.{kind}.part").read_bytes() == part
    assert score(*arguments, "--resume", cwd=folder).returncode == 3
    assert [path.name for path in folder.glob("scores.*")] == [f"scores.{kind}"]


def test_rows_of_an_earlier_version_which_noted_no_settings_are_resumed(folder: Path) -> None:
    (folder / "bad.png").write_bytes(b"")
    assert score("photos", "bad.png", "--out", "scores.csv", "--fail-on-error", cwd=folder).returncode == 1
    (folder / "scores.csv.part.json").unlink()
    done = score("photos", "--out", "scores.csv", "--resume", "--background", "black", cwd=folder)
    assert (done.returncode, done.stderr[:18]) == (3, b"0 scored, 0 errors")


def test_rows_that_begin_like_an_image_are_replaced(folder: Path) -> None:
    (folder / "GIF89a").mkdir()
    (folder / "photos" / "a.png").rename(folder / "GIF89a" / "a.png")
    for _ in range(2):
        assert score("GIF89a/a.png", "--out", "scores.txt", cwd=folder).returncode == 0
    assert (folder / "scores.txt").read_bytes().startswith(b"GIF89a/a.png\t")


@pytest.mark.parametrize("kind", ["csv", "parquet", "txt"])
@pytest.mark.parametrize("there", [False, True])
def test_a_link_stays_one_and_its_file_is_made(folder: Path, kind: str, there: bool) -> None:
    (folder / "disk").mkdir()
    if there:
        (folder / "disk" / "real").write_text("before")
    link = folder / f"scores.{kind}"
    link.symlink_to("disk/real")
    assert score("photos", "--out", link.name, cwd=folder).returncode == 0
    assert link.is_symlink()
    assert [path.name for path in (folder / "disk").iterdir()] == ["real"]
    assert (folder / "disk" / "real").stat().st_size > 20
    if kind != "txt":
        done = score("photos", "--out", link.name, "--resume", cwd=folder)
        assert done.stderr.startswith(b"0 scored, 0 errors")
        assert link.is_symlink()


@needs_dev_full
@pytest.mark.parametrize("line", ["$score photos", "$score photos --format jsonl", "$score --help"])
def test_stdout_on_a_full_disk_is_one_line(folder: Path, line: str) -> None:
    assert_one_line(shell(f"{line} > /dev/full", folder), "No space left on device")


@needs_dev_full
def test_a_full_device_and_a_log_on_a_full_disk(folder: Path) -> None:
    assert_one_line(
        score("photos", "--out", "/dev/full", cwd=folder), "Cannot write /dev/full: No space left on device"
    )
    done = shell("$score photos --out scores.csv 2> /dev/full", folder)
    assert (done.returncode, paths((folder / "scores.csv").read_bytes())) == (0, PHOTOS)


def test_a_closed_stdout_and_a_closed_stdin_are_one_line(folder: Path) -> None:
    assert_one_line(shell("$score photos >&-", folder), "Standard output is closed")
    assert_one_line(shell("$score - <&-", folder), "Cannot read the list on stdin: it is closed")


@pytest.mark.parametrize(("kind", "blocks"), [("csv", 2), ("tsv", 2), ("jsonl", 4), ("parquet", 4), ("txt", 4)])
def test_a_full_disk_is_one_line_and_resume_goes_on_without_loss(folder: Path, kind: str, blocks: int) -> None:
    names = [f"./{'/' * number}photos/a.png" for number in range(60)]
    listed = "".join(f"{name}\n" for name in names).encode()
    out = folder / f"scores.{kind}"
    full = shell(f"ulimit -f {blocks}; $score - --batch-size 4 --out {out.name}", folder, listed)
    assert_one_line(full, f"Cannot write {out.name}: File too large. Make room: the rows so far are in {out.name}.part")
    kept = out.with_name(out.name + ".part").read_bytes().count(b"\n") - (kind in ("csv", "tsv"))
    assert 3 < kept < 60
    assert not out.exists()
    done = score("-", "--out", out.name, "--resume", cwd=folder, stdin=listed)
    assert done.stderr.startswith(f"{60 - kept} scored, 0 errors".encode())
    assert score("-", "--out", f"whole.{kind}", cwd=folder, stdin=listed).returncode == 0
    assert out.read_bytes() == (folder / f"whole.{kind}").read_bytes()


def test_a_disk_that_is_full_at_the_end_or_at_once_loses_nothing(folder: Path) -> None:
    assert score("photos", "--out", "scores.csv", cwd=folder).returncode == 0
    before = (folder / "scores.csv").read_bytes()
    done = shell("ulimit -f 0; $score photos --out scores.csv --resume", folder)
    assert_one_line(done, "Cannot write scores.csv: File too large")
    assert (folder / "scores.csv").read_bytes() == before
    listed = b"photos/a.png\n" * 60  # as JSON Lines 7 blocks and more, as Parquet 2 and more
    assert score("-", "--out", "long.jsonl", cwd=folder, stdin=listed).returncode == 0
    (folder / "long.jsonl").rename(folder / "long.parquet.part")
    done = shell("ulimit -f 1; $score - --out long.parquet --resume", folder, listed)
    assert_one_line(done, "File too large. Make room: the rows so far are in long.parquet.part")
    assert score("-", "--out", "long.parquet", "--resume", cwd=folder, stdin=listed).stderr.startswith(b"0 scored")


def test_an_error_from_before_resuming_counts_for_the_exit_code(folder: Path) -> None:
    for kind in ("csv", "jsonl", "parquet"):
        assert score("photos/a.png", "no.png", "--out", f"s.{kind}", cwd=folder).returncode == 3
        done = score("photos", "no.png", "--out", f"s.{kind}", "--resume", cwd=folder)
        assert done.returncode == 3
        assert done.stderr.startswith(b"1 scored, 0 errors, ")
        assert done.stderr.endswith(b"; 1 of the rows from before with errors\n")
    assert score("photos", "--out", "fine.csv", cwd=folder).returncode == 0
    assert score("photos", "--out", "fine.csv", "--resume", cwd=folder).returncode == 0


def test_a_list_of_find_print0_is_read(folder: Path) -> None:
    (folder / "photos" / "line\nfeed\r.png").write_bytes(saved(scene(2), "png"))
    done = shell("find photos -name '*.png' -print0 | sort -z | $score - --out scores.csv", folder)
    assert done.returncode == 0, done.stderr
    assert paths((folder / "scores.csv").read_bytes()) == [*PHOTOS, "photos/line\nfeed\r.png"]
    assert score("photos", "--out", "scores.csv", "--resume", cwd=folder).stderr.startswith(b"0 scored, 0 errors")


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_list_as_windows_writes_it_is_read(folder: Path, encoding: str) -> None:
    done = score("-", cwd=folder, stdin="photos/a.png\r\nphotos/b.png\r\n".encode(encoding))
    assert (done.returncode, paths(done.stdout)) == (0, PHOTOS)


def test_an_image_on_stdin_is_told(folder: Path) -> None:
    done = score("-", cwd=folder, stdin=(folder / "photos" / "a.png").read_bytes())
    assert_one_line(done, "There is an image on stdin (PNG 96x64), not a list")


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_the_c_locale_writes_the_same_file_and_resumes_it(folder: Path, kind: str) -> None:
    for name in ("日本.png", os.fsdecode(b"caf\xe9.png")):
        (folder / "photos" / name).write_bytes(saved(scene(2), "png"))
    assert score("photos", "--out", f"c.{kind}", cwd=folder, **C_LOCALE).returncode == 0
    assert score("photos", "--out", f"utf8.{kind}", cwd=folder).returncode == 0
    assert (folder / f"c.{kind}").read_bytes() == (folder / f"utf8.{kind}").read_bytes()
    for locale in (C_LOCALE, {}):
        done = score("photos", "--out", f"c.{kind}", "--resume", cwd=folder, **locale)
        assert done.stderr.startswith(b"0 scored, 0 errors")


def lay_record(kind: str, record: Path) -> None:
    good = json.loads(record.read_text())
    record.unlink()
    if kind == "a folder":
        record.mkdir()
    elif kind == "a FIFO":
        os.mkfifo(record)
    elif kind == "a broken link":
        record.symlink_to("nowhere")
    else:
        texts = {"no UTF-8": b'{"a": "caf\xe9"}', "a list": b"[]", "deep": b"[" * 200_000}
        record.write_bytes(texts.get(kind) or json.dumps({**good, "precision": 3}).encode())


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("a folder", "Cannot read mean.onnx.json: it is a folder"),
        ("a FIFO", "Cannot read mean.onnx.json: it is a FIFO"),
        ("a broken link", "Cannot read mean.onnx.json: it is a link to nowhere, which is missing"),
        ("no UTF-8", "mean.onnx.json: The artifact's record cannot be read ('utf-8' codec can't decode byte 0xe9"),
        ("a list", "record cannot be read (it is a list)"),
        ("deep", "record cannot be read (maximum recursion depth exceeded"),
        ("of other types", "record cannot be read (precision is 3)"),
    ],
)
def test_a_record_that_cannot_be_read_is_one_line(folder: Path, kind: str, words: str) -> None:
    lay_record(kind, folder / "mean.onnx.json")
    assert_one_line(score("photos", cwd=folder), words)
    table = [sys.executable, "-m", "musiq_export.cli", "--table", "."]
    assert_one_line(subprocess.run(table, cwd=folder, capture_output=True, env=ENVIRONMENT, timeout=300), words)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("photos", "Cannot read photos: it is a folder"),
        ("fifo.onnx", "Cannot read fifo.onnx: it is a FIFO"),
        ("link.onnx", "Cannot read link.onnx: it is a link to nowhere, which is missing"),
        ("missing.onnx", "There is no file missing.onnx"),
        (os.fsdecode(b"caf\xe9.onnx"), "The name caf\\udce9.onnx is no UTF-8"),
    ],
)
def test_a_model_that_cannot_be_read_is_one_line(folder: Path, name: str, words: str) -> None:
    os.mkfifo(folder / "fifo.onnx")
    (folder / "link.onnx").symlink_to("nowhere")
    save_mean_model(folder / "mean.onnx").rename(folder / os.fsdecode(b"caf\xe9.onnx"))
    command = [*COMMAND, "photos", "--model", name]
    assert_one_line(subprocess.run(command, cwd=folder, capture_output=True, env=ENVIRONMENT, timeout=300), words)
