"""clipdrift imported anew, in a process that has torch and transformers already: a child of this one.

Where a process must be without torch, or be started as a user starts it, it is started by ``subprocess``.
"""

from __future__ import annotations

import importlib
import os
import sys
import tempfile
import traceback
import warnings
from collections.abc import Sequence
from pathlib import Path

from commands import Said


def fresh(code: str, *arguments: str, path: Sequence[Path] = ()) -> Said:
    """How ``python -W ignore -c CODE ARGUMENTS`` ends and what it prints, with ``path`` on its path.

    Of clipdrift nothing is loaded when the code begins, and types are not checked.
    """
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of forking a process that has threads
            pid = os.fork()
        if pid == 0:
            _child(code, arguments, path, out.fileno(), err.fileno())
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        out.seek(0)
        err.seek(0)
        return Said(status, out.read(), err.read())


def _child(code: str, arguments: Sequence[str], path: Sequence[Path], out: int, err: int) -> None:
    status = 1
    try:
        sys.stdout, sys.stderr = os.fdopen(os.dup(out), "w"), os.fdopen(os.dup(err), "w")
        warnings.resetwarnings()
        warnings.simplefilter("ignore")
        sys.argv = ["-c", *arguments]
        sys.path[:0] = map(str, path)
        sys.meta_path = [f for f in sys.meta_path if not type(f).__module__.startswith("jaxtyping")]
        for name in [n for n in sys.modules if n.split(".")[0] == "clipdrift"]:
            del sys.modules[name]
        importlib.invalidate_caches()
        exec(compile(code, "<code>", "exec"), {"__name__": "__main__"})
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
