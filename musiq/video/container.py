"""Videos by FFmpeg, through PyAV: first the times of all frames, from the packets alone, then the frames that are wanted.

PyAV and not OpenCV, which has FFmpeg inside as well: OpenCV does not tell a broken end from an end, nor a file without
video from one that is missing.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from contextlib import suppress
from fractions import Fraction
from functools import partial
from itertools import chain, pairwise
from types import ModuleType
from typing import Any, BinaryIO

import numpy as np

from musiq.errors import ImageError, pip_install
from musiq.images.decode import Background, check_pixels, flattened, turned
from musiq.images.fit import Image
from musiq.images.header import AGAIN
from musiq.video.frame import VideoFrame
from musiq.video.gif import whole_images

DEMUXERS = "mov,matroska,avi,mpeg,mpegts,asf,flv,gif"
"""FFmpeg's that are used: playlists, which it reads too, would have it open what a file names, elsewhere and here."""

ORIENTATIONS = {
    (1, 0, 0, 1): 1,
    (-1, 0, 0, 1): 2,
    (-1, 0, 0, -1): 3,
    (1, 0, 0, -1): 4,
    (0, 1, 1, 0): 5,
    (0, 1, -1, 0): 6,
    (0, -1, -1, 0): 7,
    (0, -1, 1, 0): 8,
}
"""The signs of a display matrix (x' of x, y' of x, x' of y, y' of y) as EXIF orientations."""

UNSAID_S = Fraction(1, 2)
"""Seconds that a file may end before the time that its header tells, and be whole."""

WORTH_SEEKING = 8
"""Frames that a jump has to pass over to be quicker than to decode them."""

CUT = "the file is cut short"


class Container:
    """An open video file; see `musiq.video.open.Video`. A context manager."""

    def __init__(self, file: BinaryIO, max_pixels: int, background: Background, threads: int) -> None:
        """Open the file, and read it through once without decoding. Raises ImageError, see `open_video`."""
        self._av, self._file, self._threads = import_av(), file, threads
        self._max_pixels, self._background = max_pixels, background
        self._container = self._opened()
        self._cut, self._undecodable = "", 0  # why the end is broken; frames that were wanted and could not be decoded
        self._spoiled = False  # whether the frame at hand rests on a damaged one
        self._rest_on_damage = 0  # how many of the wanted ones did
        try:
            self._read_through()
        except BaseException:
            self._container.close()
            raise

    def __enter__(self) -> Container:
        return self

    def __exit__(self, *exception: object) -> None:
        self._container.close()

    def _opened(self) -> Any:
        """The container at its start, and `self._stream` in it."""
        self._file.seek(0)
        try:
            container = self._av.open(self._file, metadata_errors="replace", options={"format_whitelist": DEMUXERS})
        except self._av.FFmpegError as problem:
            raise ImageError(self._why_closed()) from problem
        videos = [each for each in container.streams.video if not _is_cover(each)]
        if not videos or videos[0].codec_context is None:
            kinds = sorted({each.type for each in container.streams if each.type != "video"})
            container.close()
            if videos:
                raise ImageError("The video's codec is not one that FFmpeg decodes here. Convert it, to H.264 perhaps.")
            only = f", only {' and '.join(kinds)}" if kinds else ""
            raise ImageError(f"There is no video in the file{only}. Check the path.")
        self._stream = videos[0]
        self._stream.codec_context.thread_count = self._threads
        self._stream.thread_type = "AUTO" if self._threads > 1 else "NONE"
        return container

    def _why_closed(self) -> str:
        self._file.seek(0)
        if self._file.read(8)[4:] == b"ftyp":
            return f"The file ends before its index (moov), without which nothing of an MP4 can be read. {AGAIN}"
        return (
            "The file is no video of a kind that is read, which are MP4, MOV, MKV, WebM, AVI, GIF and WebP. Check it."
        )

    def _read_through(self) -> None:
        """Find the time of each frame, where one can begin to decode, and whether the file is whole."""
        context = self._stream.codec_context
        check_pixels(context.width, context.height, self._max_pixels)
        lasts: dict[int, int] = {}  # how long each frame is shown, by when
        keys, timed = [], True
        begin_s, end_s = math.inf, -math.inf
        for packet in self._packets(None):
            start = packet.dts if packet.pts is None else packet.pts
            if start is not None:
                begin_s = min(begin_s, start * packet.time_base)
                end_s = max(end_s, (start + (packet.duration or 0)) * packet.time_base)
            if packet.stream is not self._stream or packet.is_discard or self._is_hidden(packet):
                continue
            timed = timed and packet.pts is not None
            if packet.pts is not None:
                lasts[packet.pts] = packet.duration or 0
                keys += [packet.pts] * packet.is_keyframe
        if not timed or len(lasts) < 2:  # one packet alone may hold no frame
            self._restart()
            lasts, keys = {frame.pts: lasts.get(frame.pts, 0) for frame in self._decoded()}, []
        if self._container.format.name == "gif" and (whole := self._whole_images()) is not None:
            self._cut = CUT
            lasts = dict(sorted(lasts.items())[:whole])
        if not lasts:
            why = f" ({self._cut})" if self._cut else ""
            raise ImageError(f"The video has no frame that can be decoded{why}. {AGAIN}")
        self._pts = sorted(lasts)
        self._keys = [bisect_left(self._pts, key) for key in sorted(keys)]
        steps = sorted(after - before for before, after in pairwise(self._pts))
        last = lasts[self._pts[-1]] or (steps[len(steps) // 2] if steps else 1)
        base = Fraction(self._stream.time_base)
        self.times: Sequence[Fraction] = [(pts - self._pts[0]) * base for pts in self._pts]
        self.end = self.times[-1] + last * base
        self._check_whole(float(end_s - begin_s))

    def _whole_images(self) -> int | None:
        self._file.seek(0)
        return whole_images(self._file.read())

    def _restart(self) -> None:
        self._container.close()
        self._container = self._opened()

    def _packets(self, stream: Any) -> Iterator[Any]:
        """The whole packets of one stream, or of all; that the end is broken is remembered."""
        try:
            for packet in self._container.demux(stream) if stream else self._container.demux():
                if packet.is_corrupt:
                    self._cut = CUT
                elif packet.size:
                    yield packet
        except self._av.FFmpegError as problem:
            self._cut = problem.strerror or CUT

    def _is_hidden(self, packet: Any) -> bool:
        """Whether a packet is never shown: VP8 has some for others to refer to."""
        return self._stream.codec_context.name in ("vp8", "libvpx") and not bytes(packet)[0] & 0x10

    def _check_whole(self, found_s: float) -> None:
        """Remember that the file ends before the time that its header tells."""
        stream, told_s = self._stream, Fraction(self._container.duration or 0, self._av.time_base)
        if stream.frames and stream.average_rate:
            told_s = max(told_s, stream.frames / Fraction(stream.average_rate))
        if found_s + UNSAID_S < told_s:
            self._cut = self._cut or CUT

    def _decoded(self) -> Iterator[Any]:
        """The frames from where the container stands, without those that are damaged."""
        self._spoiled = False
        for packet in chain(self._packets(self._stream), [None]):
            try:
                for frame in self._stream.codec_context.decode(packet):
                    self._spoiled = frame.is_corrupt or (self._spoiled and not frame.key_frame)
                    if frame.pts is not None and not frame.is_corrupt:
                        yield frame
            except self._av.FFmpegError:  # whoever wants the frame finds that it is not there
                self._spoiled = True

    def frames(self, numbers: Sequence[int]) -> Iterator[VideoFrame]:
        """See `musiq.video.open.Video`. What lies between two far apart is passed over, up to the key frame before."""
        self._undecodable, self._rest_on_damage = len(numbers), 0
        self._restart()
        decoded, frame, at = self._decoded(), None, -1  # `frame` has the number `at`, or follows it
        for number in numbers:
            wanted, key = self._pts[number], self._key_before(number)
            if key - at > WORTH_SEEKING:
                decoded, frame = self._from_key(key), None
                frame = next(decoded, None)
                if frame is None or frame.pts > wanted:  # this file cannot be sought in
                    self._keys = []
                    self._restart()
                    decoded, frame = self._decoded(), None
            while frame is None or frame.pts < wanted:
                frame = next(decoded, None)
                if frame is None:
                    return
            at = number
            if frame.pts == wanted:
                self._undecodable -= 1
                self._rest_on_damage += self._spoiled
                yield self._video_frame(number, frame)

    def _key_before(self, number: int) -> int:
        """The number of the last key frame up to this one, -1 for none."""
        place = bisect_right(self._keys, number)
        return self._keys[place - 1] if place else -1

    def _from_key(self, number: int) -> Iterator[Any]:
        with suppress(self._av.FFmpegError):
            self._container.seek(self._pts[number], stream=self._stream)
        return self._decoded()

    def _video_frame(self, number: int, frame: Any) -> VideoFrame:
        check_pixels(frame.width, frame.height, self._max_pixels)
        orientation = _orientation(frame)
        height, width = (frame.width, frame.height) if orientation > 4 else (frame.height, frame.width)
        pixels = partial(_rgb, frame, orientation, self._background)
        return VideoFrame(number, float(self.times[number]), height, width, pixels)

    def damage(self) -> str:
        """See `musiq.video.open.Video`."""
        told = [f"broken after {float(self.end):.4g} s: {self._cut}"] if self._cut else []
        told += [f"{self._undecodable} more could not be decoded"] if self._undecodable else []
        told += [f"{self._rest_on_damage} of them rest on damaged ones"] if self._rest_on_damage else []
        return " and ".join(told)


def import_av() -> ModuleType:
    """PyAV, or an ImageError with its install line."""
    try:
        import av
    except ImportError as problem:
        raise ImageError(f"Videos need PyAV ({problem}): {pip_install('video')}.") from problem
    return av


def _is_cover(stream: Any) -> bool:
    """Whether what looks like a video is the picture of a song."""
    return "attached_pic" in str(stream.disposition).lower()


def _orientation(frame: Any) -> int:
    """How the frame is to be turned, as EXIF has it."""
    for each in frame.side_data:
        if each.type.name == "DISPLAYMATRIX":
            a, b, _, c, d = np.sign(np.frombuffer(bytes(each), np.int32)[:5])
            return ORIENTATIONS.get((int(a), int(b), int(c), int(d)), 1)
    return 1


def _rgb(frame: Any, orientation: int, background: Background) -> Image:
    """Upright RGB. The matrix is the one that the frame names, else BT.601, as FFmpeg and OpenCV have it."""
    alpha = any(part.is_alpha for part in frame.format.components)
    made = frame.reformat(format="rgba" if alpha else "rgb24", interpolation="BICUBIC").to_ndarray()
    return turned(flattened(made, background, multiplied=False), orientation)
