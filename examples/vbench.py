"""VBench's imaging quality of a folder of videos, written as VBench writes it.

    pip install '.[cpu,video]'
    python examples/vbench.py spaq.onnx videos/ results_eval_results.json

All frames count, preprocessed as VBench does, to its pixels. A fourth word is VBench's preprocessing mode: longer (its
default), shorter or shorter-centercrop. The result is {"imaging_quality": [overall, [{"video_path": ..., "video_results":
...}, ...]]}: of a video the mean over its frames, overall the mean over the videos / 100. A video that cannot be scored is
told and left out.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import musiq
from musiq.files import atomic_write
from musiq.images import VBENCH, find_images
from musiq.video import VIDEO_SUFFIXES, is_video

POLICIES = {mode: policy for policy, mode in VBENCH.items()}


def main(model: str, folder: str, result: str, mode: str = "longer") -> int:
    """Score and write; the number of videos that could not be scored."""
    if mode not in POLICIES:
        raise musiq.MusiqError(f"There is no mode {mode!r}; there are {', '.join(POLICIES)}.")
    videos = [path for path in find_images([folder], VIDEO_SUFFIXES) if is_video(path, frames_asked=True)]
    scores, failed = dict[str, float](), 0
    with atomic_write(Path(result)) as part:
        part.touch()  # where it cannot be written is known before hours of scoring
        with musiq.load(model, resize=POLICIES[mode], frames="all") as scorer:
            for row in scorer.score_many(videos):
                if row.score is None:
                    failed += 1
                    print(f"{row.path}: {row.error}", file=sys.stderr)
                else:
                    scores[row.path] = row.score
                    print(f"{row.path}: {row.score:.4f} ({row.fitted})", file=sys.stderr)
        if not scores:
            raise musiq.MusiqError(f"There is no video in {folder} that can be scored.")
        overall = sum(scores.values()) / len(scores) / 100
        videos_results = [{"video_path": path, "video_results": score} for path, score in scores.items()]
        part.write_text(json.dumps({"imaging_quality": [overall, videos_results]}, indent=4))
    print(f"imaging_quality {overall:.6f}")
    return failed


if __name__ == "__main__":
    if len(sys.argv) not in (4, 5):
        sys.exit(__doc__)
    try:
        sys.exit(3 if main(*sys.argv[1:]) else 0)
    except musiq.MusiqError as problem:
        sys.exit(f"Error: {problem}")
