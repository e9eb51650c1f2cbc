"""Download the wheels that a machine with torch, transformers and peft may lack: ``make gpu-wheels``.

They are for CPython 3.12 on x86-64 Linux, small and without dependencies: nothing there is replaced.
"""

from __future__ import annotations

import subprocess
import sys
import zipfile
from email.parser import HeaderParser
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

CARRIED = (
    "datasets", "dill", "multiprocess", "xxhash", "pydantic", "pydantic-core", "annotated-types",
    "typing-inspection", "beartype", "tabulate",
)  # fmt: skip
"""Packages that clipdrift or its tests need and that machines for torch often lack."""
LIMIT = 40 * 2**20
"""Bytes of all wheels together."""
_PLATFORMS = ("manylinux_2_28", "manylinux_2_17", "manylinux2014", "manylinux1")


def main(folder: Path) -> None:
    """Download into ``folder``, which is emptied of other wheels first.

    A package that another one needs in a certain version comes in that version.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.whl"):
        old.unlink()
    wanted = {name: Requirement(name) for name in CARRIED}
    for name in CARRIED:  # those that pin others come before them in the list
        print(f"downloading {wanted[name]}", flush=True)
        wheel = _download(wanted[name], folder)
        for need in _needs(wheel):
            other = canonicalize_name(need.name)
            if other in wanted:
                wanted[other] = Requirement(f"{other}{wanted[other].specifier & need.specifier}")
    size = sum(wheel.stat().st_size for wheel in folder.glob("*.whl"))
    if size > LIMIT:
        sys.exit(f"{folder}: {size / 2**20:.1f} MiB of wheels, more than {LIMIT / 2**20:.0f}")
    print(f"{len(list(folder.glob('*.whl')))} wheels, {size / 2**20:.1f} MiB, in {folder}")


def _download(requirement: Requirement, folder: Path) -> Path:
    before = set(folder.glob("*.whl"))
    platforms = [word for name in _PLATFORMS for word in ("--platform", f"{name}_x86_64")]
    subprocess.run(
        [
            *(sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"),
            *("--only-binary=:all:", "--python-version", "3.12", "--implementation", "cp", *platforms),
            *("--dest", str(folder), str(requirement)),
        ],
        check=True,
    )
    (wheel,) = set(folder.glob("*.whl")) - before
    return wheel


def _needs(wheel: Path) -> list[Requirement]:
    with zipfile.ZipFile(wheel) as archive:
        name = next(name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        lines = HeaderParser().parsestr(archive.read(name).decode()).get_all("Requires-Dist") or []
    found = [Requirement(line) for line in lines]
    return [need for need in found if need.marker is None or need.marker.evaluate({"python_version": "3.12"})]


if __name__ == "__main__":
    main(Path(sys.argv[1]))
