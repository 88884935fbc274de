"""MUSIQ, the multi-scale image quality transformer, for production. Importing this needs numpy, OpenCV and click alone."""

from musiq.errors import ImageError, MusiqError

__version__ = "0.1.0"

__all__ = ["ImageError", "MusiqError", "__version__"]
