"""Errors of data. Every message is one line: what, where, and what to do about it."""

from __future__ import annotations

from clipdrift.errors import ClipdriftError


class DataError(ClipdriftError):
    """A data set cannot be used as asked."""


class BadImage(DataError):  # noqa: N818 - what it is, not what it does
    """One image cannot be decoded.

    Attributes:
        where: The file or row, as in ``ImageSet.where``.
        reason: Why, without the place.
    """

    def __init__(self, where: str, reason: str) -> None:
        super().__init__(f"{where}: {reason}")
        self.where = where
        self.reason = reason

    def __reduce__(self) -> tuple[type[BadImage], tuple[str, str]]:
        # The default would rebuild it from the joined message, which __init__ does not take.
        return (BadImage, (self.where, self.reason))
