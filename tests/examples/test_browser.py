"""`examples/browser`: a page that scores as musiq-score does, on its own, also without a network."""

from __future__ import annotations

import base64
import csv
import functools
import json
import os
import runpy
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import pytest
from PIL import Image

import musiq
from musiq.artifact import Record, write_record
from musiq.bundled import bundled_artifact
from musiq.files import sha256
from musiq.images import decode
from musiq.images.fit import Resize
from tests.browser import Browser
from tests.score_samples import exif, mean_spec, save_mean_model, saved, scene

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "examples" / "browser"
PHOTOS = ROOT / "examples" / "photos"
TWELVE = ["canyon-wren.jpg", "extreme-desert-hike.jpg", *(path.name for path in sorted(PHOTOS.glob("*.JPG"))[::5][:10])]
RANGE = (0.0, 255.0)
PROBLEM = "document.getElementById('problem').textContent"


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """The address of a folder on a plain static server."""
    with ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://localhost:{server.server_port}/"
        server.shutdown()


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """The page as a checkout has it, with a model whose score is the mean of what it sees: 384 pixels of a longer side."""
    folder = tmp_path / "site"
    shutil.copytree(PAGE, folder, ignore=shutil.ignore_patterns("vendor", "model.onnx", "*.py", ".*"))
    facts = {"resize": "longer=384", "score_range": RANGE, "target": "mean of all samples"}
    path = save_mean_model(folder / "model.onnx", height=None, width=None, **facts)
    model = onnx.load(path)
    said = {"input.name": "image", "input.size": "any, one size in a call", "input.resize": "longer=384: in words: so"}
    said |= {"output.range": "0..255", "output.target": "mean of all samples"}
    known = {each.key: each.value for each in model.metadata_props}
    onnx.helper.set_model_props(model, {**known, **said})
    onnx.save(model, path)
    write_record(path, Record(mean_spec(height=None, width=None, **facts), "onnx", "fp32", sha256(path)))
    return folder


@pytest.fixture
def complete(site: Path) -> Path:
    """That with ONNX Runtime, which the script fetches into the checkout where it is not there yet."""
    try:
        runpy.run_path(str(PAGE / "vendor.py"))["fetch_runtime"](PAGE / "vendor")
    except musiq.MusiqError as problem:
        pytest.skip(f"onnxruntime-web is not to be had here: {problem}")
    (site / "vendor").symlink_to(PAGE / "vendor")
    return site


def until(browser: Browser, script: str, seconds: float = 300) -> Any:
    """What an expression is worth once that is something; the page may load anew meanwhile."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            found = browser.value(script)
        except AssertionError:
            found = None
        if found:
            return found
        time.sleep(0.2)
    raise AssertionError((script, browser.value("document.body.innerText"), browser.said))


def go(browser: Browser, address: str, ready: str = "facts") -> None:
    browser.order("Page.navigate", url=address)
    until(browser, f"location.href === {json.dumps(address)} && document.readyState === 'complete' && {ready}")


def choose(browser: Browser, files: Sequence[Path]) -> None:
    root = browser.order("DOM.getDocument")["root"]["nodeId"]
    field = browser.order("DOM.querySelector", nodeId=root, selector="#files")["nodeId"]
    browser.order("DOM.setFileInputFiles", nodeId=field, files=[str(path) for path in files])


def rows_of(browser: Browser, count: int, folder: Path) -> list[dict[str, str]]:
    """Those of the CSV that the button saves, once so many are done."""
    until(browser, f"rows.length >= {count} && rows.every((row) => row.done)")
    path = folder / "scores.csv"
    path.unlink(missing_ok=True)
    browser.order("Page.setDownloadBehavior", behavior="allow", downloadPath=str(folder))
    browser.click("#save")
    end = time.monotonic() + 60
    while not path.is_file() or not path.stat().st_size:
        assert time.monotonic() < end, list(folder.iterdir())
        browser.settled()
        time.sleep(0.1)
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def in_page(browser: Browser, module: str, call: str, *arrays: np.ndarray) -> Any:
    """What a call to a module of the page gives; `arrays` are bytes there. Those that it gives come as base64."""
    given = ", ".join(
        f"Uint8Array.from(atob('{base64.b64encode(array).decode()}'), (each) => each.charCodeAt())" for array in arrays
    )
    found = browser.value(f"""import("/{module}").then((it) => ((...arrays) => {call})({given})).then((found) =>
      found instanceof Uint8Array ? "=" + btoa(Array.from(found, (each) => String.fromCharCode(each)).join("")) : found)""")
    return np.frombuffer(base64.b64decode(found[1:]), np.uint8) if str(found)[:1] == "=" else found


def test_pictures_get_the_size_and_the_pixels_that_opencv_gives_them(site: Path, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    sizes = [(500, 500, 384, 384), (640, 400, 320, 200), (900, 600, 300, 200), (301, 207, 150, 103), (61, 900, 26, 384)]
    sizes += [(1000, 1, 100, 1), (777, 1, 512, 1), (400, 300, 399, 299)]
    with served(site) as address, Browser(tmp_path) as browser:
        go(browser, f"{address}pixels.js", "true")
        for width, height, new_width, new_height in sizes:
            image = random.integers(0, 256, (height, width, 4), dtype=np.uint8)
            rgb = np.ascontiguousarray(image[..., :3])
            call = f"it.shrunk(arrays[0], {width}, {height}, {new_width}, {new_height})"
            expected = cv2.resize(rgb, (new_width, new_height), interpolation=cv2.INTER_AREA)
            assert np.array_equal(in_page(browser, "pixels.js", call, image), expected.ravel()), (width, height)
            assert np.array_equal(in_page(browser, "pixels.js", "it.withoutAlpha(arrays[0])", image), rgb.ravel())
        for policy in ("native", "longer=512", "shorter=333"):
            asked = random.integers(1, 2000, (300, 2)).tolist()
            call = f"{asked}.map(([width, height]) => it.sizeUnder(it.parsePolicy('{policy}: so'), width, height))"
            expected_sizes = [list(Resize.parse(policy).size(height, width)[::-1]) for width, height in asked]
            assert in_page(browser, "pixels.js", call) == expected_sizes


def test_the_page_reads_what_a_model_says_of_itself(site: Path, tmp_path: Path) -> None:
    data = (site / "model.onnx").read_bytes()
    said = {each.key: each.value for each in onnx.load(site / "model.onnx").metadata_props}
    with served(site) as address, Browser(tmp_path) as browser:
        go(browser, f"{address}pixels.js", "true")
        assert in_page(browser, "model-facts.js", "it.metadataOf(arrays[0])", np.frombuffer(data, np.uint8)) == said
        cut = "(() => { try { it.metadataOf(arrays[0]) } catch (problem) { return problem.message } })()"
        assert in_page(browser, "model-facts.js", cut, np.frombuffer(data[:-9], np.uint8)) == "It ends early."


def test_a_page_that_cannot_score_says_what_to_do(site: Path, tmp_path: Path) -> None:
    with served(site) as address, Browser(tmp_path) as browser:
        browser.open(site / "index.html")
        assert "python -m http.server 8000" in browser.value(PROBLEM)
        assert browser.value("document.getElementById('files').disabled") is True
        browser.order("Page.navigate", url=address)
        assert "Run vendor.py" in until(browser, PROBLEM)
        (site / "model.onnx").write_bytes(b"version https://git-lfs.github.com/spec/v1")
        os.utime(site / "model.onnx", (2e9, 2e9))  # servers tell what changed by whole seconds
        browser.order("Page.navigate", url=f"{address}?again")
        assert "is no ONNX file" in until(browser, f"location.search && {PROBLEM}")
        save_mean_model(site / "model.onnx")
        os.utime(site / "model.onnx", (2e9, 2e9 + 1))
        browser.order("Page.navigate", url=f"{address}?and=again")
        assert "is not for pictures of any size" in until(browser, f"location.search.length > 6 && {PROBLEM}")


def test_another_package_than_the_one_expected_is_refused(tmp_path: Path) -> None:
    (tmp_path / "other.tgz").write_bytes(b"not it")
    command = [sys.executable, PAGE / "vendor.py", "--into", tmp_path / "site", "--tarball", tmp_path / "other.tgz"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "its hash differs" in done.stderr
    assert not (tmp_path / "site").exists()


@pytest.mark.slow
def test_photos_get_the_scores_that_python_gives_them(complete: Path, tmp_path: Path) -> None:
    try:
        shutil.copy(bundled_artifact(), complete / "model.onnx")
        shutil.copy(f"{bundled_artifact()}.json", complete / "model.onnx.json")
    except musiq.MusiqError as problem:
        pytest.skip(str(problem))
    photos = [PHOTOS / name for name in TWELVE]
    pixels = [tmp_path / f"{photo.stem}.png" for photo in photos]  # which every decoder reads alike
    for photo, path in zip(photos, pixels, strict=True):
        Image.fromarray(decode(photo)).save(path, compress_level=1)
    files = [*photos, *pixels]
    with musiq.load(complete / "model.onnx") as scorer:
        expected = [row.score for row in scorer.score_many(files)]
        low, high = scorer.spec.score_range or RANGE
    with served(complete) as address, Browser(tmp_path) as browser:
        go(browser, address)
        choose(browser, files)
        found = [float(row["score"]) for row in rows_of(browser, len(files), tmp_path)]
        print(browser.value("document.getElementById('state').textContent"), browser.value("facts.threads"), "threads")
    apart = np.abs(np.array(found) - np.array(expected, np.float64))
    print("largest difference:", apart[:12].max(), "from JPEG,", apart[12:].max(), "of the same pixels")
    assert len(set(found)) >= len(TWELVE)
    assert apart[12:].max() <= 1e-3
    assert apart[:12].max() <= 0.005 * (high - low)


@pytest.mark.slow
@pytest.mark.parametrize("phone", [False, True])
def test_what_is_dropped_is_listed_with_its_score_or_its_reason(complete: Path, tmp_path: Path, phone: bool) -> None:
    folder = tmp_path / "dropped"
    folder.mkdir()
    image = scene(3, 300, 500)
    whole = saved(image, "jpeg", quality=95)
    files = {
        '1 = whole, "so".png': saved(image, "png"),
        "2 turned.jpg": saved(image, "jpeg", quality=95, exif=exif(6)),
        "3 cut.jpg": whole[: len(whole) // 2],
        "4 text.jpg": b"not a picture",
        "5 empty.png": b"",
        "6 clear.png": saved(np.dstack([image, np.zeros(image.shape[:2], np.uint8)]), "png"),
        "7 tall.png": saved(scene(5, 900, 61), "png"),
        "8 cut.png": saved(image, "png")[:-2000],
    }
    for name, data in files.items():
        (folder / name).write_bytes(data)
    (folder / "notes.txt").write_text("of a folder, only pictures count")
    with (
        served(complete) as address,
        Browser(tmp_path, *((390, 844) if phone else (1280, 900)), phone=phone) as browser,
    ):
        go(browser, address)
        data = {"items": [], "files": [str(folder)], "dragOperationsMask": 1}
        for kind in ("dragEnter", "dragOver", "drop"):
            browser.order("Input.dispatchDragEvent", type=kind, x=100, y=300, data=data)
        rows = rows_of(browser, len(files), tmp_path)
        assert [row["path"] for row in rows] == [f"dropped/{name}" for name in files]
        with musiq.load(complete / "model.onnx") as scorer:
            expected = list(scorer.score_many([folder / name for name in files]))
        for row, known in zip(rows, expected, strict=True):
            assert bool(row["error"]) == (known.score is None), row
            if known.score is not None:
                # WebAssembly adds up the 300,000 samples of this model's mean less exactly.
                assert float(row["score"]) == pytest.approx(known.score, abs=1)
                assert (row["size"], row["fitted"]) == (known.size, known.fitted)
                assert int(row["ms"]) >= 0
        assert rows[1]["size"] == "230x384"
        assert float(rows[5]["score"]) == pytest.approx(255, abs=1)
        reasons = [row["error"] for row in rows if row["error"]]
        assert [reason.split(".")[0] for reason in reasons] == [
            "The JPEG file is damaged or cut short",
            "This is no picture of a known kind",
            "The file is empty",
            "The PNG file is damaged, cut short or too large for this browser",
        ]
        listed = "[...document.querySelectorAll('#list li')].map((row) => row.innerText)"
        assert "384x230, resized 0.768x, " in browser.value(listed)[0]
        assert reasons[0] in browser.value(listed)[2]
        assert browser.value("document.querySelector('#list img').naturalWidth") == 192
        assert " a photo, 4 without a score" in browser.value("document.getElementById('state').textContent")
        assert browser.value("document.documentElement.scrollWidth <= innerWidth")

        browser.value("document.getElementById('order').focus()")
        browser.press("ArrowDown")  # best first
        until(browser, f"{listed}[0].includes('6 clear')")
        browser.press("Tab")
        browser.press("Tab")
        browser.press("Enter")  # clear
        assert browser.value("rows.length + document.activeElement.id") == "0files"
        assert [said for said in browser.said if "No available adapters" not in said] == []


@pytest.mark.slow
def test_once_loaded_it_works_without_its_server(complete: Path, tmp_path: Path) -> None:
    (tmp_path / "photo.png").write_bytes(saved(scene(1), "png"))
    with Browser(tmp_path) as browser:
        with served(complete) as address:
            go(browser, address)
            assert browser.value("crossOriginIsolated")
            until(browser, "caches.match('model.onnx').then(Boolean)")
        go(browser, f"{address}?no=server")  # there is none any more
        choose(browser, [tmp_path / "photo.png"])
        (row,) = rows_of(browser, 1, tmp_path)
        assert float(row["score"]) == pytest.approx(scene(1).mean(), abs=1e-3)


@pytest.mark.slow
def test_a_picture_at_which_the_model_gives_up_costs_no_other(complete: Path, tmp_path: Path) -> None:
    files = [tmp_path / "large.png", tmp_path / "small.png"]
    files[0].write_bytes(saved(scene(1, 2000, 3000), "png"))
    files[1].write_bytes(saved(scene(1), "png"))
    with served(complete) as address, Browser(tmp_path) as browser:
        go(browser, address)
        choose(browser, files)
        until(browser, "current")
        browser.value("worker.dispatchEvent(new ErrorEvent('error', {message: 'out of memory'}))")
        failed, other = rows_of(browser, 2, tmp_path)
    assert failed["error"] == "The browser gave up on it: out of memory"
    assert float(other["score"]) == pytest.approx(scene(1).mean(), abs=1e-3)


def test_no_file_of_the_page_names_another_site() -> None:
    for path in [*PAGE.glob("*.html"), *PAGE.glob("*.css"), *PAGE.glob("*.js")]:
        assert path.read_text().replace("http://localhost:8000", "").count("://") == 0, path
