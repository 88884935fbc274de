"""report.html: whole, harmless and readable, in a parser and, where there is one, in a browser."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from musiq_bench.report.html import page
from musiq_bench.report.plots import draw
from musiq_bench.report.schema import Report
from tests.made_report import made_report

EVIL = '<script>window.top.evil = 1</script>"\'&<img src=x onerror="window.top.evil = 1">'
VOID = {"meta", "img", "br", "hr", "input", "link"}


class Tags(HTMLParser):
    """Every tag with its attributes; the text; and whether each tag that was opened was closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.opened: list[str] = []
        self.cells: list[list[str]] = []
        self.text = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "tr":
            self.cells.append([])
        if tag in ("th", "td"):
            self.cells[-1].append("")
        if tag not in VOID:
            self.opened.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.opened.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.opened and self.opened[-1] not in ("script", "style"):
            self.text += data
        if {"th", "td"} & set(self.opened):
            self.cells[-1][-1] += data


def troubled() -> Report:
    """A report with everything that a page has to say, and text in it that wants to be more than text."""
    report = made_report()
    report.rows[1].model, report.rows[1].notes = EVIL, [EVIL]
    failed = report.rows[-1]
    failed.status, failed.reason, failed.latency_ms, failed.images_per_s = (
        "out of memory",
        f"SIGKILL {EVIL}",
        None,
        None,
    )
    failed.srcc = failed.plcc = failed.srcc_delta = None
    report.images["broken"] = [{"path": f"{index}.jpg", "reason": "it is empty"} for index in range(30)]
    report.command = f"musiq-bench --images '{EVIL}'"
    report.environment["gpus"] = [{"name": "a GPU", "memory.total": "8 GiB"}]
    report.interrupted = True
    return report


@pytest.fixture(scope="module")
def written() -> str:
    report = troubled()
    return page(report, draw(report))


def test_the_page_is_whole_and_says_all_that_the_report_does(written: str) -> None:
    found = Tags(written)
    assert found.opened == []
    head, *rows = found.cells
    assert len(rows) == 8
    assert {len(row) for row in rows} == {len(head)}
    for title in ("model", "p50 ms", "p90 ms", "CV", "SRCC", "PLCC", "mean diff", "file MB"):
        assert title in head
    first = dict(zip(head, rows[0], strict=True))
    latency = made_report().rows[0].latency_ms
    assert latency is not None
    assert first["p50 ms"] == f"{latency.p50:.1f}"
    assert first["SRCC"] == "0.8200"
    assert "0.7700 to 0.8600" in rows[0]
    for said in ("out of memory: SIGKILL", "Interrupted", "8 GiB", "split", "n200", "and 10 more"):
        assert said in found.text
    assert EVIL in rows[1]
    assert found.text.count(EVIL) >= 3


def test_the_page_asks_nobody_for_anything(written: str) -> None:
    tags = Tags(written).tags
    links = [value for _, attrs in tags for name, value in attrs.items() if name in ("src", "href", "xlink:href")]
    assert links
    assert all(value and value.startswith(("#", "data:image/png;base64,")) for value in links)
    assert not re.search(r"@import|url\((?!#)", written)
    assert [tag for tag, _ in tags].count("script") == 1
    policy = next(attrs["content"] for _, attrs in tags if attrs.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    assert policy.startswith("default-src 'none'; img-src data:;")
    assert not [name for _, attrs in tags for name in attrs if name.startswith("on")]
    ids = [attrs["id"] for _, attrs in tags if "id" in attrs]
    assert len(ids) == len(set(ids))


def test_a_page_without_plots_says_why() -> None:
    found = Tags(page(made_report(), [], "Plots need <matplotlib>."))
    assert found.opened == []
    assert "Plots need <matplotlib>." in found.text
    assert "svg" not in [tag for tag, _ in found.tags]


def test_a_page_of_failed_rows_alone_is_a_page() -> None:
    report = made_report(batches=(1,))
    for row in report.rows:
        row.status, row.reason, row.latency_ms, row.images_per_s = "crashed", "died", None, None
        row.srcc = row.plcc = None
    found = Tags(page(report, draw(report)))
    assert "0 rows measured, 4 not" in found.text
    assert found.text.count("crashed: died") == 4


HARNESS = """<!DOCTYPE html><body><iframe id="page" width="{width}" height="800" srcdoc="{page}"></iframe>
<pre id="out"></pre>
<script>
const frame = document.getElementById("page");
frame.addEventListener("load", () => {{
  const inside = frame.contentWindow, root = inside.document;
  const out = {{ errors: [] }};
  inside.onerror = (message) => out.errors.push(String(message));
  const heads = [...root.querySelectorAll("thead th")];
  const column = (title) => heads.findIndex((head) => head.textContent.trim() === title);
  const read = (title) => [...root.querySelectorAll("tbody tr")].map((row) => row.cells[column(title)].textContent);
  const click = (title) => heads[column(title)].querySelector("button").click();
  const sorts = () => heads.filter((head) => head.hasAttribute("aria-sort"))
    .map((head) => [head.textContent, head.getAttribute("aria-sort")]);
  out.before = read("p50 ms");
  click("p50 ms"); out.up = read("p50 ms"); out.upSort = sorts();
  click("p50 ms"); out.down = read("p50 ms"); out.downSort = sorts();
  click("model"); out.models = read("model"); out.modelSort = sorts();
  out.page = [root.documentElement.scrollWidth, inside.innerWidth];
  const box = root.querySelector(".scroll");
  out.table = [box.scrollWidth, box.clientWidth];
  out.evil = window.evil ?? null;
  out.plots = [...root.querySelectorAll("figure svg")].map((svg) => svg.getBoundingClientRect().width);
  document.getElementById("out").textContent = JSON.stringify(out);
}});
</script>"""


def in_browser(written: str, width: int, folder: Path) -> tuple[dict[str, Any], str]:
    """What a page of that width looks like from inside, and what the browser's console said."""
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no chromium or chrome is installed")
    # A frame, since a browser's window has a least width; by srcdoc, so that the page is the same and its policy holds.
    (folder / "harness.html").write_text(HARNESS.format(width=width, page=html.escape(written)))
    quiet = "--disable-quic --no-first-run --disable-background-networking --disable-component-update --disable-sync"
    log = ["--enable-logging=stderr", "--v=0", f"--user-data-dir={folder / 'profile'}", "--window-size=1400,900"]
    command = [browser, "--headless", "--no-sandbox", "--disable-gpu", *quiet.split(), *log, "--dump-dom"]
    done = subprocess.run(
        [*command, (folder / "harness.html").as_uri()], capture_output=True, text=True, timeout=300, check=True
    )
    found = re.search(r'<pre id="out">(.+?)</pre>', done.stdout, re.DOTALL)
    assert found, done.stderr
    console = "\n".join(line for line in done.stderr.splitlines() if "CONSOLE" in line)
    return json.loads(html.unescape(found[1])), console


@pytest.mark.parametrize("width", [390, 1280])
def test_a_browser_shows_it_sorts_it_and_has_nothing_to_complain_of(written: str, width: int, tmp_path: Path) -> None:
    found, console = in_browser(written, width, tmp_path)
    assert console == ""
    assert found["errors"] == []
    assert found["evil"] is None
    assert found["page"][1] in (width, width - 15)  # less a scroll bar
    assert found["page"][0] <= found["page"][1]
    assert found["table"][0] > found["table"][1]  # so it scrolls in its own box
    assert len(found["plots"]) == 3
    assert min(found["plots"]) > 300
    numbers = sorted(float(each) for each in found["before"] if each != "no memory")
    assert found["before"] != found["up"]
    assert [each for each in found["up"] if each != "no memory"] == [f"{each:.1f}" for each in numbers]
    assert [each for each in found["down"] if each != "no memory"] == [f"{each:.1f}" for each in numbers[::-1]]
    assert found["up"][-1] == found["down"][-1] == "no memory"
    assert found["upSort"] == [["p50 ms", "ascending"]]
    assert found["downSort"] == [["p50 ms", "descending"]]
    assert found["modelSort"] == [["model", "ascending"]]
    assert found["models"][0] == EVIL
