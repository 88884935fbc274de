"""report.html: whole, harmless and readable, in a parser and, where there is one, in a browser."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from musiq_bench.report.html import page
from musiq_bench.report.plots import draw
from musiq_bench.report.schema import Report
from tests.browser import Browser
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


CLICK = "[...document.querySelectorAll('thead button')].find((each) => each.textContent === '{}').click()"
CELLS = (
    "[...document.querySelectorAll('tbody tr')].map((row) => row.cells[[...row.closest('table').tHead.rows[0].cells]"
)
CELLS += ".findIndex((head) => head.textContent === '{}')].textContent)"
SORTS = (
    "[...document.querySelectorAll('thead [aria-sort]')].map((it) => [it.textContent, it.getAttribute('aria-sort')])"
)


@pytest.mark.parametrize("width", [390, 1280])
def test_a_browser_shows_it_sorts_it_and_has_nothing_to_complain_of(written: str, width: int, tmp_path: Path) -> None:
    (tmp_path / "report.html").write_text(written)
    with Browser(tmp_path, width, 800) as browser:

        def shown(title: str) -> list[str]:
            return list(browser.value(f"{CELLS.format(title)}.slice(0, 8)"))

        browser.open(tmp_path / "report.html")
        assert browser.value("[document.documentElement.scrollWidth, innerWidth]") == [width, width]
        table, room = browser.value(
            "(({ scrollWidth, clientWidth }) => [scrollWidth, clientWidth])(document.querySelector('.scroll'))"
        )
        assert table > room  # so it scrolls in its own box
        plots = browser.value(
            "[...document.querySelectorAll('figure svg')].map((it) => it.getBoundingClientRect().width)"
        )
        assert len(plots) == 3
        assert min(plots) > 300
        before = shown("p50 ms")
        numbers = sorted(float(each) for each in before if each != "no memory")
        for way, sort in ((1, "ascending"), (-1, "descending")):
            browser.value(CLICK.format("p50 ms"))
            after = shown("p50 ms")
            assert before != after
            assert after == [f"{each:.1f}" for each in numbers[::way]] + ["no memory"]
            assert browser.value(SORTS) == [["p50 ms", sort]]
        browser.value(CLICK.format("model"))
        assert browser.value(SORTS) == [["model", "ascending"]]
        assert shown("model")[0] == EVIL
        assert browser.value("window.evil ?? null") is None
        assert browser.said == []
