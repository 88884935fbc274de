"""A model of any size: what it sees under each policy, calls shared by images that may, limits, bad input."""

from __future__ import annotations

import itertools
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

import musiq
from musiq.errors import ImageError, MusiqError
from musiq.images import decode
from musiq.model import checkpoint
from musiq.presets import PRESETS
from musiq.runtimes.base import Images, Scores
from musiq.scoring import Scorer, prefetch
from musiq.spec import Scale, Spec
from musiq_export.graph.onnx import float_onnx
from musiq_export.graph.simplify import simplify
from musiq_export.request import Request
from tests.musiq.model.foreign_files import flax_file
from tests.recipe import lively_model, photo
from tests.score_samples import FakeRuntime, exif, mean_spec, save_mean_model, saved, scene

ANY = mean_spec(height=None, width=None)
SIZES = [(64, 96), (96, 64), (33, 47), (20, 25), (120, 120), (1, 1), (8, 300), (129, 65)]


class Sizes(FakeRuntime):
    """A Runtime for any size that remembers the (height, width) of each image of each call, and fails on those whose first
    sample is 13; the score is the mean of all samples."""

    def __init__(self, call_shares: str = "size", spec: Spec = ANY) -> None:
        super().__init__(spec)
        self.call_shares, self.calls = call_shares, []  # type: ignore[var-annotated]

    def run(self, images: Any) -> dict[str, Scores]:
        self.calls.append([image.shape[:2] for image in images])
        if self.call_shares == "size":
            assert isinstance(images, np.ndarray)
        if any(image.flat[0] == 13 for image in images):
            raise MusiqError("unlucky thirteen")
        return {"score": np.array([image.mean(dtype=np.float64) for image in images], np.float32)}

    def tokens(self) -> list[list[int]]:
        return [[self.spec.at(*size).tokens for size in call] for call in self.calls]


def flat(value: int, height: int, width: int) -> Images:
    return np.full((height, width, 3), value, np.uint8)


def mixture(count: int, seed: int = 0, sizes: list[tuple[int, int]] = SIZES) -> list[Images]:
    draw = random.Random(seed)
    return [flat(20 + number % 200, *draw.choice(sizes)) for number in range(count)]


@pytest.fixture(scope="module")
def mean_of_any(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_mean_model(tmp_path_factory.mktemp("any") / "mean.onnx", height=None, width=None)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of a lively `tiny` of one layer for any size."""
    path = tmp_path_factory.mktemp("tiny") / "tiny.safetensors"
    checkpoint.save(lively_model("tiny", height=None, width=None, layers=1), path)
    return path


@pytest.mark.parametrize(
    ("resize", "seen", "fitted"),
    [
        (None, "150x100", ""),
        ("native", "150x100", ""),
        ("longer=75", "75x50", "resized 0.5x"),
        ("shorter=50", "75x50", "resized 0.5x"),
        ("longer=200", "150x100", ""),
        ("longer=300,enlarge", "300x200", "resized 2x"),
        ("shorter=150,enlarge", "225x150", "resized 1.5x"),
        ("longer=50,enlarge", "50x33", "resized 0.333x"),
    ],
)
def test_rows_say_what_the_model_saw_and_what_was_done_for_that(
    mean_of_any: Path, resize: str | None, seen: str, fitted: str
) -> None:
    image = scene(1, 100, 150)
    with musiq.load(mean_of_any, resize=resize) as scorer:
        (row,) = scorer.score_many([image])
        assert scorer.resize == (resize or "native")
    assert (row.size, row.fitted) == (seen, fitted)
    width, height = map(int, seen.split("x"))
    how = cv2.INTER_AREA if width < 150 else cv2.INTER_CUBIC
    assert row.score == pytest.approx(cv2.resize(image, (width, height), interpolation=how).mean(), abs=1e-3)


def test_an_image_that_the_model_never_saw_has_no_size(mean_of_any: Path) -> None:
    with musiq.load(mean_of_any) as scorer:
        rows = list(scorer.score_many([b"", b"no image", scene(1)]))
    assert [row.size for row in rows] == ["", "", "96x64"]


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_the_size_is_that_after_the_exif_rotation(mean_of_any: Path, orientation: int) -> None:
    data = saved(scene(1, 100, 150), "jpeg", exif=exif(orientation))
    with musiq.load(mean_of_any, resize="longer=75") as scorer:
        (row,) = scorer.score_many([data])
    assert row.size == ("50x75" if orientation in (6, 8) else "75x50")


def test_a_model_may_bring_its_policy_which_another_takes_the_place_of(tmp_path: Path) -> None:
    model = save_mean_model(tmp_path / "mean.onnx", height=None, width=None, resize="longer=75")
    for asked, seen in ((None, "75x50"), ("native", "150x100"), ("shorter=20", "30x20")):
        with musiq.load(model, resize=asked) as scorer:
            assert [row.size for row in scorer.score_many([scene(1, 100, 150)])] == [seen]
    wrong = save_mean_model(tmp_path / "wrong.onnx", height=None, width=None, resize="stretch")
    with pytest.raises(MusiqError, match="no resize policy 'stretch'; expected native, cover, longer=N or shorter=N"):
        musiq.load(wrong)
    assert musiq.load(wrong, resize="native").resize == "native"
    fixed = save_mean_model(tmp_path / "fixed.onnx", resize="longer=75")
    assert musiq.load(fixed).resize == "cover"


def test_what_does_not_go_with_the_model_is_one_line(mean_of_any: Path, tmp_path: Path) -> None:
    fixed = save_mean_model(tmp_path / "fixed.onnx")
    for resize in ("native", "longer=100"):
        with pytest.raises(
            MusiqError, match=rf"--resize {resize} .*fixed.onnx is for .* 96x64.*musiq-export --size any"
        ):
            musiq.load(fixed, resize=resize)
    with pytest.raises(MusiqError, match=r"cover is for models of one size; .*mean\.onnx takes images of any"):
        musiq.load(mean_of_any, resize="cover")
    assert musiq.load(fixed, resize="cover").resize == "cover"


@pytest.mark.parametrize("resize", ["", "large", "longer", "longer=0", "longer=-1", "longer=65536", "shorter=1.5", 512])
def test_a_policy_that_there_is_not_is_one_line(mean_of_any: Path, resize: Any) -> None:
    with pytest.raises(
        MusiqError, match=r"There is no resize policy .*; expected native, cover, longer=N or shorter=N"
    ):
        musiq.load(mean_of_any, resize=resize)


def test_models_for_any_size_are_given_alone(mean_of_any: Path, tmp_path: Path) -> None:
    fixed = save_mean_model(tmp_path / "fixed.onnx")
    for models in ([mean_of_any, fixed], [fixed, mean_of_any], [mean_of_any, mean_of_any]):
        with pytest.raises(MusiqError, match=r"mean\.onnx takes images of any size, so .* Give it alone"):
            musiq.load(models)


@pytest.mark.parametrize("call_shares", ["size", "tokens", "nothing"])
def test_calls_hold_images_that_may_share_one_and_rows_stay_in_order(call_shares: str) -> None:
    for batch, workers in itertools.product((1, 2, 8), (1, 4)):
        runtime, images = Sizes(call_shares), mixture(150, batch)
        sources: list[Any] = [b"" if number % 11 == 5 else image for number, image in enumerate(images)]
        rows = list(Scorer(runtime, batch_size=batch, workers=workers).score_many(sources))
        assert [row.path for row in rows] == [f"#{number}" for number in range(150)]
        for number, (row, image) in enumerate(zip(rows, images, strict=True)):
            bad = number % 11 == 5
            assert row.score == (None if bad else image.flat[0])
            assert row.size == ("" if bad else f"{image.shape[1]}x{image.shape[0]}")
        assert sum(map(len, runtime.calls)) == sum(not row.error for row in rows)
        if call_shares == "size":
            assert all(len(set(call)) == 1 for call in runtime.calls)
        elif call_shares == "tokens":
            assert all(len(set(call)) == 1 for call in runtime.tokens())
        else:
            assert all(max(call) <= max(1.15 * min(call), min(call) + 32) for call in runtime.tokens())
        assert (batch == 1) == all(len(call) == 1 for call in runtime.calls)
        if batch == 8:  # 8 sizes; one call each
            assert len(runtime.calls) <= len(SIZES)


def test_a_call_has_a_budget_of_tokens_not_of_images() -> None:
    usual = PRESETS["tiny"].at(768, 1024).tokens
    runtime = Sizes()
    list(Scorer(runtime, batch_size=2).score_many([*mixture(200, 1, [(96, 128)]), *mixture(9, 2, [(600, 800)])]))
    small, large = (PRESETS["tiny"].at(*size).tokens for size in ((96, 128), (600, 800)))
    assert max(len(call) for call in runtime.calls if call[0] == (96, 128)) == 2 * usual // small
    assert max(len(call) for call in runtime.calls if call[0] == (600, 800)) == 2 * usual // large
    assert all(sum(call) <= 2 * usual for call in runtime.tokens())
    alone = Sizes()
    list(Scorer(alone, batch_size=2).score_many(mixture(3, 3, [(1500, 1500)])))
    assert [len(call) for call in alone.calls] == [1, 1, 1]


def test_where_batches_do_not_pay_each_image_goes_alone_and_at_once() -> None:
    runtime = Sizes()
    runtime.default_batch = 1
    taken = 0

    def endless() -> Iterator[Images]:
        nonlocal taken
        while True:
            taken += 1
            yield flat(50, *SIZES[taken % len(SIZES)])

    rows = Scorer(runtime, workers=2).score_many(endless())
    assert next(rows).score == 50
    assert taken < 10
    rows.close()  # type: ignore[attr-defined]


def test_a_rare_size_does_not_hold_up_the_rows_after_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("musiq.scoring.scorer.LOOK_AHEAD", 40)
    for others in (flat(7, 20, 20), b"no image"):
        taken = 0

        def endless(others: Any = others) -> Iterator[Any]:
            nonlocal taken
            yield flat(50, 9, 9)
            while True:
                taken += 1
                yield others

        rows = Scorer(Sizes(), batch_size=4, workers=1).score_many(endless())
        assert next(rows).size == "9x9"
        assert taken < 60
        rows.close()  # type: ignore[attr-defined]


def test_large_images_wait_in_bounded_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many different sizes there are, none of which fills a call."""
    monkeypatch.setattr("musiq.scoring.scorer.MOST_BYTES", 0)  # so that it follows from the batch: two of 1024x768
    waiting = most = 0

    class Counted(prefetch.PreparedImage):
        def __init__(self, *facts: Any) -> None:
            super().__init__(*facts)
            nonlocal waiting, most
            waiting += self.bytes
            most = max(most, waiting)

        def __del__(self) -> None:
            nonlocal waiting
            waiting -= self.bytes

    monkeypatch.setattr("musiq.scoring.scorer.PreparedImage", Counted)
    sources = (flat(50, 500 + number, 500) for number in range(200))
    rows = list(Scorer(Sizes(), batch_size=2, workers=2).score_many(sources))
    assert [row.size for row in rows] == [f"500x{500 + number}" for number in range(200)]
    limit = 2 * 2 * 3 * 768 * 1024
    assert most < 2 * limit + 6 * 3 * 700 * 500, "what is decoded ahead, what is gathered, and those at work"


def test_an_image_that_the_model_fails_on_costs_no_other() -> None:
    runtime, images = Sizes(), mixture(60)
    images[7] = flat(13, 64, 96)
    images[8] = flat(13, 20, 25)
    rows = list(Scorer(runtime, batch_size=8).score_many(images))
    assert [number for number, row in enumerate(rows) if row.error] == [7, 8]
    assert rows[7].error == "The model failed on this image: unlucky thirteen"
    assert rows[7].size == "96x64"


def test_where_memory_is_short_calls_become_as_small_as_it_has_room_for_and_stay_so() -> None:
    runtime = Sizes()
    one = ANY.at(96, 128).tokens

    def run(images: Images) -> dict[str, Scores]:
        if len(images) * ANY.at(*images.shape[1:3]).tokens > 5 * one:
            runtime.batches.append(len(images))
            raise MemoryError("out of memory")
        return Sizes.run(runtime, images)

    runtime.run = run  # type: ignore[method-assign]
    scorer = Scorer(runtime, batch_size=2)
    scorer._room = 16 * one
    with pytest.warns(
        UserWarning, match=r"no memory for 8 images at once; from here on the model gets 4, or others of"
    ):
        rows = list(scorer.score_many(mixture(16, 1, [(96, 128)])))
    assert all(row.score for row in rows)
    assert runtime.batches == [16, 8], "what failed once is not tried again"
    list(scorer.score_many(mixture(40, 1, [(33, 40)])))
    small = ANY.at(33, 40).tokens
    assert len(runtime.calls[-2]) == 4 * one // small, "smaller images fill the room that there is"


def photos(count: int, seed: int) -> list[NDArray[np.uint8]]:
    draw = random.Random(seed)
    return [photo(draw.randint(1, 70), draw.randint(1, 70), seed + number) for number in range(count)]


def check_mixtures(scorer: Scorer, count: int) -> None:
    """The score of an image alone is its score in any mixture."""
    pool = [*photos(24, 1), *(photo(30, 50, 100 + number) for number in range(12))]
    alone = [scorer.score(image) for image in pool]
    assert np.ptp(alone) > 0.1
    draw = random.Random(2)
    for _ in range(count):
        chosen = [draw.randrange(len(pool)) for _ in range(draw.randint(2, 12))]
        rows = list(scorer.score_many([pool[number] for number in chosen]))
        assert [row.score for row in rows] == pytest.approx([alone[number] for number in chosen], abs=1e-5)


def test_the_score_of_an_image_alone_is_its_score_in_any_mixture(tiny: Path, tmp_path: Path) -> None:
    with musiq.load(tiny, "cpu", batch_size=8, threads=1, workers=1) as scorer:
        check_mixtures(scorer, 100)


@pytest.mark.parametrize(
    ("inputs", "call_shares"), [("image", "size"), ("patches", "tokens"), ("padded-patches", "nothing")]
)
def test_it_is_so_of_exports_whatever_the_images_of_a_call_share(tmp_path: Path, inputs: str, call_shares: str) -> None:
    facts: dict[str, Any] = {"layers": 1}
    if inputs == "image":  # a graph with a pyramid takes long to trace
        facts |= {"scales": (Scale(),), "scale_embeddings": 1}
    model = lively_model("tiny", height=None, width=None, **facts)
    onnx.save(float_onnx(Request(simplify(model), inputs=inputs)), tmp_path / "tiny.onnx")
    with pytest.warns(UserWarning, match="unverified: it has no record"):
        scorer = musiq.load(tmp_path / "tiny.onnx", "cpu", batch_size=8, threads=1, workers=1)
    with scorer:
        assert (scorer.spec, scorer.runtimes[0].call_shares) == (model.spec, call_shares)
        check_mixtures(scorer, 200)


def test_every_odd_size_is_scored(tiny: Path, tmp_path: Path) -> None:
    with musiq.load(tiny, "cpu") as scorer:
        sources = [photo(*size, 1) for size in ((1, 1), (1, 700), (700, 1), (31, 33), (100, 3))]
        rows = list(scorer.score_many(sources))
        assert [row.size for row in rows] == ["1x1", "700x1", "1x700", "33x31", "3x100"]
        assert all(row.score is not None and np.isfinite(row.score) for row in rows)
    with musiq.load(save_mean_model(tmp_path / "mean.onnx", height=None, width=None)) as scorer:
        for shape in ((1, 65535), (65535, 1)):
            (row,) = scorer.score_many([saved(flat(9, *shape), "png")])
            assert (row.size, row.score, row.error) == (f"{shape[1]}x{shape[0]}", 9, "")
        (row,) = scorer.score_many([flat(9, 65536, 1)])
        assert "would see 1x65536 pixels; a side has 65,535 at most. Give --resize longer=65504" in row.error


def test_an_image_past_the_limit_of_tokens_is_a_row_that_says_what_to_do() -> None:
    runtime = Sizes()
    image = flat(50, 300, 400)
    tokens = ANY.at(300, 400).tokens
    (row,) = Scorer(runtime, max_tokens=tokens).score_many([image])
    assert row.score == 50
    scorer = Scorer(runtime, max_tokens=tokens - 1)
    with pytest.raises(
        ImageError, match=rf"see 400x300 pixels, which are {tokens} tokens and take about 0\.\d+ GB"
    ) as told:
        scorer.score(image)
    (length,) = (int(word.removeprefix("longer=").rstrip(",")) for word in str(told.value).split() if "longer=" in word)
    (row,) = Scorer(runtime, max_tokens=tokens - 1, resize=f"longer={length}").score_many([image])
    assert row.error == ""
    assert ANY.at(*(int(side) for side in reversed(row.size.split("x")))).tokens < tokens
    assert length + 64 > 400 or ANY.at(length * 3 // 4 + 48, length + 64).tokens >= tokens, "no smaller than need be"
    hopeless = Scorer(runtime, max_tokens=3)
    assert "which are" in (error := next(hopeless.score_many([image])).error)
    assert error.endswith("at most 3 tokens are scored. Give a larger --max-tokens.")


def test_the_default_limit_lets_12_megapixels_through_and_no_100() -> None:
    paper = PRESETS["musiq"].at_any_size()
    scorer = Scorer(Sizes(spec=paper))
    (good, bad) = scorer.score_many([flat(50, 3000, 4000), flat(50, 8000, 12000)])
    assert (good.size, good.error) == ("4000x3000", "")
    assert bad.error == (
        "The model would see 12000x8000 pixels, which are 93,882 tokens and take about 22 GB; at most 12,288 tokens are "
        "scored. Give --resize longer=4320, or a larger --max-tokens."
    )


@pytest.mark.parametrize("kind", ["jpeg", "png", "webp", "bmp"])
def test_an_image_past_the_limit_is_refused_before_it_is_decoded(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    data = saved(scene(1, 300, 400), kind)

    def decoding(*_: Any, **__: Any) -> None:
        raise AssertionError("it was decoded")

    monkeypatch.setattr(sys.modules["musiq.images.decode"], "_upright", decoding)
    (row,) = Scorer(Sizes(), max_tokens=50).score_many([data])
    assert "at most 50 tokens are scored" in row.error


@pytest.mark.parametrize("kind", ["tiff", "avif", "gif"])
def test_where_the_header_may_be_wrong_what_was_decoded_counts(kind: str) -> None:
    data = saved(scene(1, 300, 400), kind)
    (row,) = Scorer(Sizes(), max_tokens=50).score_many([data])
    assert "would see 400x300 pixels" in row.error
    (row,) = Scorer(Sizes(), max_tokens=50, resize="longer=60").score_many([data])
    assert (row.size, row.error) == ("60x45", "")


@pytest.mark.parametrize("resize", ["longer=75", "shorter=50", "longer=100", "native"])
@pytest.mark.parametrize("orientation", [1, 6])
def test_a_jpeg_decoded_at_a_part_of_its_size_gets_the_size_that_the_whole_one_gets(
    resize: str, orientation: int
) -> None:
    data = saved(photo(401, 603, 1), "jpeg", quality=92, exif=exif(orientation))
    whole, part = (
        row
        for reduced in (False, True)
        for row in Scorer(Sizes(), resize=resize, reduced_jpeg=reduced).score_many([data])
    )
    assert part.size == whole.size
    assert part.fitted.startswith("decoded at 1/") == (resize != "native")
    assert part.score == pytest.approx(whole.score, abs=0.5)


def test_the_papers_weights_open_for_any_size_and_ours_at_theirs(tmp_path: Path, tiny_checkpoint: Path) -> None:
    with musiq.load(flax_file(tmp_path / "paper.npz", "1"), "cpu") as scorer:
        assert (scorer.spec.any_size, scorer.resize, scorer.batch_size) == (True, "native", 1)
        assert [row.size for row in scorer.score_many([photo(40, 70, 1)])] == ["70x40"]
    with musiq.load(tiny_checkpoint, "cpu") as scorer:
        assert (scorer.spec.size_name, scorer.resize) == ("256x192", "cover")
    with pytest.raises(MusiqError, match=r"is for images of 256x192, .*musiq-export --size any"):
        musiq.load(tiny_checkpoint, "cpu", resize="native")


def test_a_native_array_is_scored_as_it_is(mean_of_any: Path) -> None:
    image = scene(1, 77, 31)
    with musiq.load(mean_of_any) as scorer:
        assert scorer.score(image) == pytest.approx(image.mean(), abs=1e-3)
        assert scorer.score(saved(image, "png")) == pytest.approx(decode(saved(image, "png")).mean(), abs=1e-3)
