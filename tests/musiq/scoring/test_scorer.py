"""`Scorer`: the model's numbers, in order, whatever happens to single images; with a real ONNX file and with a fake."""

from __future__ import annotations

import itertools
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

import musiq
from musiq.errors import ImageError, MusiqError
from musiq.images.decode import Source
from musiq.images.fit import fit
from musiq.runtimes.base import Images, Scores
from musiq.scoring import Row, Scorer
from tests.score_samples import HEIGHT, WIDTH, FakeRuntime, mean_spec, save_mean_model, saved, scene

ROOT = Path(__file__).resolve().parents[3]


class Mean(FakeRuntime):
    """A Runtime whose score is the mean of all samples, and which fails on images that are all 13."""

    def __init__(self, pause_s: float = 0.0, in_flight: int = 1) -> None:
        super().__init__(mean_spec(), in_flight)
        self.pause_s, self.running, self.most = pause_s, 0, 0

    def run(self, images: Images) -> dict[str, Scores]:
        self.batches.append(len(images))
        self.running += 1
        self.most = max(self.most, self.running)
        time.sleep(self.pause_s)
        self.running -= 1
        if (images == 13).all(axis=(1, 2, 3)).any():
            raise RuntimeError("unlucky\nthirteen")
        return {"score": images.mean(axis=(1, 2, 3), dtype=np.float64).astype(np.float32)}


def photos(count: int) -> list[NDArray[np.uint8]]:
    return [np.full((HEIGHT, WIDTH, 3), value, np.uint8) for value in range(100, 100 + count)]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_mean_model(tmp_path_factory.mktemp("model") / "mean.onnx")


def test_a_score_is_the_models_for_the_fitted_image(model: Path, tmp_path: Path) -> None:
    photo = scene(1, 150, 333)
    path = tmp_path / "photo.png"
    path.write_bytes(saved(photo, "png"))
    want = fit(photo, HEIGHT, WIDTH)[0].mean()
    with musiq.load(model, device="cpu") as scorer:
        assert (scorer.spec.height, scorer.spec.width) == (HEIGHT, WIDTH)
        for source in (path, str(path), path.read_bytes(), photo):
            assert scorer.score(source) == pytest.approx(want, abs=1e-4)


def test_rows_come_in_order_whatever_the_batch_and_the_workers() -> None:
    for batch, workers in itertools.product((1, 3, 8, 100), (1, 4)):
        rows = list(Scorer(Mean(), batch_size=batch, workers=workers).score_many(photos(20)))
        assert [row.score for row in rows] == list(range(100, 120))
        assert [row.path for row in rows] == [f"#{index}" for index in range(20)]


def test_the_model_gets_full_batches_and_one_partial() -> None:
    runtime = Mean()
    list(Scorer(runtime, batch_size=8).score_many(photos(20)))
    assert runtime.batches == [8, 8, 4]


def test_nothing_in_nothing_out() -> None:
    assert list(Scorer(Mean()).score_many([])) == []


def test_a_broken_image_is_a_row_and_costs_no_other(tmp_path: Path) -> None:
    good = photos(4)
    sources = [good[0], tmp_path / "missing.jpg", good[1], b"not an image", good[2], np.zeros(3, np.uint8), good[3]]
    rows = list(Scorer(Mean(), batch_size=2).score_many(sources))
    assert [row.score for row in rows] == [100, None, 101, None, 102, None, 103]
    assert rows[1] == Row(str(tmp_path / "missing.jpg"), None, error=rows[1].error)
    for row, words in zip(rows[1::2], ("no such file", "looks like text", "expected uint8"), strict=True):
        assert words in row.error


def test_an_image_that_the_model_fails_on_costs_no_other_of_its_batch() -> None:
    sources = photos(16)
    sources[5] = np.full_like(sources[5], 13)
    rows = list(Scorer(Mean(), batch_size=8).score_many(sources))
    assert [row.score for row in rows if not row.error] == [value for value in range(100, 116) if value != 105]
    assert rows[5].error == "The model failed on this image: RuntimeError: unlucky thirteen"


def test_where_memory_is_short_batches_become_as_small_as_it_has_room_for_and_stay_so() -> None:
    runtime, asked = Mean(), []

    def run(images: Images) -> dict[str, Scores]:
        asked.append(len(images))
        if len(images) > 2:
            raise RuntimeError("Failed to allocate memory for requested buffer of size 1")
        return type(runtime).run(runtime, images)

    runtime.run = run  # type: ignore[method-assign]
    with pytest.warns(UserWarning, match="no memory for 4 images at once; from here on the model gets 2"):
        rows = list(Scorer(runtime, batch_size=8).score_many(photos(24)))
    assert [row.score for row in rows] == list(range(100, 124))
    assert asked[:2] == [8, 4]
    assert asked[2:] == [2] * 12, "what failed once is not tried again"


def test_a_model_that_gives_no_number_is_an_error(model: Path) -> None:
    runtime = Mean()
    runtime.run = lambda images: {"score": np.full(len(images), np.nan, np.float32)}  # type: ignore[method-assign]
    (row,) = Scorer(runtime).score_many(photos(1))
    assert row.score is None
    assert "gave nan" in row.error
    with pytest.raises(ImageError, match="gave nan"):
        Scorer(runtime).score(photos(1)[0])


def test_score_raises_for_a_bad_image(model: Path) -> None:
    with Scorer(model, device="cpu") as scorer, pytest.raises(ImageError, match="The file is empty"):
        scorer.score(b"")


def test_rows_say_how_an_image_was_fitted(model: Path) -> None:
    with Scorer(model, device="cpu") as scorer:
        rows = list(scorer.score_many([scene(1), scene(1, HEIGHT * 2, WIDTH * 2), scene(1, HEIGHT, WIDTH + 4)]))
    assert [row.fitted for row in rows] == ["", "resized 0.5x", "cropped 100x64 to 96x64"]


def test_shares_of_a_distribution_are_in_the_row(tmp_path: Path) -> None:
    with Scorer(save_mean_model(tmp_path / "five.onnx", outputs=5), device="cpu") as scorer:
        (row,) = scorer.score_many([scene(1)])
    assert row.shares == pytest.approx((0.2,) * 5)


def test_an_endless_source_is_read_only_as_far_as_needed() -> None:
    taken = 0

    def endless() -> Iterator[NDArray[np.uint8]]:
        nonlocal taken
        while True:
            taken += 1
            yield photos(1)[0]

    before = threading.active_count()
    rows = Scorer(Mean(), batch_size=4, workers=2).score_many(endless())
    assert len(list(itertools.islice(rows, 10))) == 10
    rows.close()  # type: ignore[attr-defined]
    assert taken <= 10 + 3 * 4 + 2 + 4
    assert threading.active_count() == before


def test_decoding_goes_on_while_the_model_runs() -> None:
    read, more = 0, threading.Condition()

    def source() -> Iterator[NDArray[np.uint8]]:
        nonlocal read
        for image in photos(20):
            with more:
                read += 1
                more.notify_all()
            yield image

    class Waiting(Mean):
        """Runs until an image of the next batch is read, which one after the other would never be."""

        def run(self, images: Images) -> dict[str, Scores]:
            scores = super().run(images)
            with more:
                assert more.wait_for(lambda: read > sum(self.batches) or read == 20, timeout=300)
            return scores

    rows = list(Scorer(Waiting(), batch_size=4, workers=2).score_many(source()))
    assert [row.score for row in rows] == list(range(100, 120))


def test_a_runtime_that_takes_several_batches_at_once_gets_them_and_rows_stay_in_order() -> None:
    runtime = Mean(pause_s=0.05, in_flight=2)
    rows = list(Scorer(runtime, batch_size=2).score_many(photos(20)))
    assert [row.score for row in rows] == list(range(100, 120))
    assert runtime.most == 2
    one = Mean(pause_s=0.01)
    list(Scorer(one, batch_size=2).score_many(photos(20)))
    assert one.most == 1


def test_the_default_batch_is_the_runtimes_unless_asked() -> None:
    runtime = Mean()
    runtime.default_batch = 3
    list(Scorer(runtime).score_many(photos(7)))
    list(Scorer(runtime, batch_size=5).score_many(photos(7)))
    assert runtime.batches == [3, 3, 1, 5, 2]


def test_for_throughput_each_thread_runs_a_smaller_batch_of_its_own_and_scores_are_the_same(model: Path) -> None:
    with musiq.load(model) as one, musiq.load(model, mode="throughput", threads=4) as many:
        assert (one.in_flight, one.batch_size) == (1, 8)
        assert (many.in_flight, many.batch_size) == (4, 2)
        assert list(many.score_many(photos(21))) == list(one.score_many(photos(21)))
    with musiq.load(model, mode="throughput", threads=4, batch_size=5) as asked:
        assert asked.batch_size == 5


@pytest.mark.parametrize(("name", "device"), [("model.onnx", "cuda:0"), ("best.safetensors", "cpu")])
def test_throughput_is_refused_where_it_has_no_meaning(name: str, device: str, tmp_path: Path) -> None:
    (tmp_path / name).touch()
    with pytest.raises(MusiqError, match=r"throughput is for \.onnx and \.xml files on CPUs"):
        musiq.load(tmp_path / name, device, mode="throughput")
    with pytest.raises(MusiqError, match="There is no mode 'fast'; there are latency and throughput"):
        musiq.load(tmp_path / name, mode="fast")


def test_a_long_run_of_failures_neither_waits_for_a_slow_model_nor_gathers_without_bound() -> None:
    taken = 0

    def mostly_bad() -> Iterator[Source]:
        nonlocal taken
        for number in range(3000):
            taken += 1
            yield photos(1)[0] if number == 0 else b"not an image"

    rows = Scorer(Mean(pause_s=0.3), batch_size=1, workers=2).score_many(mostly_bad())
    assert next(rows).score == 100
    assert taken < 100  # else all of the bad ones' rows would be in memory by now
    assert len(list(rows)) == 2999


def test_opencv_has_its_threads_back_when_the_last_scoring_ends() -> None:
    before = cv2.getNumThreads()
    cv2.setNumThreads(3)
    try:
        first, second = (Scorer(Mean(), batch_size=1).score_many(photos(9)) for _ in range(2))
        next(first), next(second)
        assert cv2.getNumThreads() == 1
        first.close()  # type: ignore[attr-defined]
        assert cv2.getNumThreads() == 1
        list(second)
        assert cv2.getNumThreads() == 3
    finally:
        cv2.setNumThreads(before)


def test_four_times_the_images_need_no_more_memory(tmp_path: Path) -> None:
    model = save_mean_model(tmp_path / "mean.onnx", height=512, width=768)
    (tmp_path / "photo.jpg").write_bytes(saved(scene(1, 600, 900), "jpeg"))
    code = (
        "import re, sys; from musiq import Scorer\n"
        "with Scorer(sys.argv[1], 'cpu', batch_size=4, workers=2) as scorer:\n"
        "    for row in scorer.score_many([sys.argv[2]] * int(sys.argv[3])): assert row.score\n"
        "print(re.search(r'VmHWM:\\s+(\\d+) kB', open('/proc/self/status').read())[1])"
    )
    if not Path("/proc/self/status").exists():
        pytest.skip("needs Linux, whose /proc tells a process's own peak")

    def peak_mib(count: int) -> float:
        command = [sys.executable, "-c", code, str(model), str(tmp_path / "photo.jpg"), str(count)]
        return int(subprocess.run(command, capture_output=True, check=True, cwd=ROOT).stdout) / 1024

    few, many = peak_mib(60), peak_mib(240)
    assert many - few < 0.1 * few  # 180 images of 768x512 more are 200 MiB
    assert few < 500


def test_many_threads_may_share_one_scorer(model: Path) -> None:
    with Scorer(model, device="cpu", threads=1) as scorer, ThreadPoolExecutor(8) as pool:
        single = list(pool.map(scorer.score, photos(64)))
        many = list(pool.map(lambda _: [row.score for row in scorer.score_many(photos(16))], range(8)))
    assert single == list(range(100, 164))
    assert many == [list(range(100, 116))] * 8


def test_leaving_the_scorer_closes_the_runtime() -> None:
    runtime = Mean()
    with Scorer(runtime):
        assert not runtime.closed
    assert runtime.closed


def test_after_it_was_closed_an_image_is_an_error_that_says_so(model: Path) -> None:
    with Scorer(model) as scorer:
        pass
    with pytest.raises(ImageError, match="This model was closed"):
        scorer.score(photos(1)[0])
    (row,) = scorer.score_many(photos(1))
    assert "This model was closed" in row.error


SENSELESS = [
    ({"batch_size": 0}, "batch_size is 0; expected a whole number of at least 1"),
    ({"workers": 0}, "workers is 0"),
    ({"workers": 1.5}, "workers is 1.5"),
    ({"threads": 0}, "threads is 0"),
    ({"threads": -1}, "threads is -1"),
    ({"max_pixels": 0}, "max_pixels is 0"),
    ({"background": "red"}, "no background 'red'; there are white and black"),
    ({"mode": "zzz"}, "no mode 'zzz'; there are latency and throughput"),
    ({"jpeg_decoder": "turbo"}, "no JPEG decoder 'turbo'"),
    ({"device": 0}, "no device 0; expected auto, cpu, cuda"),
]


@pytest.mark.parametrize(("options", "says"), SENSELESS)
def test_options_that_make_no_sense_are_refused(model: Path, options: dict[str, Any], says: str) -> None:
    with pytest.raises(MusiqError, match=says):
        musiq.load(model, **options)


@pytest.mark.parametrize("thing", [5, b"x", [5], {"model.onnx"}])
def test_what_is_neither_a_path_nor_a_runtime_is_no_model(thing: Any) -> None:
    with pytest.raises(MusiqError, match="give the path of an artifact or checkpoint"):
        musiq.load(thing)


def test_one_image_alone_is_a_list_of_one(tmp_path: Path) -> None:
    (photo,) = photos(1)
    path = tmp_path / "photo.png"
    path.write_bytes(saved(photo, "png"))
    with Scorer(Mean()) as scorer, path.open("rb") as file:
        for source in (str(path), path, path.read_bytes(), file, photo, photo[:, :, 0]):
            assert [row.score for row in scorer.score_many(source)] == [100]
        assert [row.score for row in scorer.score_many(np.stack(photos(2)))] == [100, 101]


def test_a_folder_is_no_image_and_the_error_says_how_its_images_are_found(tmp_path: Path) -> None:
    with Scorer(Mean()) as scorer, pytest.raises(ImageError, match=r"a folder; .*find_images gives those inside"):
        scorer.score(tmp_path)


def test_what_cannot_be_scored_is_named_by_its_path(tmp_path: Path) -> None:
    path = tmp_path / "photo.png"
    with Scorer(Mean()) as scorer:
        for source in (path, str(path)):
            with pytest.raises(ImageError, match=rf"^{path}: Cannot read the file: there is no such file or folder\."):
                scorer.score(source)
        with pytest.raises(ImageError, match=r"^The file is empty\."):
            scorer.score(b"")


def test_a_model_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(MusiqError, match=r"missing\.onnx"):
        Scorer(tmp_path / "missing.onnx")
