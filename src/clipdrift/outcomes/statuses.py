"""How a run ended, in one word: which words mean that it is finished, and so is counted."""

from __future__ import annotations

DONE = "done"
FINISHED = ("done", "finished", "completed", "success")
"""In any case. No other word counts: a run that is not known to have finished is left out, and said to be."""
NONE = "without status"
_OURS = ("diverged", "failed", "interrupted", "running", "planned")


def status_of(value: object) -> str:
    """``done`` for a finished run; else the word as it was given, :data:`NONE` where there is none."""
    if value is None or value != value:  # nan, as tables have it where a cell is empty
        return NONE
    text = str(value).strip()
    if text.lower() in FINISHED:
        return DONE
    return text.lower() if text.lower() in _OURS else text or NONE
