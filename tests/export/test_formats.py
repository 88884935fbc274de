"""The table of formats."""

from __future__ import annotations

import pytest

from musiq.errors import MusiqError
from musiq.file_formats import ENDINGS
from musiq_export.formats import FORMATS, find


def test_every_format_ends_in_what_one_runtime_opens() -> None:
    assert {format.suffix for format in FORMATS.values()} <= set(ENDINGS)
    assert [find(alias).name for format in FORMATS.values() for alias in (format.name, *format.aliases)]


def test_engines_alone_are_for_gpus_alone() -> None:
    assert {name for name, format in FORMATS.items() if format.gpu_only} == {"trt", "trt-rtx", "triton-trt"}


def test_a_mistyped_format_is_answered_with_the_nearest() -> None:
    with pytest.raises(MusiqError, match="Did you mean onnx"):
        find("onxx")
