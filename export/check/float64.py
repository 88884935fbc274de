"""Images on which PyTorch's fp32 is itself uncertain, told from those on which an artifact is wrong.

Some images are ill-conditioned for some models: a softmax over keys that are nearly equal, say, lets the last bit of
fp32 decide. There the reference is as far from the exact score as any other order of the same sums may be, and a
difference to it says nothing. Float64 is the judge.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..request import Images, Scores

AS_FAR = 4.0
"""How much further from the exact score an artifact may be than PyTorch's fp32. Rounding errors of two orders of the same
sums are alike in size but not equal; of two of PyTorch's own, which are asked, the larger is rarely below a quarter."""

MOST = 0.05
"""The part of the images (or one) that may be uncertain; where more differ, the artifact is to blame."""


def find_uncertain(
    models: Sequence[Any], images: Sequence[Images], found: Scores, reference: Scores, allowed: float
) -> NDArray[np.bool_]:
    """Which of the N images differ by more than `allowed` because of the rounding of fp32 itself, bool (N,).

    `models` are forms of one model in fp32, whose `predict` gives scores first; the first is taken in float64 for the
    exact score. `images` are N of (H, W, 3). `found` and `reference` are (N,) in score units.
    """
    far = np.abs(found.astype(np.float64) - reference) > allowed
    if not 0 < far.sum() <= max(1, MOST * len(far)):
        return np.zeros_like(far)
    chosen = [images[index] for index in np.flatnonzero(far).tolist()]
    exact = reference_scores(copy.deepcopy(models[0]).double(), chosen)
    own = np.max([np.abs(reference_scores(model, chosen) - exact) for model in models], axis=0)
    uncertain = far.copy()
    uncertain[far] = np.abs(found[far] - exact) <= AS_FAR * own
    return uncertain


def reference_scores(model: Any, images: Sequence[Images]) -> NDArray[Any]:
    """PyTorch's scores (N,) of N images (H, W, 3), in the model's own precision, one image at a time."""
    import torch

    with torch.inference_mode():
        scores = [model.predict(torch.from_numpy(image[None]))[0].numpy() for image in images]
    return np.concatenate(scores)
