"""The plots of a report: what is drawn, where the names stand, and what has too few figures."""

from __future__ import annotations

import io
import itertools
import sys
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from matplotlib.text import Text
from scipy import optimize

from musiq.errors import MusiqError
from musiq_bench.report import plots
from musiq_bench.report.latency import summarise
from musiq_bench.report.plot_labels import apart
from musiq_bench.report.plot_style import names, short
from musiq_bench.report.plots import Plot, draw
from musiq_bench.report.schema import Report
from musiq_bench.report.write import write
from tests.made_report import MORE, RUNTIMES, made_report

CROWD = tuple(f"{name}-1024x768" for name in ("musiq", "resnet50", "resnet50-classic", "tiny", "another"))


def drawn(report: Report) -> dict[str, Plot]:
    return {plot.name: plot for plot in draw(report)}


def figures(report: Report, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """matplotlib's own figures, by the name of the plot, laid out but not made into images."""
    kept: dict[str, Any] = {}
    monkeypatch.setattr(plots, "_svg", lambda figure, name: kept.update({name: figure}) or "")
    monkeypatch.setattr(plots, "_png", lambda figure: figure.draw_without_rendering() or b"")
    draw(report)
    return kept


def overlapping(texts: list[Any]) -> list[tuple[str, str]]:
    # That of the text alone: an annotation's own extent has its arrow in it.
    boxes = [(text.get_text(), Text.get_window_extent(text)) for text in texts if text.get_text()]
    return [(one, other) for (one, a), (other, b) in itertools.combinations(boxes, 2) if a.overlaps(b)]


def pixels(png: bytes) -> Any:
    image = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR)
    assert image is not None
    return image


def test_each_plot_is_an_image_for_paper_and_one_for_a_page() -> None:
    found = drawn(made_report())
    assert list(found) == ["latency-srcc", "latencies", "images-per-second"]
    for plot in found.values():
        image = pixels(plot.png)
        assert image.shape[1] == 1200
        assert (image[0, 0] == 255).all()
        assert len(np.unique(image.reshape(-1, 3), axis=0)) > 50
        root = ET.parse(io.StringIO(plot.svg)).getroot()
        assert root.tag.endswith("svg")
        assert "currentColor" in plot.svg
        assert "#1b1f24" not in plot.svg
    ids = [{each.get("id") for each in ET.fromstring(plot.svg).iter()} - {None} for plot in found.values()]
    assert all(ids)
    assert not any(one & other for one, other in itertools.combinations(ids, 2))


def test_no_name_stands_on_another_or_on_a_point(monkeypatch: pytest.MonkeyPatch) -> None:
    for labelled in (True, False):
        found = figures(made_report(CROWD, (1, 8), RUNTIMES + MORE, labelled), monkeypatch)
        (axes,) = found["latency-srcc"].axes
        texts = [text for text in axes.texts if text.get_text()]
        assert len(texts) == 20
        assert overlapping(texts) == []
        points = [line for line in axes.lines if line.get_marker() not in ("None", "")]
        at = [axes.transData.transform(line.get_xydata()[0]) for line in points]
        assert len(at) == 20
        assert not [text for text in texts for x, y in at if text.get_window_extent().contains(x, y)]
        frame = axes.get_window_extent()
        assert all(frame.contains(*edge) for text in texts for edge in text.get_window_extent().corners())
        assert overlapping(found["images-per-second"].axes[0].texts) == []


def test_points_stand_at_the_p50_and_srcc_of_the_smallest_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    report = made_report(batches=(8, 1))
    (axes,) = figures(report, monkeypatch)["latency-srcc"].axes
    points = [tuple(line.get_xydata()[0]) for line in axes.lines if line.get_marker() not in ("None", "")]
    assert points == [(row.latency_ms.p50, row.srcc) for row in report.rows if row.batch == 1 and row.latency_ms]
    intervals = [np.ptp(each.get_segments()[0][:, 1]) for each in axes.collections]
    assert intervals == pytest.approx([0.09] * 4)
    assert axes.get_ylabel() == "SRCC to the labels"


def test_without_labels_quality_is_the_agreement_with_pytorch(monkeypatch: pytest.MonkeyPatch) -> None:
    (axes,) = figures(made_report(labelled=False), monkeypatch)["latency-srcc"].axes
    heights = [line.get_ydata()[0] for line in axes.lines if line.get_marker() not in ("None", "")]
    assert sorted(heights) == [0.9999, 0.9999, 0.9999, 1.0]
    assert axes.get_ylabel() == "SRCC to PyTorch fp32"
    assert len(axes.collections) == 0


def test_the_calls_themselves_are_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    report = made_report(batches=(1,))
    (axes,) = figures(report, monkeypatch)["latencies"].axes
    for line, row in zip(axes.lines, report.rows, strict=True):
        assert row.latency_ms is not None
        assert line.get_xdata().tolist() == row.latency_ms.samples
        assert len(row.latency_ms.samples) == 120


def test_a_line_of_images_per_second_is_one_model_run_one_way(monkeypatch: pytest.MonkeyPatch) -> None:
    report = made_report(batches=(8, 1))
    compiled = made_report(runtimes=RUNTIMES[:1], seed=1).rows
    for row in compiled:
        row.role = "baseline"
    report.rows += compiled
    (axes,) = figures(report, monkeypatch)["images-per-second"].axes
    lines = [(line.get_xdata().tolist(), line.get_ydata().tolist()) for line in axes.lines]
    assert [batches for batches, _ in lines] == [[1, 8]] * 5
    assert lines[0][1] == [report.rows[1].images_per_s, report.rows[0].images_per_s]
    assert lines[4][1] == [row.images_per_s for row in compiled]


def test_what_has_too_few_figures_is_not_drawn() -> None:
    assert list(drawn(made_report(batches=(1,)))) == ["latency-srcc", "latencies"]
    one = made_report(batches=(1,), runtimes=RUNTIMES[:1])
    assert list(drawn(one)) == ["latency-srcc", "latencies"]
    one.rows[0].srcc = None
    one.rows[0].role = "candidate"
    assert list(drawn(one)) == ["latencies"]
    one.rows[0].status = "crashed"
    one.rows[0].latency_ms = None
    assert draw(one) == []


def test_two_calls_and_equal_scores_can_be_drawn() -> None:
    report = made_report(("a $1 model_^{",), runtimes=RUNTIMES)
    for row in report.rows:
        row.latency_ms = summarise([[5.0, 5.0, 5.0, 5.0, 5.0]])
        row.srcc = 0.5
        row.srcc_interval = [0.5, 0.5]
    assert len(draw(report)) == 3


def test_names_say_what_tells_rows_apart() -> None:
    rows = made_report(("model-1024x768",), (1,)).rows
    assert names(rows)[0] == "model-1024x768, PyTorch cpu"
    assert names(rows)[1:3] == ["model-1024x768, ORT CPU, fp32", "model-1024x768, ORT CPU, int8"]
    crowd = made_report(CROWD, (1,), RUNTIMES).rows
    assert short(crowd)[:2] == ["musiq", "musiq"]
    assert len(set(names(crowd, full=True))) == len(crowd)


def test_heights_are_moved_apart_as_little_as_can_be() -> None:
    rng = np.random.default_rng(5)
    wanted = np.sort(rng.uniform(0, 100, 12))
    found = apart(wanted, 6.0, -1000, 1000)
    assert (np.diff(found) >= 6 - 1e-9).all()
    gaps = optimize.LinearConstraint(np.diff(np.eye(12), axis=0), lb=6)
    best = optimize.minimize(lambda at: ((at - wanted) ** 2).sum(), wanted, constraints=[gaps], method="SLSQP")
    np.testing.assert_allclose(found, best.x, atol=1e-2)
    inside = apart(wanted, 6.0, 0, 100)
    assert inside.min() >= 0
    assert inside.max() <= 100 + 1e-9


def test_without_matplotlib_the_report_is_written_and_says_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MusiqError, match=r"pip install 'musiq\[bench\]'"):
        draw(made_report())
    with pytest.warns(UserWarning, match="Plots need matplotlib"):
        written = write(made_report(), tmp_path)
    assert [path.name for path in written] == ["report.json", "report.csv", "report.md", "report.html"]
    assert "Plots need matplotlib" in (tmp_path / "report.html").read_text()


def test_a_plot_of_an_earlier_report_does_not_stay_beside_this_one(tmp_path: Path) -> None:
    write(made_report(), tmp_path)
    assert (tmp_path / "images-per-second.png").exists()
    written = write(made_report(batches=(1,)), tmp_path)
    assert sorted(tmp_path.iterdir()) == sorted(written)
    assert {path.suffix for path in written} == {".json", ".csv", ".md", ".html", ".png"}
