"""Manifest of a study's folder: which runs were planned. Loads no torch."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from clipdrift.config.base import Frozen
from clipdrift.errors import ClipdriftError
from clipdrift.runs.files import write_text
from clipdrift.runs.frozen import Wording, read_model

MANIFEST = "study.json"
SCHEMA = 1


class StudyError(ClipdriftError):
    """A folder that holds no study, another one, or a damaged list of runs."""


class PlannedRun(Frozen):
    """A planned run."""

    key: str
    label: str
    cell: str


class Manifest(Frozen):
    """The plan of a folder's study; the runs lie beside it, each in the folder of its key."""

    schema_version: int = SCHEMA
    name: str
    title: str = ""
    questions: tuple[str, ...] = ()
    runs: tuple[PlannedRun, ...]
    command: str = Field("", description="What repeats it, without the folder.")

    @property
    def keys(self) -> tuple[str, ...]:
        return tuple(entry.key for entry in self.runs)

    @property
    def labels(self) -> dict[str, str]:
        """Label by key."""
        return {entry.key: entry.label for entry in self.runs}


def write_study_manifest(root: Path, manifest: Manifest) -> None:
    """Put a study's plan into its folder; a plan of the same study that stood there is replaced.

    Raises:
        StudyError: the folder holds another study.
    """
    if (root / MANIFEST).is_file():
        try:
            standing = read_manifest(root)
        except StudyError:
            pass  # damaged: the plan is known again, so nothing is lost
        else:
            if standing == manifest:
                return
            if standing.name != manifest.name:
                raise StudyError(
                    f"{root}: holds the study {standing.name}; give {manifest.name} another folder with --out"
                )
    write_text(root / MANIFEST, manifest.model_dump_json(indent=1) + "\n")


def read_manifest(root: Path) -> Manifest:
    """Read the manifest. Raises StudyError where there is none, or it is damaged or of another version."""
    if not (root / MANIFEST).is_file():
        raise StudyError(f"{root}: no study here; `clipdrift study run NAME --out {root}` makes one")
    words = Wording(
        schema=SCHEMA,
        error=StudyError,
        missing="removed while it was read",
        foreign=f"schema {{found}}, this version of clipdrift reads {SCHEMA}",
        again="say `clipdrift study run` again",
    )
    return read_model(root / MANIFEST, Manifest, words)
