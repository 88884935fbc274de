"""Decodes JPEGs by NVIDIA's nvImageCodec, on a GPU with the GPU's own JPEG engine where it has one."""

from __future__ import annotations

import importlib
import os
import threading
from types import ModuleType
from typing import Any

import numpy as np

from musiq import hardware
from musiq.errors import MusiqError, pip_install
from musiq.hardware import cuda_index
from musiq.images.fit import Image

END = b"\xff\xd9"
"""The marker that ends a JPEG. Files without it are cut short or have something appended: OpenCV's case."""

OPTIONS = ":fancy_upsampling=1"
"""Colours of half the resolution are interpolated as libjpeg-turbo does, and with it OpenCV; on a CPU pixels are equal."""


class NvImageCodec:
    """Decodes JPEGs; to be called from several threads, each of which gets a decoder of its own.

    On a GPU pixels differ from OpenCV's by rounding.

    Args:
        device: The model's: "cpu", or a GPU; "auto" takes a GPU where there is NVIDIA's driver.

    Raises:
        MusiqError: The package is missing, or the GPU that was asked for.
    """

    def __init__(self, device: str = "auto") -> None:
        self._codec = import_nvimagecodec()
        self._gpu = None if device == "cpu" else _gpu_of(device)
        self._own = threading.local()
        self._decoder()  # what fails here would fail for each image

    def __call__(self, data: bytes) -> Image | None:
        """The pixels of a JPEG as stored, not turned: uint8 (H, W, 3) RGB; None where it is not for this decoder to say
        what the file is."""
        if not data[-64:].rstrip(b"\0").endswith(END):
            return None
        codec = self._codec
        params = codec.DecodeParams(apply_exif_orientation=False, color_spec=codec.ColorSpec.SRGB)
        decoded = self._decoder().decode(data, params=params)
        if decoded is None:
            return None
        image = np.asarray(decoded.cpu())
        return image if image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3 else None

    def _decoder(self) -> Any:
        if not hasattr(self._own, "decoder"):
            codec = self._codec
            where: dict[str, Any] = {"device_id": self._gpu}
            if self._gpu is None:
                backends = [codec.Backend(codec.BackendKind.CPU_ONLY)]
                where = {"device_id": codec.NVIMGCODEC_DEVICE_CPU_ONLY, "backends": backends}
            try:
                # One thread each, because there is a decoder for each thread that calls.
                self._own.decoder = codec.Decoder(max_num_cpu_threads=1, options=OPTIONS, **where)
            except RuntimeError as problem:
                place = "the CPU" if self._gpu is None else f"cuda:{self._gpu}"
                raise MusiqError(
                    f"nvImageCodec cannot decode on {place} ({problem}). Look at the GPU with nvidia-smi, or leave out "
                    "--jpeg-decoder."
                ) from problem
        return self._own.decoder


def import_nvimagecodec() -> ModuleType:
    """NVIDIA's package, or a MusiqError with the install line."""
    os.environ.setdefault("PYNVIMGCODEC_VERBOSITY", "0")  # reasons come back as None and exceptions, not on stderr
    try:
        nvimgcodec = importlib.import_module("nvidia.nvimgcodec")
    except ImportError as problem:
        raise MusiqError(f"nvImageCodec cannot be imported ({problem}): {pip_install('nvimagecodec')}.") from problem
    if not hasattr(nvimgcodec, "NVIMGCODEC_DEVICE_CPU_ONLY"):
        raise MusiqError(
            f"nvImageCodec {nvimgcodec.__version__} is too old: pip install --upgrade nvidia-nvimgcodec-cu12."
        )
    return nvimgcodec


def _gpu_of(device: str) -> int | None:
    """The GPU's number; None where "auto" finds none. Raises MusiqError where another device has none."""
    problem = hardware.why_no_driver()
    if problem and device != "auto":
        raise MusiqError(f"nvImageCodec cannot use {device}: {problem}. Use --device cpu, or leave out --jpeg-decoder.")
    return None if problem else cuda_index(device)
