"""The size rule: no source file above 400 lines, no test file above 500."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LIMITS = {"src": 400, "tests": 500, "tools": 400, "benchmarks": 400}


def too_long(root: Path = ROOT) -> list[str]:
    """One line for each file that breaks the rule."""
    found = []
    for folder, limit in LIMITS.items():
        for file in sorted((root / folder).rglob("*.py")):
            lines = len(file.read_text(encoding="utf-8").splitlines())
            if lines > limit:
                found.append(f"{file.relative_to(root)}: {lines} lines, {limit} at most; split it")
    return found


if __name__ == "__main__":
    problems = too_long()
    print("\n".join(problems) or "sizes: all files within their limits")
    sys.exit(bool(problems))
