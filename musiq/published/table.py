"""The one table of published MUSIQ weights: where each file is, how it is known, what its scores mean, its licence."""

from __future__ import annotations

from dataclasses import dataclass

AUTHORS = "google-research/musiq"
APACHE = "Apache-2.0"
PYIQA = "pyiqa (chaofengc/IQA-PyTorch-Weights)"
NON_COMMERCIAL = "CC BY-NC-SA 4.0"
MOS_RANGE, RATING_RANGE = (0.0, 100.0), (1.0, 10.0)


@dataclass(frozen=True)
class PublishedModel:
    """What is known of published weights.

    Attributes:
        address: Of the file.
        size: In bytes; None where it is not known.
        hash: "sha256:" or "md5:" and its digits, of the first also the first few alone; "" where none is known.
        licence: That its publisher names.
        target: What the score was trained to predict.
        score_range: Worst and best, as the target defines them.
        source: Who published it.
        preset: The model here that it is weights of, a key of `musiq.presets.PRESETS`.
    """

    address: str
    size: int | None
    hash: str
    licence: str
    target: str
    score_range: tuple[float, float]
    source: str
    preset: str

    @property
    def file(self) -> str:
        """The file's own name."""
        return self.address.rsplit("/", 1)[1]

    @property
    def megabytes(self) -> int:
        """About how large the file is; siblings are alike."""
        return {AUTHORS: 163, PYIQA: 109}[self.source]

    @property
    def notice(self) -> str:
        """What its licence forbids, which anyone who uses it has to know; "" where there is nothing."""
        return "for non-commercial use only" if self.licence == NON_COMMERCIAL else ""


PUBLISHED: dict[str, PublishedModel] = {
    "musiq-koniq": PublishedModel(
        address="https://storage.googleapis.com/gresearch/musiq/koniq_ckpt.npz",
        size=None,
        hash="",
        licence=APACHE,
        target="KonIQ-10k MOS (0-100)",
        score_range=MOS_RANGE,
        source=AUTHORS,
        preset="musiq",
    ),
    "musiq-spaq": PublishedModel(
        address="https://storage.googleapis.com/gresearch/musiq/spaq_ckpt.npz",
        size=None,
        hash="",
        licence=APACHE,
        target="SPAQ MOS (0-100)",
        score_range=MOS_RANGE,
        source=AUTHORS,
        preset="musiq",
    ),
    "musiq-ava": PublishedModel(
        address="https://storage.googleapis.com/gresearch/musiq/ava_ckpt.npz",
        size=162_966_730,
        hash="md5:6d73ebdb8433d2e2052e634f6adee990",
        licence=APACHE,
        target="AVA mean rating (1-10)",
        score_range=RATING_RANGE,
        source=AUTHORS,
        preset="musiq",
    ),
    "musiq-paq2piq": PublishedModel(
        address="https://storage.googleapis.com/gresearch/musiq/paq2piq_ckpt.npz",
        size=None,
        hash="",
        licence=APACHE,
        target="PaQ-2-PiQ MOS (0-100)",
        score_range=MOS_RANGE,
        source=AUTHORS,
        preset="musiq",
    ),
    "pyiqa-koniq": PublishedModel(
        address="https://huggingface.co/chaofengc/IQA-PyTorch-Weights/resolve/"
        "0df2df423c65f6a64209309695f3845727431027/musiq_koniq_ckpt-e95806b9.pth",
        size=108_610_983,
        hash="sha256:e95806b9eae5f3814c410f574ba8e552362bd5bc63d758ed5b97860f5d6185aa",
        licence=NON_COMMERCIAL,
        target="KonIQ-10k MOS (0-100)",
        score_range=MOS_RANGE,
        source=PYIQA,
        preset="musiq-pyiqa",
    ),
    "pyiqa-spaq": PublishedModel(
        address="https://huggingface.co/chaofengc/IQA-PyTorch-Weights/resolve/"
        "0df2df423c65f6a64209309695f3845727431027/musiq_spaq_ckpt-358bb6af.pth",
        size=None,
        hash="sha256:358bb6af275e28ea56821d44fb55c6cb83645db11f394d3ad65b2d149965ab50",
        licence=NON_COMMERCIAL,
        target="SPAQ MOS (0-100)",
        score_range=MOS_RANGE,
        source=PYIQA,
        preset="musiq-pyiqa",
    ),
    "pyiqa-ava": PublishedModel(
        address="https://huggingface.co/chaofengc/IQA-PyTorch-Weights/resolve/"
        "0df2df423c65f6a64209309695f3845727431027/musiq_ava_ckpt-e8d3f067.pth",
        size=None,
        hash="sha256:e8d3f0671965dfe4301a1f7a4aedc8f49be8fed33b82dd5d116a9eb3ce2bd16b",
        licence=NON_COMMERCIAL,
        target="AVA mean rating (1-10)",
        score_range=RATING_RANGE,
        source=PYIQA,
        preset="musiq-pyiqa",
    ),
    "pyiqa-paq2piq": PublishedModel(
        address="https://huggingface.co/chaofengc/IQA-PyTorch-Weights/resolve/"
        "0df2df423c65f6a64209309695f3845727431027/musiq_paq2piq_ckpt-364c0c84.pth",
        size=None,
        hash="sha256:364c0c84",  # the file's name tells no more
        licence=NON_COMMERCIAL,
        target="PaQ-2-PiQ MOS (0-100)",
        score_range=MOS_RANGE,
        source=PYIQA,
        preset="musiq-pyiqa",
    ),
}
"""By name. `musiq` scores as its authors' code, `musiq-pyiqa` as pyiqa does."""
