"""Every block of commands and of Python in the README and the how-to pages runs as it stands, or says why it is not run.

In a page, a comment before a block decides: `<!-- not run: no GPU here -->` leaves it out under that name, and
`<!-- slow: exports the paper's model -->` leaves it to `make test-all`. A fence names what a block is: sh (commands),
console (`$ ` before commands, then what they print), python, or text.
"""

from __future__ import annotations

import configparser
import csv
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from click.testing import CliRunner

from musiq.bundled import bundled_artifact
from musiq_export.cli import main as export

ROOT = Path(__file__).resolve().parents[2]
HOW_TO = (
    "install scores scoring models export benchmarking training deploying pytorch curation onnx-files coming-from "
    "browser development"
)
PAGES = [ROOT / "README.md", *(ROOT / "docs" / f"{name}.md" for name in HOW_TO.split())]
RUN = ("sh", "console", "python")
COMMANDS = r"^ *(\$|>>>|musiq-\w+|python|pip|make|pytest|accelerate|curl|find|[A-Z_]+=\S+) "
PHOTOS = ("375.jpg", "693.JPG", "518.jpg", "905.JPG", "767.JPG")

# What fragments of Python take for granted.
PRELUDE = """
import glob, musiq, numpy, onnxruntime
paths = files = sorted(glob.glob("photos/*.jpg"))
batch = numpy.zeros((2, 224, 224, 3), "uint8")
"""


@dataclass(frozen=True)
class Block:
    """A fenced block: where it is, its language, its text, and what the comment before it says."""

    page: Path
    line: int
    language: str
    text: str
    note: str

    @property
    def name(self) -> str:
        return f"{self.page.name}:{self.line}"


def blocks(page: Path) -> Iterator[Block]:
    """Those of a page, in order."""
    lines, start, language, note = page.read_text().splitlines(), None, "", ""
    for number, line in enumerate(lines, 1):
        if not line.strip().startswith("```"):
            continue
        if start is None:
            start, language = number, line.strip().removeprefix("```")
            said = re.fullmatch(r" *<!-- (.*) -->", lines[number - 2])
            note = said[1] if said else ""
        else:
            indent = len(line) - len(line.lstrip())
            text = "\n".join(each[indent:] for each in lines[start : number - 1])
            yield Block(page, start, language, text, note)
            start = None
    assert start is None, f"{page.name}:{start} is not closed"


ALL = [block for page in PAGES for block in blocks(page)]


def parameters() -> list[object]:
    """The blocks that are run or left out under their reasons."""
    slow = [(block, [pytest.mark.slow] if block.note.startswith("slow: ") else []) for block in ALL]
    return [pytest.param(block, id=block.name, marks=marks) for block, marks in slow if block.language in RUN]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory, tiny_onnx: Path, tiny_checkpoint: Path) -> Path:
    """What the pages speak of: a few rated photographs, a model and its checkpoint, an archive of photographs."""
    place = tmp_path_factory.mktemp("place")
    (place / "photos").mkdir()
    (place / "exports").mkdir()
    with (ROOT / "examples" / "photos" / "labels.csv").open(newline="") as file:
        rated = [row for row in csv.DictReader(file) if row["image"] in PHOTOS]
    for folder, before in (("photos", ""), (".", "photos/")):
        labels = "".join(f"{before}{row['image']},{row['mos']}\n" for row in rated)
        (place / folder / "labels.csv").write_text("image,mos\n" + labels)
    for photo in PHOTOS:
        shutil.copy(ROOT / "examples" / "photos" / photo, place / "photos")
    for name in ("photo.jpg", "a.jpg"):
        shutil.copy(place / "photos" / "375.jpg", place / name)
    shutil.copy(tiny_checkpoint, place / "best.safetensors")
    arguments = ["--checkpoint", tiny_checkpoint, "--size", "192x256", "--out", place, "--name", "portrait"]
    result = CliRunner().invoke(export, [str(each) for each in arguments])
    assert result.exit_code == 0, result.output
    artifacts = {"landscape": tiny_onnx} | dict.fromkeys(("model", "exports/model", "tiny"), bundled_artifact())
    for name, artifact in artifacts.items():
        shutil.copy(artifact, place / f"{name}.onnx")
        shutil.copy(f"{artifact}.json", place / f"{name}.onnx.json")
    for name in ("train.py", "configs", "tests", "Makefile", "results"):  # as in a checkout
        (place / name).symlink_to(ROOT / name)
    (place / "examples").mkdir()
    for each in (ROOT / "examples").iterdir():  # five of its photographs are enough
        (place / "examples" / each.name).symlink_to(each if each.name != "photos" else "../photos")
    return place


@pytest.mark.parametrize("block", parameters())
def test_a_block_runs(block: Block, prepared: Path, tmp_path: Path) -> None:
    if block.note.startswith("not run: "):
        pytest.skip(block.note)
    place = tmp_path / "place"
    shutil.copytree(prepared, place, symlinks=True)
    if block.language == "python":
        command = [sys.executable, "-c", PRELUDE + block.text]
    else:
        command = ["bash", "-euo", "pipefail", "-c", shell_of(block)]
    environment = dict(os.environ, MUSIQ_OFFLINE="1", MUSIQ_HOME=str(tmp_path / "home"))
    environment["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), environment["PATH"]])
    done = subprocess.run(
        command, cwd=place, env=environment, capture_output=True, text=True, check=False, timeout=3600
    )
    assert done.returncode == 0, f"{block.name}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"


def shell_of(block: Block) -> str:
    """Its commands; what would install is looked at by another test."""
    lines = block.text.splitlines()
    if block.language == "console":
        lines = [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]
    return "\n".join(line for line in lines if not line.startswith("pip install "))


def test_no_command_hides_in_a_block_that_is_not_run() -> None:
    hidden = [block.name for block in ALL if block.language in ("", "text") and re.search(COMMANDS, block.text, re.M)]
    assert not hidden, "begin these with ```sh, ```console or ```python"


def test_a_reason_is_given_before_blocks_alone() -> None:
    for page in PAGES:
        reasons = re.findall(r"<!-- (?:not run|slow): ", page.read_text())
        used = [block for block in blocks(page) if re.match("not run: |slow: ", block.note)]
        assert len(reasons) == len(used), page.name


def test_what_is_installed_is_a_checkout_or_a_wheel_with_extras_that_there_are() -> None:
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    pages = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md"), *(ROOT / "examples").glob("*.py")]
    found = [(page, each) for page in pages for each in re.findall(r"'([^' \n]*)\[([\w,-]+)\]'", page.read_text())]
    assert len(found) > 20
    for page, (target, extras) in found:
        assert target == "." or target.endswith(".whl"), f"{page.name}: {target} would come from an index"
        unknown = set(extras.split(",")) - set(config["options.extras_require"])
        assert not unknown, f"{page.name}: {unknown}"
