"""The plots of a report: what is drawn, what the legend tells, and what has too few figures."""

from __future__ import annotations

import io
import itertools
import xml.etree.ElementTree as ET
from typing import Any

import cv2
import numpy as np
import pytest

from musiq_bench.report.columns import runs_on
from musiq_bench.report.latency import summarise
from musiq_bench.report.plot_style import names
from musiq_bench.report.plots import Plot, draw, figures
from musiq_bench.report.schema import Report
from tests.made_report import MORE, RUNTIMES, made_report

CROWD = tuple(f"{name}-1024x768" for name in ("musiq", "resnet50", "resnet50-classic", "tiny", "another"))


def drawn(report: Report) -> dict[str, Plot]:
    return {plot.name: plot for plot in draw(report)}


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


def points_of(axes: Any) -> list[Any]:
    return [line for line in axes.lines if line.get_marker() not in ("None", "")]


def legend_of(figure: Any) -> dict[str, Any]:
    """What each text of the legend stands beside."""
    (legend,) = figure.legends
    return dict(zip((text.get_text() for text in legend.get_texts()), legend.legend_handles, strict=True))


@pytest.mark.parametrize("labelled", [True, False])
def test_each_of_20_points_is_known_by_its_colour_and_marker_in_the_legend(labelled: bool) -> None:
    report = made_report(CROWD, (1, 8), RUNTIMES + MORE, labelled)
    found = figures(report)
    points = points_of(found["latency-srcc"][0].axes[0])
    marks = [(line.get_color(), line.get_marker()) for line in points]
    assert len(set(marks)) == len(marks) == 20
    for name in ("latency-srcc", "images-per-second"):
        legend = legend_of(found[name][0])
        assert list(legend)[:4] == ["PyTorch cpu, fp32", "ORT CPU, fp32", "ORT CPU, int8", "OpenVINO CPU, bf16"]
        assert list(legend)[4:] == ["musiq", "resnet50", "resnet50-classic", "tiny", "another"]
        first = [row for row in report.rows if row.batch == 1]
        drawn = points_of(found[name][0].axes[0])
        for row, line in zip(first, drawn, strict=True):
            assert line.get_marker() == legend[row.model.removesuffix("-1024x768")].get_marker()
            colour = next(
                handle for text, handle in legend.items() if text.endswith(f"{runs_on(row)}, {row.precision}")
            )
            assert line.get_color() == colour.get_color()


def test_rows_that_colour_and_marker_cannot_tell_apart_have_a_line_each_in_the_legend() -> None:
    report = made_report(("model", "model-1024x768"), (1,), RUNTIMES)  # one name without its size
    figure, _ = figures(report)["latency-srcc"]
    legend = legend_of(figure)
    assert list(legend) == names(report.rows, full=True)
    marks = [(line.get_color(), line.get_marker()) for line in points_of(figure.axes[0])]
    assert marks == [(handle.get_color(), handle.get_marker()) for handle in legend.values()]
    assert len(set(marks)) == 4


def test_the_legend_stands_inside_the_image_and_off_the_axes() -> None:
    for figure, _ in figures(made_report(CROWD, (1, 8))).values():
        figure.draw_without_rendering()
        for legend in figure.legends:
            box = legend.get_window_extent()
            assert figure.bbox.x0 <= box.x0
            assert box.x1 <= figure.bbox.x1
            assert box.y1 <= figure.bbox.y1
            assert not box.overlaps(figure.axes[0].get_window_extent())


def test_points_stand_at_the_p50_and_srcc_of_the_smallest_batch() -> None:
    report = made_report(batches=(8, 1))
    (axes,) = figures(report)["latency-srcc"][0].axes
    points = [tuple(line.get_xydata()[0]) for line in points_of(axes)]
    assert points == [(row.latency_ms.p50, row.srcc) for row in report.rows if row.batch == 1 and row.latency_ms]
    intervals = [np.ptp(each.get_segments()[0][:, 1]) for each in axes.collections]
    assert intervals == pytest.approx([0.09] * 4)
    assert axes.get_ylabel() == "SRCC to the labels"


def test_without_labels_quality_is_the_agreement_with_pytorch() -> None:
    (axes,) = figures(made_report(labelled=False))["latency-srcc"][0].axes
    heights = [line.get_ydata()[0] for line in points_of(axes)]
    assert sorted(heights) == [0.9999, 0.9999, 0.9999, 1.0]
    assert axes.get_ylabel() == "SRCC to PyTorch fp32"
    assert len(axes.collections) == 0


def test_the_calls_themselves_are_drawn() -> None:
    report = made_report(batches=(1,))
    (axes,) = figures(report)["latencies"][0].axes
    for line, row in zip(axes.lines, report.rows, strict=True):
        assert row.latency_ms is not None
        assert line.get_xdata().tolist() == row.latency_ms.samples
        assert len(row.latency_ms.samples) == 120


def test_a_line_of_images_per_second_is_one_model_run_one_way() -> None:
    report = made_report(batches=(8, 1))
    compiled = made_report(runtimes=RUNTIMES[:1], seed=1).rows
    for row in compiled:
        row.role = "baseline"
    report.rows += compiled
    (axes,) = figures(report)["images-per-second"][0].axes
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
    assert len(set(names(crowd, full=True))) == len(crowd)
