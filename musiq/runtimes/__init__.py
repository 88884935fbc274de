"""Runtimes: each opens one kind of file and is one callable: uint8 pictures in, float32 scores out, returned is finished."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from musiq.spec import Spec

Images = NDArray[np.uint8]
Scores = NDArray[np.float32]


class Runtime(Protocol):
    """What every runtime offers. Safe to call from several threads unless its module says otherwise."""

    spec: Spec
    provider: str
    """What really runs, as the backend itself names it: "CPUExecutionProvider", "PyTorch cpu", ..."""

    def __call__(self, images: Images) -> Scores:
        """uint8 (N, H, W, 3) RGB to float32 (N,): scores in the units of `spec.target`."""
        ...

    def run(self, images: Images) -> dict[str, Scores]:
        """All that the model computes: "score" (N,), and "shares" (N, K) of the ratings 1..K where it has them."""
        ...

    def close(self) -> None:
        """Give memory and device back; the runtime cannot be called afterwards."""
        ...
