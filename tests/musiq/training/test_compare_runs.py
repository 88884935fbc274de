"""The table that compares finished runs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from click.testing import CliRunner
from scipy import stats

from musiq.training import compare_runs


def test_finished_runs_make_one_table(finished_run: Path, tmp_path: Path) -> None:
    text = CliRunner().invoke(compare_runs.main, [str(finished_run)]).output
    assert (
        f"| run | preset tiny, seed 0 | 12 | {json.loads((finished_run / 'metrics.json').read_text())['srcc']:.4f}"
        in text
    )
    result = CliRunner().invoke(compare_runs.main, [str(finished_run), str(tmp_path)])
    assert result.exit_code == 1
    assert f"{tmp_path} holds no finished run (run.json: No such file or directory); finish it" in result.output


def test_a_file_that_holds_no_run_is_one_line(tmp_path: Path) -> None:
    for text, why in (("{}", "there is no 'settings' in it"), ("{", "Expecting property name"), ("[]", "list indices")):
        (tmp_path / "run.json").write_text(text)
        result = CliRunner().invoke(compare_runs.main, [str(tmp_path)])
        assert result.exit_code == 1
        assert why in result.output


def test_two_runs_differ_by_the_difference_of_their_srcc(finished_run: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(finished_run, other)
    lines = (finished_run / "predictions.csv").read_text().splitlines()
    rows = [line.split(",") for line in lines[1:]]
    # The best possible order; the run's own SRCC is what is missing to 1.
    (other / "predictions.csv").write_text(
        "\n".join([lines[0], *(",".join([row[0], row[1], row[1], *row[3:]]) for row in reversed(rows))])
    )
    srcc = stats.spearmanr([float(row[1]) for row in rows], [float(row[2]) for row in rows]).statistic
    text = CliRunner().invoke(compare_runs.main, [str(finished_run), str(other), "--against", str(finished_run)]).output
    assert "| SRCC minus that of run |" in text
    assert f"{1 - srcc:+.4f} (" in next(line for line in text.splitlines() if line.startswith("| other |"))
    assert next(line for line in text.splitlines() if line.startswith("| run | preset")).endswith("|  |")


def test_runs_on_other_images_are_not_compared(finished_run: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(finished_run, other)
    lines = (finished_run / "predictions.csv").read_text().splitlines()
    (other / "predictions.csv").write_text("\n".join(lines[:-1]))
    result = CliRunner().invoke(compare_runs.main, [str(finished_run), str(other), "--against", str(finished_run)])
    assert result.exit_code == 1
    assert "not tested on the same images" in result.output
