"""Folders of images in many sizes: made, scored beside another model, and what a process becomes that sees them."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result

from musiq.errors import MusiqError
from musiq_bench.plan.images import size_class
from musiq_bench.profiling import many_sizes, mixed_sizes, sized_photos
from musiq_bench.profiling.many_sizes import SizedCall, class_table, draw_sizes, memory_table
from musiq_bench.profiling.mixed_sizes import Scored, throughput_table


def invoke(command: object, *arguments: object) -> Result:
    return CliRunner().invoke(command.main, [str(argument) for argument in arguments])  # type: ignore[attr-defined]


@pytest.fixture
def mixed(photos: Path, tmp_path: Path) -> Path:
    """A folder of seven JPEGs of four sizes."""
    (tmp_path / "sizes.csv").write_text("width,height,count\n96,64,3\n64,96,\n130,70,2\n70,70,1\n")
    done = invoke(sized_photos, photos, tmp_path / "sizes.csv", tmp_path / "mixed")
    assert (done.exit_code, done.output) == (0, f"7 images of 4 sizes in {tmp_path / 'mixed'}\n")
    return tmp_path / "mixed"


def test_a_folder_gets_a_photograph_of_each_size_in_the_table(mixed: Path) -> None:
    images = {file.name: cv2.imread(str(file)) for file in sorted(mixed.iterdir())}
    sizes = ["96x64"] * 3 + ["64x96", "130x70", "130x70", "70x70"]
    assert list(images) == [f"{number:04}-{size}.jpg" for number, size in enumerate(sizes)]
    for name, image in images.items():
        assert image is not None
        assert name.endswith(f"-{image.shape[1]}x{image.shape[0]}.jpg")
    first, again = images["0000-96x64.jpg"], images["0001-96x64.jpg"]
    assert first is not None
    assert again is not None
    assert np.abs(first.astype(int) - again).mean() > 1, "another photograph"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "No such file"),
        ("width,height\n", "There is no size in"),
        ("w,h\n3,4\n", "sizes.csv, line 2 ('width'): expected the columns width,height[,count]."),
        ("width,height\n3,4\n3,-4\n", "sizes.csv, line 3 ('3x-4' is no size"),
        ("width,height,count\n3,4,many\n", "sizes.csv, line 2 (invalid literal"),
    ],
)
def test_what_is_no_table_of_sizes_is_one_line(photos: Path, tmp_path: Path, text: str | None, said: str) -> None:
    if text is not None:
        (tmp_path / "sizes.csv").write_text(text)
    done = invoke(sized_photos, photos, tmp_path / "sizes.csv", tmp_path / "out")
    assert (done.exit_code, done.output.count("\n")) == (1, 1)
    assert said in done.output
    assert not (tmp_path / "out").exists()


def test_a_mixed_folder_is_scored_by_every_model_in_chunks(mixed: Path, any_size: Path, one_size: Path) -> None:
    (mixed / "broken.jpg").write_bytes(b"no image")
    done = invoke(mixed_sizes, any_size, any_size, one_size, "--images", mixed, "--chunk", 3)
    assert done.exit_code == 0, done.output
    assert done.stdout.startswith("8 images in chunks of 3, ")
    assert f"{mixed / 'broken.jpg'}: " in done.stderr
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in done.stdout.splitlines()[4:]]
    assert [row[0] for row in rows] == [str(any_size), str(any_size), str(one_size)]
    assert rows[0][2:] == ["1.00", "1.00 (1.00-1.00)", "0.0e+00", "1"]
    assert rows[1][4:] == ["0.0e+00", "1"]
    assert float(rows[2][4]) > 0.01, "a model of one size sees the other images cropped"


def test_images_per_second_are_of_the_whole_and_ratios_of_the_same_chunk() -> None:
    one, other = Scored("one", lambda files: []), Scored("other", lambda files: [])
    one.seconds, one.scores = [2.0, 8.0], [1.0, 2.0, 3.0, float("nan")]
    other.seconds, other.scores = [1.0, 2.0], [1.0, 2.5, float("nan"), float("nan")]
    assert throughput_table([one, other]).splitlines()[2:] == [
        "| one | 0.40 | 1.00 | 1.00 (1.00-1.00) | 0.0e+00 | 1 |",
        "| other | 1.33 | 3.33 | 3.00 (2.20-3.80) | 5.0e-01 | 2 |",
    ]


def test_pyiqa_decodes_and_scores_one_file_after_another(
    mixed: Path, any_size: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("PIL")
    given = []

    class Model(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            given.append((x.dtype, tuple(x.shape), float(x.max()) <= 1))
            return x.mean((1, 2, 3))[:, None]

    monkeypatch.setattr("musiq_bench.profiling.pyiqa_model._model", lambda threads, weights: (torch, Model()))
    done = invoke(mixed_sizes, "pyiqa", any_size, "--images", mixed, "--chunk", 7)
    assert done.exit_code == 0, done.output
    shapes = [(1, 3, *cv2.imread(str(file)).shape[:2]) for file in sorted(mixed.iterdir())]  # type: ignore[union-attr]
    assert given == [(torch.float32, shape, True) for shape in shapes] * 2  # once to warm up


def test_of_many_sizes_no_two_are_the_same_and_all_lie_between_the_two() -> None:
    sizes = draw_sizes(50, (20, 30), (60, 90))
    assert len(set(sizes)) == 50
    assert all(20 <= height <= 60 and 30 <= width <= 90 for height, width in sizes)
    with pytest.raises(MusiqError, match="There are no 50 sizes from 4x4 to 8x8; give a larger --most"):
        draw_sizes(50, (4, 4), (8, 8))


def test_memory_of_the_halves_and_calls_that_are_slow_for_their_class_are_told() -> None:
    calls = [SizedCall((500, 800), 10.0, 100.0)] * 4 + [SizedCall((500, 900), 31.0, 150.0), SizedCall((9, 9), 1, 120)]
    assert memory_table(calls).splitlines()[2:] == ["| median | 100 | 120 | 1.20 |", "| most | 100 | 150 | 1.50 |"]
    assert class_table(calls, after=4).splitlines()[2:] == [
        "| up to 0.0625 MP | 1 | 1.0 | 1.00 | 0 |",
        "| 0.25-0.5 MP | 5 | 10.0 | 3.10 | 1 |",
    ]
    assert class_table(calls, after=5).splitlines()[3] == "| 0.25-0.5 MP | 5 | 10.0 |  | 0 |"


def test_a_size_class_is_between_two_powers_of_two_of_megapixels() -> None:
    assert size_class(768, 1024) == size_class(1024, 768) == "0.5-1 MP"
    assert size_class(1080, 1920) == "2-4 MP"
    assert size_class(1000, 1000) == "1-2 MP"
    assert size_class(1, 1) == size_class(200, 300) == "up to 0.0625 MP"


def test_a_process_that_sees_many_sizes_is_measured(any_size: Path, one_size: Path) -> None:
    sizes = ("--least", "40x30", "--most", "90x60")
    done = invoke(many_sizes, any_size, "--count", 8, "--after", 2, *sizes)
    assert done.exit_code == 0, done.output
    assert done.output.startswith("any.safetensors, 8 images of 8 sizes:\n")
    assert "| up to 0.0625 MP | 8 | " in done.output
    done = invoke(many_sizes, one_size, *sizes)
    assert (done.exit_code, done.output.count("\n")) == (1, 1)
    assert "takes images of 96x64 alone; give a model for any size." in done.output
