"""From an image file, bytes or an array to what a model takes: uint8 RGB pixels, of its height and width or the image's."""

from musiq.images.decode import decode, prepare
from musiq.images.find import find_images
from musiq.images.fit import VBENCH, fit

__all__ = ["VBENCH", "decode", "find_images", "fit", "prepare"]
