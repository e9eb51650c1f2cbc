"""Commands run in this process: how they end and what they print."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest

from clipdrift.cli import main


@dataclass(frozen=True)
class Said:
    code: int
    out: str
    err: str


Say = Callable[..., Said]


def runner(capsys: pytest.CaptureFixture[str]) -> Say:
    """Makes what runs a command in this process: ``say("ls", "models")``."""

    def run(*arguments: object) -> Said:
        with pytest.raises(SystemExit) as ended:
            main([str(a) for a in arguments])
        code = ended.value.code
        captured = capsys.readouterr()
        return Said(code if isinstance(code, int) else int(code is not None), captured.out, captured.err)

    return run


def fails(said: Said) -> str:
    """The one line on stderr of an error that a user can mend."""
    assert said.code == 2
    assert said.err.startswith("error: ")
    assert said.err.count("\n") == 1
    assert "Traceback" not in said.out + said.err
    return said.err
