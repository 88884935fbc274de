"""Markdown tables, as GitHub reads them."""

from __future__ import annotations

from musiq.markdown import table


def test_a_table_is_a_line_a_row_with_numbers_to_the_right() -> None:
    assert table(["model", "ms"], [["a", "1.5"], ["b", "20"]], right=[1]) == (
        "| model | ms |\n| --- | ---: |\n| a | 1.5 |\n| b | 20 |"
    )


def test_no_text_of_a_cell_breaks_the_table() -> None:
    text = table(["a|b", "c"], [["x | y", "two\nlines"]])
    assert text.splitlines() == ["| a\\|b | c |", "| --- | --- |", "| x \\| y | two lines |"]


def test_a_table_without_rows_has_its_head() -> None:
    assert table(["a"], []).splitlines() == ["| a |", "| --- |"]
