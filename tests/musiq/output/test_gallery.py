"""`musiq-score --gallery`: a page that is whole or not there, harmless whatever names hold, and good to click through."""

from __future__ import annotations

import base64
import io
import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote_to_bytes

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from musiq.cli import main
from musiq.output.gallery import Gallery
from musiq.scoring import Row
from musiq.scoring.thumbnails import thumbnail
from tests.browser import Browser
from tests.score_samples import mean_spec, save_mean_model, saved, scene

ROOT = Path(__file__).resolve().parents[3]
EVIL = "</script><img src=x onerror='window.evil=1'>\"'&<!--"  # no slash in a file's name: its parts are folders
ODD = [f"{EVIL}.png", "日本 ‮gnp.txt", os.fsdecode(b"caf\xe9.png"), "x" * 240 + ".png", "50% #1?.png"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    save_mean_model(tmp_path / "mean.onnx", score_range=(0.0, 255.0), target="mean of all samples")
    (tmp_path / "photos").mkdir()
    for number in range(6):
        (tmp_path / "photos" / f"{number}.png").write_bytes(saved(scene(number), "png"))
    (tmp_path / "photos" / "empty.jpg").write_bytes(b"")
    return tmp_path


def score(*arguments: str) -> Result:
    return CliRunner().invoke(main, [*arguments, "--model", "mean.onnx"])


def data_of(page: Path) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page.read_text(), re.DOTALL)
    assert found
    return dict(json.loads(found[1]))


def thumbnails_of(page: Path) -> list[bytes]:
    text = page.read_text().split('<template id="thumbnails">')[1].split("</template>")[0]
    return [base64.b64decode(each) for each in re.findall(r"<p>(.*?)</p>", text)]


def test_the_page_has_every_row_by_score_with_its_thumbnail_and_what_they_are_of(folder: Path) -> None:
    done = score("photos", "--gallery", "made/page.html", "--background", "black")
    assert done.exit_code == 3
    assert done.stderr.endswith("To look at: made/page.html\n")
    assert done.stdout.count("\n") == 8
    assert [path.name for path in (folder / "made").iterdir()] == ["page.html"]
    found = data_of(folder / "made" / "page.html")
    assert found["target"] == "mean of all samples"
    assert found["range"] == [0, 255]
    assert found["models"][0].startswith("mean@")
    assert found["settings"] == {"--resize": "cover", "--background": "black"}
    assert re.fullmatch(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", found["created"])
    means = {f"photos/{number}.png": float(scene(number).mean()) for number in range(6)}
    *scored, failed = found["images"]
    assert [row[0] for row in scored] == sorted(means, key=lambda name: -means[name])
    assert [row[1] for row in scored] == pytest.approx(sorted(means.values(), reverse=True), abs=1e-3)
    assert (failed[0], failed[1]) == ("photos/empty.jpg", None)
    assert failed[4].startswith("The file is empty.")
    *small, none = thumbnails_of(folder / "made" / "page.html")
    assert none == b""
    for row, data in zip(scored, small, strict=True):
        with Image.open(io.BytesIO(data)) as image:
            assert image.size == (96, 64)
            assert sum(image.convert("RGB").resize((1, 1), Image.Resampling.BOX).getpixel((0, 0))) / 3 == pytest.approx(
                means[row[0]], abs=4
            )
        assert (folder / "made" / os.fsdecode(unquote_to_bytes(row[7]))).samefile(folder / row[0])


def test_the_page_of_a_run_that_goes_on_is_that_of_one_that_did_not_stop(folder: Path) -> None:
    assert score("photos", "--out", "whole.csv", "--gallery", "whole.html").exit_code == 3
    assert score("photos/0.png", "photos/1.png", "nowhere.png", "--out", "rows.csv").exit_code == 3
    done = score("photos", "--out", "rows.csv", "--resume", "--gallery", "page.html")
    assert done.exit_code == 3, done.stderr
    whole, page = folder / "whole.html", folder / "page.html"
    with_nowhere = [[*row[:6], *row[7:]] for row in data_of(page)["images"]]
    assert [row for row in with_nowhere if row[0] != "nowhere.png"] == [
        [*row[:6], *row[7:]] for row in data_of(whole)["images"]
    ]
    assert thumbnails_of(page)[:6] == thumbnails_of(whole)[:6]
    (folder / "photos" / "0.png").unlink()  # of what is gone there is no thumbnail, and its row stays
    assert score("photos", "--out", "rows.csv", "--resume", "--gallery", "page.html").exit_code == 3
    images = data_of(page)["images"]
    assert [bool(each) for each in thumbnails_of(page)] == [
        row[1] is not None and row[0] != "photos/0.png" for row in images
    ]


@pytest.mark.parametrize("resume", [False, True])
def test_a_video_and_its_frames_have_thumbnails(folder: Path, resume: bool) -> None:
    greys = [Image.new("RGB", (64, 48), (level, level, level)) for level in (40, 120, 200)]
    greys[0].save(folder / "clip.gif", save_all=True, append_images=greys[1:], duration=100)
    for way in ([], ["--per-frame"]):
        command = ["clip.gif", "--frames", "all", "--out", "rows.csv", *way]
        assert not resume or score(*command).exit_code == 0
        done = score(*command, "--gallery", "page.html", *(["--resume"] if resume else []))
        assert done.exit_code == 0, done.output
        assert all(thumbnails_of(folder / "page.html"))
        videos = [row[9] for row in data_of(folder / "page.html")["images"]]
        if way:
            assert [video["frame"] for video in videos] == [2, 1, 0]
        else:
            assert videos == [pytest.approx({"frames": 3, "min": 40, "median": 120, "max": 200}, abs=3)]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--gallery", "page.png"], "page.png does not end like one: name it page.html."),
        (["--gallery", "folder.html"], "Cannot write folder.html: it is a folder"),
        (["--gallery", "image.html"], "Cannot write image.html: it is an image, which the page would replace"),
        (["listed.htm", "--gallery", "./listed.htm"], "it is among the images to score. Give another --gallery."),
        (["--out", "a.html", "--format", "csv", "--gallery", "a.html"], "--out and --gallery are both a.html"),
        (["--gallery", "mean.onnx/page.html"], "Cannot write mean.onnx/page.html: "),
        (["--gallery", "page.html", "--engine", "ray"], "--gallery is for --engine local"),
    ],
)
def test_a_page_that_cannot_be_is_one_line_before_anything_is_scored(
    folder: Path, arguments: list[str], words: str
) -> None:
    (folder / "folder.html").mkdir()
    (folder / "listed.htm").write_text("mine")
    (folder / "image.html").write_bytes(saved(scene(), "png"))
    before = sorted(path.name for path in folder.iterdir())
    done = score("photos", *arguments)
    assert (done.exit_code, done.stdout, done.stderr.count("\n")) == (1, "", 1), done.output
    assert words in done.stderr
    assert sorted(path.name for path in folder.iterdir()) == before


def test_a_full_disk_leaves_the_page_of_before_and_the_rows(folder: Path) -> None:
    (folder / "page.html").write_text("before")
    command = f"ulimit -f 50; {sys.executable} -m musiq.cli photos --model mean.onnx --out rows.csv --gallery page.html"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, shell=True, cwd=folder, capture_output=True, env=environment, timeout=300)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith(b"Error: Cannot write page.html: File too large")
    assert (folder / "page.html").read_text() == "before"
    assert (folder / "rows.csv").read_bytes().count(b"\n") == 8
    assert sorted(path.name for path in folder.iterdir()) == [
        "mean.onnx",
        "mean.onnx.json",
        "page.html",
        "photos",
        "rows.csv",
    ]


def made_page(page: Path, count: int = 60, grain: float = 0) -> list[Row]:
    """A page of rows from 0 upwards in steps of 1, some with names and reasons that want to be more than text; `grain` is
    noise that makes thumbnails larger."""
    noise = np.random.default_rng(0).normal(0, grain, (5, 144, 192, 3))
    small = [thumbnail(np.clip(scene(seed, 144, 192) + noise[seed], 0, 255).astype(np.uint8)) for seed in range(5)]
    rows = [
        Row(f"photos/{number}.png", float(number), "resized 0.5x", size="96x64", model="a", thumbnail=small[number % 5])
        for number in range(count)
    ]
    rows[3] = replace(rows[3], path="clip.mp4", frames=8, min=1.0, median=2.5, max=5.25)
    rows[4] = replace(rows[4], path="clip.mp4", frame=12, time_s=0.4)
    rows[7:7] = [Row(name, None, error=f"{EVIL} {index}", model="a") for index, name in enumerate(ODD)]
    with Gallery(page, mean_spec(), ["a", EVIL], {"--resize": EVIL}) as gallery:
        for row in rows:
            gallery.add(row)
        gallery.finish()
    return rows


def test_no_text_of_a_row_is_more_than_text_and_the_page_asks_nobody(tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    rows = made_page(page)
    text = page.read_text()
    assert EVIL not in text
    assert text.count("<script") == text.count("</script>") == 2
    assert not re.search(r"@import|url\(|https?:", text)
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', text)
    assert policy
    assert policy[1].startswith("default-src 'none'; img-src data:;")
    assert {row[0] for row in data_of(page)["images"]} == {row.path for row in rows}


SHOWN = "[...document.querySelectorAll('#grid bdi')].map((each) => each.textContent)"
COUNT = "document.getElementById('count').textContent"
FOCUSED = "document.activeElement.querySelector('bdi')?.textContent"
DETAIL = "(() => { const it = document.querySelector('dialog'); return it.open && it.innerText; })()"


@pytest.mark.parametrize("phone", [False, True])
def test_a_browser_clicks_through_it(tmp_path: Path, phone: bool) -> None:
    page = tmp_path / "page.html"
    made_page(page)
    with Browser(tmp_path, *((390, 844) if phone else (1280, 900)), phone=phone) as browser:
        browser.open(page)
        width = 390 if phone else 1280
        assert browser.value("[document.documentElement.scrollWidth, innerWidth]") == [width, width]
        assert browser.value(SHOWN)[:3] == ["59.png", "58.png", "57.png"]
        assert browser.value("document.querySelector('#grid img').alt") == "59.png"
        assert browser.value("document.querySelector('#grid img').naturalWidth") == 192
        assert browser.value("document.getElementById('quartiles').textContent").startswith(
            "From 0.0 to 59.0, median 29.5"
        )

        browser.click("input[value=worst] + span")
        assert browser.value(SHOWN)[:5] == ["0.png", "1.png", "2.png", "clip.mp4", "clip.mp4 at 0.4 s"]
        browser.click("input[value=place] + span")
        assert browser.value(SHOWN)[6:8] == ["6.png", EVIL.split("/")[-1] + ".png"]
        browser.click("#failed")
        assert browser.value(COUNT) == "5 of 65"
        assert EVIL in browser.value("document.querySelector('#grid .why').textContent")
        browser.click("#reset")

        browser.click("input[value=best] + span")
        browser.click("#bars button:nth-child(3)")
        assert browser.value("document.querySelector('#bars button:nth-child(3)').title") == "10.0 to 15.0: 5 images"
        assert browser.value(SHOWN) == ["14.png", "13.png", "12.png", "11.png", "10.png"]
        browser.click("#to")
        browser.order("Input.dispatchKeyEvent", type="keyDown", key="a", commands=["selectAll"])
        browser.write("12")
        assert browser.value(SHOWN) == ["12.png", "11.png", "10.png"]
        browser.click("#reset")
        browser.click("#name")
        browser.write("5.PNG")
        assert browser.value(COUNT) == "6 of 65"
        browser.write("none such")
        assert browser.value("document.getElementById('nothing').innerText").startswith("No image is like that.")
        browser.click("#nothing button")
        assert browser.value(COUNT) == "All 65"

        browser.click("#grid button")
        said = browser.value(DETAIL)
        for words in ("photos/59.png", "59 of the other 59", "96x64", "resized 0.5x", "65 of 65 given"):
            assert words in said
        browser.press("ArrowRight")
        assert "photos/58.png" in browser.value(DETAIL)
        browser.press("Escape")
        assert [browser.value(DETAIL), browser.value(FOCUSED)] == [False, "58.png"]
        browser.press("ArrowDown")
        assert browser.value(FOCUSED) == f"{58 - browser.value('columns')}.png"
        browser.press("End")
        browser.press("Enter")
        assert f"{ODD[-1]}\n" in browser.value(DETAIL)
        browser.click("dialog [value=close]")
        browser.press("Home")
        assert browser.value(FOCUSED) == "59.png"

        browser.click("#bars button:nth-child(2)")
        browser.press("ArrowRight")
        browser.press("Enter")
        assert browser.value(SHOWN)[0] == "14.png"
        assert browser.value("window.evil ?? null") is None
        assert browser.said == []
        assert {address.split(",")[0] for address in browser.asked} == {page.as_uri(), "data:image/webp;base64"}


@pytest.mark.slow
def test_a_page_of_ten_thousand_stays_quick_and_small(tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    made_page(page, 10_000, grain=12)  # some 4 kB each, as photographs have
    timed = """(async () => {
      const start = performance.now();
      %s;
      document.body.offsetHeight;
      await new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)));
      return performance.now() - start;
    })()"""
    with Browser(tmp_path) as browser:
        browser.open(page)
        took = {"loaded": browser.value("performance.getEntriesByType('navigation')[0].loadEventEnd")}
        for what, script in {
            "name": "document.querySelector('[value=name]').click()",
            "worst": "document.querySelector('[value=worst]').click()",
            "bar": "document.querySelector('#bars button').click()",
            "all": "document.getElementById('reset').click()",
            "middle": "scrollTo(0, document.body.scrollHeight / 2)",
        }.items():
            took[what] = browser.value(timed % script)
        assert browser.value("document.querySelectorAll('*').length") < 2000
        assert len(browser.value(SHOWN)) < 200
        browser.value("scrollTo(0, document.body.scrollHeight)")
        browser.settled()
        assert browser.value(SHOWN)[-1] == ODD[-1]
        assert browser.said == []
    print(f"{page.stat().st_size / 1e6:.1f} MB", {what: f"{ms:.0f} ms" for what, ms in took.items()})
    assert took.pop("loaded") < 10_000
    assert max(took.values()) < 1_500
