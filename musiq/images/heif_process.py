"""Decodes one HEIC image by pi-heif in a process of its own: the file on stdin, a line of JSON and the pixels on stdout.

libheif crashes on some damaged files, and a crash takes its whole process with it. A process for each image costs that
image alone, and its start (about a tenth of a second) is little beside decoding a photo. It runs as a script, so that
neither musiq nor NumPy is imported here; its arguments are the module paths of the process that starts it.
"""

from __future__ import annotations

import io
import sys

REFUSED = 3
"""The exit code for a file that pi-heif says it cannot decode."""


def main() -> int:
    """Decode stdin's file. Exits with 0, or with REFUSED."""
    sys.path[:] = sys.argv[1:]
    import json

    import pi_heif

    data = sys.stdin.buffer.read()
    try:
        image = pi_heif.open_heif(io.BytesIO(data), convert_hdr_to_8bit=False, hdr_to_16bit=False)
        array = image.__array_interface__
        pixels = bytes(array["data"])
    except (ValueError, EOFError, SyntaxError, RuntimeError, OSError, IndexError):
        return REFUSED
    about = {"shape": array["shape"], "dtype": array["typestr"], "mode": image.mode}
    sys.stdout.buffer.write(json.dumps(about).encode() + b"\n" + pixels)
    return 0


if __name__ == "__main__":
    sys.exit(main())
