"""The rows of a video: of its frames one for all of them, or each its own."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from statistics import median

from musiq.scoring.parts import VideoEnd
from musiq.scoring.row import Row


def joined(rows: Iterable[Row], per_frame: bool, on_frame: Callable[[], object] | None = None) -> Iterator[Row]:
    """Rows with those of each video's frames made one, or with `per_frame` left as they are.

    Args:
        rows: Of images, of frames, and a VideoEnd behind those of each video.
        per_frame: Whether each frame keeps its row; the last one then says what is wrong with the video.
        on_frame: Called for each frame, as the row of a long video is a while in coming.
    """
    frames, held = _Frames(), list[Row]()
    for row in rows:
        if isinstance(row, VideoEnd):
            if per_frame and not row.error:
                yield from (replace(last, fitted=_told(last.fitted, row.damage)) for last in held)
            else:
                yield frames.row(row)
            frames, held = _Frames(), []
        elif row.frame is None:
            yield row
        else:
            if per_frame:
                yield from held
                held = [row]
            else:
                frames.add(row)
            if on_frame:
                on_frame()


class _Frames:
    """Adds up the rows of a video's frames, of which it keeps the first that has a score, and the scores."""

    def __init__(self) -> None:
        self._first: Row | None = None
        self._scores: list[float] = []
        self._shares: list[float] = []
        self._errors: list[str] = []

    def add(self, row: Row) -> None:
        if row.score is None:
            self._errors.append(row.error)
        else:
            self._first = self._first or row
            self._scores.append(row.score)
            before = self._shares or [0.0] * len(row.shares or ())
            self._shares = [total + share for total, share in zip(before, row.shares or (), strict=True)]

    def row(self, end: VideoEnd) -> Row:
        """The row of the video."""
        scores, first = self._scores, self._first
        if first is None:
            return Row(end.path, None, end.fitted, end.error or self._errors[0])
        failed = f"{len(self._errors)} of them failed: {self._errors[0]}" if self._errors else ""
        return replace(
            first,
            score=sum(scores) / len(scores),
            fitted=_told(end.fitted, first.fitted, failed, end.damage),
            shares=tuple(total / len(scores) for total in self._shares) or None,
            frame=None,
            time_s=None,
            frames=len(scores),
            min=min(scores),
            median=median(scores),
            max=max(scores),
        )


def _told(*parts: str) -> str:
    return "; ".join(filter(None, parts))
