"""How commands end and what a terminal sees of their progress."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import warnings
from importlib.metadata import version
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from musiq.errors import MusiqError
from musiq.terminal import Command, per_second
from tests.terminals import shown_in_terminal

ROOT = Path(__file__).resolve().parents[2]


def run(work: object) -> tuple[int, str]:
    result = CliRunner().invoke(Command("work", callback=work), [])  # type: ignore[arg-type]
    return result.exit_code, result.output


def test_a_users_error_is_one_line_and_exits_with_1() -> None:
    def fail() -> None:
        raise MusiqError("This is wrong;\n  do that.")

    assert run(fail) == (1, "Error: This is wrong; do that.\n")


def test_an_option_that_is_refused_while_it_is_read_is_one_line_too() -> None:
    def refuse(*_: object) -> None:
        raise MusiqError("There is no such recipe.")

    command = Command("work", params=[click.Option(["--config"], callback=refuse)], callback=lambda config: None)
    result = CliRunner().invoke(command, ["--config", "nope.toml"])
    assert (result.exit_code, result.output) == (1, "Error: There is no such recipe.\n")


@pytest.mark.parametrize("command", ["musiq-score", "musiq-export", "musiq-bench"])
def test_each_command_says_which_version_it_is(command: str) -> None:
    done = subprocess.run([Path(sys.executable).with_name(command), "--version"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, f"musiq {version('musiq')}\n")


def test_ctrl_c_exits_with_130() -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    assert run(interrupted) == (130, "Interrupted.\n")


def test_warnings_are_plain_lines_inside_a_command_alone(capsys: pytest.CaptureFixture[str]) -> None:
    before = warnings.formatwarning
    shown = []

    def warn() -> None:
        shown.append(warnings.formatwarning("Memory is short.", UserWarning, "file.py", 1))  # type: ignore[arg-type]

    assert run(warn) == (0, "")
    assert shown == ["Warning: Memory is short.\n"]
    assert warnings.formatwarning is before


BAR = """
from musiq.terminal import progress_bar
with progress_bar("reading", 5, done=1) as bar:
    bar.advance()
    bar.tell(title="scoring", note="2 of them odd [red]")
    print("a line of the work")
    bar.advance(2)
"""


def test_a_terminal_sees_title_count_and_note_and_lines_above_the_bar() -> None:
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "120", "PYTHONPATH": str(ROOT)}
    code, shown = shown_in_terminal([sys.executable, "-c", BAR], ["stdout", "stderr"], env=environment)
    assert code == 0
    plain = shown.decode()
    assert re.search(r"scoring .* 4/5 .*2 of them odd \[red\]", plain)
    assert "a line of the work" in plain


def test_nobody_sees_a_bar_in_a_log() -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", BAR], capture_output=True, text=True, check=True, env=environment)
    assert (done.stdout, done.stderr) == ("a line of the work\n", "")


@pytest.mark.parametrize(
    ("rate", "words"), [(1234.4, "1,234 images/s"), (99.94, "99.9 images/s"), (2.314, "2.31 images/s")]
)
def test_rates_have_three_digits_or_all_before_the_point(rate: float, words: str) -> None:
    assert per_second(rate) == words


PRINTS = r"""
import click, sys
from rich.console import Console
from rich.table import Table
from musiq.terminal import Command, progress_bar
def work():
    click.echo("[\u2713] \u65e5\u672c caf\udce9")
    table = Table("\u0394")
    table.add_row("\u2264")
    Console().print(table)
    with progress_bar("\u2026", 1) as bar:
        bar.advance()
Command("work", callback=work).main([])
"""


@pytest.mark.parametrize(
    "locale",
    [
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        {"PYTHONIOENCODING": "latin-1"},
        {"PYTHONIOENCODING": "cp1252"},
        {"PYTHONIOENCODING": "ascii:strict"},
        {"PYTHONIOENCODING": "utf-8"},
    ],
)
def test_no_character_stops_a_command_whatever_the_locale(locale: dict[str, str]) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **locale}
    done = subprocess.run([sys.executable, "-c", PRINTS], capture_output=True, env=environment, timeout=300)
    assert (done.returncode, done.stderr) == (0, b"")
    # Where the encoding is ASCII click writes UTF-8 instead.
    assert done.stdout.startswith(("[\u2713] ".encode(), b"[\\u2713] "))
    assert b"caf" in done.stdout


FLOODS = """
import click
from musiq.terminal import Command
def work():
    print("held back until the end" * 9, end="")
Command("work", callback=work).main([])
"""


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs Linux's /dev/full")
@pytest.mark.parametrize("code", [FLOODS, FLOODS.replace("print(", "click.echo(").replace(', end=""', "")])
def test_output_that_finds_no_room_is_one_line_and_exits_with_1(code: str) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with open("/dev/full", "wb") as full:
        done = subprocess.run([sys.executable, "-c", code], stdout=full, stderr=subprocess.PIPE, env=environment)
        silent = subprocess.run([sys.executable, "-c", FLOODS], stdout=subprocess.PIPE, stderr=full, env=environment)
    assert (done.returncode, done.stderr) == (
        1,
        b"Error: Cannot write: No space left on device. Make room on the disk.\n",
    )
    assert silent.returncode == 0  # what matters was written
