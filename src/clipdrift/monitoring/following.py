"""Logs that are looked at again and again while trainings write them. Loads no torch."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from clipdrift.monitoring.course import Course, courses_in, names_of, read_course
from clipdrift.monitoring.errors import MonitorError
from clipdrift.monitoring.log import LOG


@dataclass
class Followed:
    """One training as it was seen last.

    Attributes:
        out: its folder.
        course: its log; None: there is none yet, or none with a row.
        fresh: rows, those of failed measurements too, that the last look found and the one before did not.
    """

    out: Path
    course: Course | None = None
    fresh: int = 0
    _seen: tuple[int, int, int] | None = None

    def look(self) -> None:
        """Read the log again if its file has changed."""
        try:
            stat = (self.out / LOG).stat()
        except OSError:
            self.fresh = 0
            return
        seen = (stat.st_ino, stat.st_size, stat.st_mtime_ns)
        if seen == self._seen:
            self.fresh = 0
            return
        before = _marks(self.course)
        with suppress(
            MonitorError, OSError
        ):  # moved aside this very moment: the next look finds what follows
            course = read_course(self.out)
            now = _marks(course)
            self._seen = seen
            self.course = course if course.rows else None
            self.fresh = len(now) - (len(before) if now[: len(before)] == before else 0)


def _marks(course: Course | None) -> list[tuple[int, object]]:
    """What tells rows apart."""
    return [] if course is None else [(row["step"], row.get("time")) for row in course.attempts]


class Following:
    """Trainings in some folders, those that appear later too."""

    def __init__(self, places: Sequence[Path]) -> None:
        self.places = list(places)
        self._by_folder: dict[Path, Followed] = {}

    def look(self) -> list[Followed]:
        """Look at every log; returns all trainings that have one."""
        for place in self.places:
            for folder in courses_in(place):
                self._by_folder.setdefault(folder, Followed(folder))
        for one in self._by_folder.values():
            one.look()
        return [one for one in self._by_folder.values() if one.course is not None]

    @property
    def waiting(self) -> list[Path]:
        """Places in which there is no row yet."""
        seen = [folder for folder, one in self._by_folder.items() if one.course is not None]
        return [place for place in self.places if not any(_within(folder, place) for folder in seen)]


def _within(folder: Path, place: Path) -> bool:
    return folder == place or place in folder.parents or folder / LOG == place


def names(trainings: Sequence[Followed]) -> list[str]:
    """A name for each training that has a row, different ones."""
    return names_of([one.course for one in trainings if one.course is not None])
