"""The one family of errors that a user can meet and mend."""

from __future__ import annotations


class MusiqError(Exception):
    """Something the user can put right: the message says what was wrong, what was expected, what to do.

    The command lines print it as one line and exit with 1; anything else that escapes is a defect of this package.
    """


class ImageError(MusiqError):
    """A picture that cannot be scored; in a run over many it becomes that picture's row, and the rest go on."""
