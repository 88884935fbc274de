"""Videos become frames: the right ones, upright, in the right colours, at the right times, however the file is."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from PIL import Image

from musiq.errors import ImageError
from musiq.video import VideoFrame, is_video, open_video
from musiq.video.open import VideoSource
from tests.musiq.video.clips import CODECS, cut, grey, noise, number_of, save_clip, save_sound
from tests.score_samples import saved, scene


def frames_of(source: VideoSource, numbers: list[int] | None = None) -> tuple[list[VideoFrame], str]:
    with open_video(source, max_pixels=10**8) as video:
        frames = list(video.frames(numbers or list(range(len(video.times)))))
        return frames, video.damage()


def told(frames: list[VideoFrame]) -> list[int]:
    return [number_of(frame.pixels()) for frame in frames]


@pytest.mark.parametrize("ending", CODECS)
def test_frames_have_their_numbers_and_times_in_every_container(ending: str, tmp_path: Path) -> None:
    clip = save_clip(tmp_path / f"clip{ending}")
    frames, damage = frames_of(clip)
    assert told(frames) == [frame.number for frame in frames] == list(range(25))
    assert [frame.time_s for frame in frames] == pytest.approx([number / 25 for number in range(25)], abs=1e-3)
    assert damage == ""
    some = [2, 3, 21, 24]  # two key frames are passed over
    assert told(frames_of(clip, some)[0]) == some
    assert (
        told(frames_of(clip.read_bytes(), some)[0]) == told(frames_of(io.BytesIO(clip.read_bytes()), some)[0]) == some
    )


def test_times_are_those_of_the_file_where_the_rate_varies(tmp_path: Path) -> None:
    times = [0, 40, 80, 500, 1500, 1540, 3000]
    for ending in (".mp4", ".mkv"):
        frames, damage = frames_of(save_clip(tmp_path / f"clip{ending}", times_ms=times))
        assert [round(1000 * frame.time_s) for frame in frames] == times
        assert told(frames) == list(range(7))
        assert damage == ""


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_rotation_is_applied_as_opencv_does(degrees: int, tmp_path: Path) -> None:
    clip = save_clip(tmp_path / "clip.mp4", 3, degrees=degrees)
    ours = frames_of(clip)[0][1]
    capture = cv2.VideoCapture(str(clip))
    capture.read()
    theirs = cv2.cvtColor(capture.read()[1], cv2.COLOR_BGR2RGB)
    assert ours.pixels().shape == theirs.shape == (ours.height, ours.width, 3)
    np.testing.assert_array_equal(ours.pixels(), theirs)
    assert np.abs(ours.pixels().astype(int) - np.rot90(grey(1), degrees // 90)).mean() < 5


@pytest.mark.parametrize(("matrix", "whole"), [(1, 1), (5, 1), (5, 2), (None, None)])
def test_colours_are_opencvs_by_the_matrix_and_range_that_the_file_names(
    matrix: int | None, whole: int | None, tmp_path: Path
) -> None:
    clip = tmp_path / "clip.mp4"
    with av.open(str(clip), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"crf": "5"})
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
        if matrix:
            stream.codec_context.colorspace = matrix
        if whole:
            stream.codec_context.color_range = whole
        container.mux(stream.encode(av.VideoFrame.from_ndarray(scene(1, 48, 64), "rgb24")))
        container.mux(stream.encode())
    theirs = cv2.cvtColor(cv2.VideoCapture(str(clip)).read()[1], cv2.COLOR_BGR2RGB)
    np.testing.assert_array_equal(frames_of(clip)[0][0].pixels(), theirs)


def test_odd_sizes_lose_no_pixel(tmp_path: Path) -> None:
    images = noise(3, (47, 63))
    frames, _ = frames_of(save_clip(tmp_path / "clip.mkv", images=images, codec="ffv1", pix_fmt="bgr0"))
    for frame, image in zip(frames, images, strict=True):
        np.testing.assert_array_equal(frame.pixels(), image)


@pytest.mark.parametrize("ending", CODECS)
def test_a_broken_end_is_told_and_the_frames_before_it_count(ending: str, tmp_path: Path) -> None:
    options = {"movflags": "faststart"} if ending in (".mp4", ".mov") else {}
    clip = save_clip(tmp_path / f"clip{ending}", images=noise(30), **options)
    whole = frames_of(clip)[0]
    frames, damage = frames_of(cut(clip))
    assert 10 <= len(frames) <= 24
    assert damage.startswith(f"broken after {(len(frames)) / 25:.4g} s: the file is cut short")
    np.testing.assert_array_equal(frames[-1].pixels(), whole[len(frames) - 1].pixels())


def test_damage_in_the_middle_costs_its_frames_alone(tmp_path: Path) -> None:
    clip = save_clip(tmp_path / "clip.avi", images=noise(30), codec="mjpeg", pix_fmt="yuvj420p")
    data = bytearray(clip.read_bytes())
    start = data.index(b"\xff\xd8\xff", len(data) // 2)
    data[start : start + 700] = bytes(700)
    frames, damage = frames_of(bytes(data))
    assert len(frames) == 29
    assert damage == "1 more could not be decoded"


def test_frames_that_rest_on_a_damaged_one_are_told(tmp_path: Path) -> None:
    still = noise(1)[0]
    clip = save_clip(tmp_path / "clip.avi", images=[np.roll(still, number, 1) for number in range(30)])
    assert frames_of(clip)[1] == ""
    data, start = bytearray(clip.read_bytes()), -1
    for _ in range(16):  # the list of what follows has that name first
        start = data.index(b"00dc", start + 1)
    data[start + 20 : start + 43] = bytes(23)
    frames, damage = frames_of(bytes(data))
    assert [frame.number for frame in frames] == [number for number in range(30) if number != 14]
    assert damage == "1 more could not be decoded and 5 of them rest on damaged ones"  # up to the key frame 20
    assert frames_of(bytes(data), [3, 25])[1] == ""


@pytest.mark.parametrize("kind", ["gif", "webp"])
def test_animated_images_are_videos_where_frames_are_asked_for(kind: str, tmp_path: Path) -> None:
    path = tmp_path / f"clip.{kind}"
    images = [Image.fromarray(grey(number)) for number in range(6)]
    lasts = [100, 200, 50, 100, 400, 100]
    images[0].save(path, save_all=True, append_images=images[1:], duration=lasts, lossless=True)
    frames, damage = frames_of(path)
    assert told(frames) == list(range(6))
    assert [round(1000 * frame.time_s) for frame in frames] == [0, 100, 300, 350, 450, 850]
    assert damage == ""
    assert told(frames_of(path, [1, 4])[0]) == [1, 4]
    np.testing.assert_array_equal(frames[3].pixels(), grey(3))
    assert is_video(path, frames_asked=True)
    assert not is_video(path)


def test_an_animated_webp_that_is_cut_short_says_so(tmp_path: Path) -> None:
    path = tmp_path / "clip.webp"
    images = [Image.fromarray(image) for image in noise(6)]
    images[0].save(path, save_all=True, append_images=images[1:], duration=100)
    frames, damage = frames_of(cut(path))
    assert [frame.number for frame in frames] == [0, 1, 2]
    assert damage == "cut short after 0.3 s"


def test_frames_that_say_no_time_last_as_long_as_in_browsers(tmp_path: Path) -> None:
    images = [Image.fromarray(grey(number)) for number in range(4)]
    images[0].save(tmp_path / "clip.webp", save_all=True, append_images=images[1:], duration=0, lossless=True)
    frames, _ = frames_of(tmp_path / "clip.webp")
    assert [round(frame.time_s, 3) for frame in frames] == [0, 0.1, 0.2, 0.3]


def test_a_gif_that_is_cut_short_says_so_and_its_last_image_does_not_count(tmp_path: Path) -> None:
    path = tmp_path / "clip.gif"
    images = [Image.fromarray(image) for image in noise(6)]
    images[0].save(path, save_all=True, append_images=images[1:], duration=100)
    whole = path.read_bytes()
    frames, damage = frames_of(cut(path))
    assert [frame.number for frame in frames] == [0, 1, 2]
    assert damage == "broken after 0.3 s: the file is cut short"
    assert len(frames_of(whole + bytes(99))[0]) == 6  # what stands behind its end is none of it
    assert frames_of(whole + bytes(99))[1] == ""
    middle = 6 * len(whole) // 10
    frames, damage = frames_of(whole[:middle] + bytes(600) + whole[middle + 600 :])
    assert ([frame.number for frame in frames], damage) == ([0, 1, 2], "broken after 0.3 s: the file is cut short")
    with pytest.raises(ImageError, match=r"no frame that can be decoded \(the file is cut short\)"):
        frames_of(whole[: len(whole) // 8])


def test_names_tell_videos_and_a_still_webp_is_none(tmp_path: Path) -> None:
    (tmp_path / "still.webp").write_bytes(saved(scene(1), "webp"))
    assert is_video("a/clip.MP4")
    assert is_video(Path("clip.webm"))
    assert is_video("https://example.org/clip.mov?size=large")
    assert not any(is_video(each, True) for each in (tmp_path / "still.webp", "gone.webp", "a.jpg", b"clip.mp4", 3))


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "The file is empty. Copy or download it again."),
        (b"Not a video.\n" * 50, "The file is no video of a kind that is read, which are MP4"),
        (
            b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n/etc/passwd\n#EXT-X-ENDLIST\n",
            "The file is no video of a kind",
        ),
        (saved(scene(1), "jpeg"), "The file is no video of a kind that is read"),
        (b"\0\0\0 ftypisom" + bytes(3000), r"The file ends before its index \(moov\)"),
    ],
)
def test_what_is_no_video_is_told(data: bytes, said: str) -> None:
    with pytest.raises(ImageError, match=said):
        frames_of(data)


def test_sound_alone_a_missing_file_and_a_folder_are_told(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"There is no video in the file, only audio\. Check the path\."):
        frames_of(save_sound(tmp_path / "song.mp4"))
    with pytest.raises(ImageError, match="Cannot read the file: it is missing"):
        frames_of(tmp_path / "gone.mp4")
    with pytest.raises(ImageError, match="Cannot read the file: it is a folder"):
        frames_of(tmp_path)
    with pytest.raises(ImageError, match="Cannot read a video from int"):
        frames_of(3)  # type: ignore[arg-type]


def test_a_video_without_frames_is_told(tmp_path: Path) -> None:
    clip = save_clip(tmp_path / "clip.avi", images=noise(10))
    data = clip.read_bytes()
    with pytest.raises(ImageError, match="The video has no frame that can be decoded"):
        frames_of(data[: data.index(b"movi") + 4])


def test_frames_of_too_many_pixels_are_not_decoded(tmp_path: Path) -> None:
    clip = save_clip(tmp_path / "clip.mp4", 2)
    with pytest.raises(ImageError, match="64x48 pixels; at most 1,000"), open_video(clip, max_pixels=1000):
        pass


def test_without_pyav_its_install_line_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    clip = save_clip(tmp_path / "clip.mp4", 2)
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(ImageError, match=r"Videos need PyAV .*pip install .*\[video\]'"):
        frames_of(clip)
