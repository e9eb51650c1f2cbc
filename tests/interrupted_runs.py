"""Runs that end in the middle, and what they leave."""

from __future__ import annotations

from dataclasses import dataclass, field

from safetensors.torch import load_file
from torch import Tensor

from clipdrift.runs.reporter import Silent
from clipdrift.runs.store import RunFolder


class Unplugged(Exception):  # noqa: N818 - stands for a kill
    """Ends a run where nothing of clipdrift expects it."""


@dataclass
class Unplugs(Silent):
    """A reporter that ends the run after some step of a phase, and keeps what it was told."""

    after: int = -1
    phase: str = "training"
    doing: str = ""
    warnings: list[str] = field(default_factory=list)
    steps: list[int] = field(default_factory=list)

    def stage(self, text: str) -> None:
        self.doing = text
        if text == self.phase and self.after == 0:
            raise Unplugged

    def warn(self, text: str) -> None:
        self.warnings.append(text)

    def step(self, step: int, steps: int, loss: float) -> None:
        self.steps.append(step)
        if step == self.after and self.doing.startswith(self.phase):
            raise Unplugged


def weights_of(folder: RunFolder) -> dict[str, Tensor]:
    files = sorted((folder.path / "model").glob("*.safetensors"))
    assert files
    return {f"{file.name}:{name}": v for file in files for name, v in load_file(file).items()}
