"""Hundreds of damaged and malicious files through the real command: none crashes, hangs or fills memory, all are told."""

from __future__ import annotations

import csv
import struct
import subprocess
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from tests.score_samples import save_mean_model, saved, scene

ROOT = Path(__file__).resolve().parents[3]
SECONDS = 120
MAX_PIXELS = 4_000_000
MEBIBYTES = 450
"""Peak memory allowed, of which Python, OpenCV and ONNX Runtime take about 150 before the first image."""


def originals() -> dict[str, bytes]:
    """Real files in every format that can be written here."""
    colour = scene(1, 150, 210)
    alpha = np.dstack([colour, scene(2, 150, 210)[..., 0]])
    frames = [Image.fromarray(scene(seed, 60, 80)) for seed in (3, 4, 5)]
    deep = np.ascontiguousarray(colour).astype(np.uint16) * 257
    return {
        "baseline.jpg": saved(colour, "jpeg"),
        "progressive.jpg": saved(colour, "jpeg", progressive=True),
        "cmyk.jpg": saved(Image.fromarray(colour).convert("CMYK"), "jpeg"),
        "alpha.png": saved(alpha, "png"),
        "palette.png": saved(Image.fromarray(colour).quantize(50), "png"),
        "deep.png": cv2.imencode(".png", deep)[1].tobytes(),
        "moving.png": saved(frames[0], "png", save_all=True, append_images=frames[1:]),
        "lossy.webp": saved(colour, "webp"),
        "lossless.webp": saved(alpha, "webp", lossless=True),
        "moving.webp": saved(frames[0], "webp", save_all=True, append_images=frames[1:]),
        "plain.bmp": saved(colour, "bmp"),
        "palette.bmp": saved(Image.fromarray(colour).quantize(50), "bmp"),
        "lzw.tif": saved(colour, "tiff", compression="tiff_lzw"),
        "jpeg.tif": saved(colour, "tiff", compression="jpeg"),
        "alpha.tif": saved(alpha, "tiff", compression="tiff_adobe_deflate"),
        "deep.tif": cv2.imencode(".tiff", deep)[1].tobytes(),
        "still.gif": saved(colour, "gif"),
        "moving.gif": saved(frames[0], "gif", save_all=True, append_images=frames[1:]),
        "colour.avif": saved(colour, "avif"),
        "alpha.avif": saved(alpha, "avif"),
    }


def damaged(files: dict[str, bytes]) -> Iterator[tuple[str, bytes]]:
    """Each file cut, with bytes flipped (in its header and anywhere), and spliced with another."""
    rng = np.random.default_rng(7)
    names = list(files)
    for name, data in files.items():
        for i in range(6):
            yield f"cut{i}-{name}", data[: rng.integers(1, len(data))]
        for i in range(12):
            flipped = bytearray(data)
            reach = min(len(data), 200) if i % 2 else len(data)
            for at in rng.integers(2, reach, 1 + i):
                flipped[at] = rng.integers(256)
            yield f"flip{i}-{name}", bytes(flipped)
        for i in range(5):
            other = files[names[rng.integers(len(names))]]
            at = int(rng.integers(8, len(data)))
            yield f"splice{i}-{name}", data[:at] + other[int(rng.integers(len(other))) :]


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width: int, height: int, *chunks: bytes) -> bytes:
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + b"".join(chunks) + chunk(b"IEND", b"")


def tiff(**tags: int) -> bytes:
    """A TIFF of one directory with those whole-number tags and 64 bytes of samples."""
    numbers = {
        "width": 256, "height": 257, "bits": 258, "packing": 259, "colour": 262, "offset": 273, "samples": 277,
        "strip_rows": 278, "strip_bytes": 279, "tile_width": 322, "tile_height": 323, "tile_offset": 324, "tile_bytes": 325,
    }  # fmt: skip
    entries = sorted((numbers[name], value) for name, value in tags.items())
    body = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in entries)
    return b"II*\0" + struct.pack("<IH", 8, len(entries)) + body + bytes(4) + bytes(64)


def bombs() -> dict[str, bytes]:
    """Small files that claim, or unpack to, very much."""
    zeros = zlib.compress(bytes(400_000_000), 9)
    row = chunk(b"IDAT", zlib.compress(bytes(16 * (1 + 48))))
    wide = Image.fromarray(np.zeros((3000, 3000, 3), np.uint8))
    avif, webp, gif = saved(wide, "avif"), saved(wide, "webp"), bytearray(saved(scene(1, 200, 200), "gif"))
    at = avif.index(b"ispe")
    gif[6:10] = struct.pack("<HH", 10, 10)
    riff = b"VP8X" + struct.pack("<I", 10) + bytes(4) + bytes([15, 0, 0, 15, 0, 0]) + webp[12:]
    jpeg = saved(scene(1, 100, 100), "jpeg", progressive=True)
    scans = jpeg.index(b"\xff\xda")
    grey = {"bits": 8, "packing": 1, "colour": 1, "samples": 1, "offset": 150, "strip_bytes": 64}
    return {
        "claim.png": png(100_000, 100_000, chunk(b"IDAT", zeros)),
        "honest.png": png(12_000, 11_000, chunk(b"IDAT", zeros)),
        "overflow.png": png(2**31 - 1, 2**31 - 1, row),
        "too-much-data.png": png(16, 16, chunk(b"IDAT", zeros)),
        "profile.png": png(16, 16, chunk(b"iCCP", b"x\0\0" + zeros), row),
        "text.png": png(16, 16, chunk(b"zTXt", b"x\0\0" + zeros), row),
        "chunks.png": png(16, 16, *[chunk(b"tEXt", b"")] * 300_000, row),
        "claim.bmp": b"BM" + struct.pack("<IIIIiiHHIIiiII", 1000, 0, 54, 40, 100_000, 100_000, 1, 24, 0, 0, 0, 0, 0, 0),
        "negative.bmp": b"BM" + struct.pack("<IIIIiiHHIIiiII", 99, 0, 54, 40, -(2**31), -(2**31), 1, 24, 0, 0, 0, 0, 0, 0),
        "palette.bmp": b"BM" + struct.pack("<IIIIiiHHIIiiII", 99, 0, 54, 40, 9, 9, 1, 8, 0, 0, 0, 0, 2**31 - 1, 0),
        "claim.gif": b"GIF89a" + struct.pack("<HH", 65535, 65535) + bytes(30),
        "beyond-screen.gif": bytes(gif),
        "claim.tif": tiff(width=100_000, height=100_000, strip_rows=100_000, **grey),
        "strips.tif": tiff(width=16, height=16, strip_rows=1, **{**grey, "strip_bytes": 2**32 - 1}),
        "tiles.tif": tiff(
            width=16, height=16, tile_width=65_520, tile_height=65_520, tile_offset=150, tile_bytes=64,
            bits=8, packing=1, colour=1, samples=1,
        ),
        "samples.tif": tiff(width=1000, height=1000, strip_rows=1000, **{**grey, "samples": 65_535}),
        "loop.tif": b"II*\0" + struct.pack("<IHHHIII", 8, 1, 256, 4, 1, 16, 8),
        "claim.webp": b"RIFF\x1e\0\0\0WEBPVP8L\x11\0\0\0\x2f" + struct.pack("<I", 16_383 | 16_383 << 14) + bytes(12),
        "small-canvas.webp": b"RIFF" + struct.pack("<I", 4 + len(riff)) + b"WEBP" + riff,
        "small-claim.avif": avif[: at + 8] + struct.pack(">II", 16, 16) + avif[at + 16 :],
        "claim.avif": avif[: at + 8] + struct.pack(">II", 100_000, 100_000) + avif[at + 16 :],
        "claim.jpg": b"\xff\xd8\xff\xc0\0\x11\x08" + struct.pack(">HH", 65_500, 65_500) + bytes(10) + b"\xff\xda",
        "scans.jpg": jpeg[:scans] + jpeg[scans : jpeg.index(b"\xff\xda", scans + 2)] * 5000 + jpeg[scans:],
        "segments.jpg": b"\xff\xd8" + b"\xff\xfe\0\2" * 500_000 + jpeg[2:],
        "fill.jpg": b"\xff\xd8" + b"\xff" * 5_000_000,
    }  # fmt: skip


WATCHED = """
import atexit, pathlib, sys
peak, status = pathlib.Path(sys.argv.pop(1)), pathlib.Path("/proc/self/status")
atexit.register(lambda: peak.write_text(status.read_text().split("VmHWM:")[1].split()[0]))
from musiq.cli import main
main()
"""


def run_limited(arguments: list[str], folder: Path) -> tuple[int, float, str]:
    """The exit code, the peak memory in MiB and stderr of musiq-score, which is given SECONDS.

    The peak is the process's own VmHWM: ru_maxrss counts what the forking test process held, too.
    """
    command = ["timeout", str(SECONDS), sys.executable, "-c", WATCHED, str(folder / "peak"), *arguments]
    with (folder / "stderr").open("wb") as stderr:
        code = subprocess.run(command, stderr=stderr, cwd=ROOT, check=False).returncode
    return code, int((folder / "peak").read_text()) / 1024, (folder / "stderr").read_text(errors="replace")


@pytest.mark.skipif(sys.platform != "linux", reason="the memory of a child is measured as Linux counts it")
def test_no_damaged_or_malicious_file_stops_the_run_and_each_has_its_row(tmp_path: Path) -> None:
    files = originals()
    hostile = dict(damaged(files)) | {f"bomb-{name}": data for name, data in bombs().items()}
    assert len(hostile) > 450
    images = tmp_path / "images"
    images.mkdir()
    for name, data in (hostile | files).items():
        (images / name).write_bytes(data)
    model, out = save_mean_model(tmp_path / "mean.onnx"), tmp_path / "scores.csv"

    options = ["--model", str(model), "--out", str(out), "--max-pixels", str(MAX_PIXELS), "--workers", "2"]
    code, peak, stderr = run_limited([str(images), *options], tmp_path)

    assert code == 3, stderr[-2000:]
    assert peak < MEBIBYTES
    assert len(stderr.splitlines()) == 1, stderr[-2000:]  # the closing line: no decoder's chatter
    rows = {Path(row["path"]).name: row for row in csv.DictReader(out.open(newline=""))}
    assert set(rows) == set(hostile) | set(files)
    for name, row in rows.items():
        assert bool(row["score"]) != bool(row["error"]), name
        assert "\n" not in row["error"]
    for name in files:
        assert rows[name]["error"] == ""
    assert [name for name, row in rows.items() if name.startswith("cut") and not row["error"]] == []
    for kind in ("png", "bmp", "gif", "tif", "webp", "avif", "jpg"):
        assert "pixels; at most 4,000,000" in rows[f"bomb-claim.{kind}"]["error"]
    assert "pixels; at most 4,000,000" in rows["bomb-honest.png"]["error"]
