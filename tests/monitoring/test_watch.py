"""``clipdrift watch``: what it shows, that it follows logs while they are written, and how it ends."""

from __future__ import annotations

import io
import json
import math
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from clipdrift.cli import main
from clipdrift.cli.show_watch import REFRESH, sparkline, table_of, watch_trainings
from clipdrift.monitoring.errors import MonitorError
from clipdrift.monitoring.following import Followed, Following
from clipdrift.monitoring.log import append
from made_logs import made_log, made_row


def _console(width: int = 200, terminal: bool = False) -> tuple[Console, io.StringIO]:
    out = io.StringIO()
    return Console(file=out, width=width, force_terminal=terminal, color_system=None), out


def _ends_after(looks: int, act: Callable[[int], object] = lambda look: None) -> Callable[[float], None]:
    """A way to wait that acts between two looks and is Ctrl-C after some."""
    seen = 0

    def wait(seconds: float) -> None:
        nonlocal seen
        if seen == looks:
            raise KeyboardInterrupt
        act(seen)
        seen += 1

    return wait


def test_once_prints_a_row_per_training(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made_log(tmp_path / "a")
    made_log(tmp_path / "b" / "drift", [5], sets=False)
    with pytest.raises(SystemExit) as ended:
        main(["watch", str(tmp_path), "--once"])
    assert not ended.value.code
    lines = capsys.readouterr().out.splitlines()
    first = next(line for line in lines if line.startswith("a "))
    for part in ("40", "ago", "0.800", "0.400", "-4.0 %", "objects 60.0 %", "▇"):
        assert part in first
    assert "a  step 30: drift/embedding_drift is 0.3 (yours)" in lines
    assert any(line.startswith("b ") and "0.975" in line for line in lines)


def test_once_without_a_log_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for place, said in ((tmp_path, "no row in a drift.jsonl"), (tmp_path / "none", "no such folder")):
        with pytest.raises(SystemExit) as ended:
            main(["watch", str(place), "--once"])
        assert ended.value.code == 2
        error = capsys.readouterr().err
        assert said in error
        assert error.count("\n") == 1


def test_without_a_terminal_each_new_row_is_a_line(tmp_path: Path) -> None:
    """Also of a training that begins later; each row once."""
    out = tmp_path / "late"
    console, printed = _console()
    steps = iter((5, 10, 15))

    def act(look: int) -> None:
        if look:
            append(out, made_row(next(steps)))

    watch_trainings([out], console=console, wait=_ends_after(4, act))
    lines = printed.getvalue().splitlines()
    assert lines[0] == f"waiting for {out / 'drift.jsonl'}: no such folder yet, at most 10 min more"
    assert [line.split()[2] for line in lines[1:]] == ["5", "10", "15"]
    assert "CKA 0.950  embedding drift 0.100  entropy -1.0 %  kept objects 90.0 %" in lines[2]


@pytest.mark.parametrize("terminal", [False, True])
def test_what_never_comes_is_said_at_once_and_waited_for_so_long(tmp_path: Path, terminal: bool) -> None:
    """The reason before the first pause; then one line that says why it ends."""
    console, printed = _console(terminal=terminal)
    now, empty = [0.0], tmp_path / "empty"
    empty.mkdir()

    def wait(seconds: float) -> None:
        said = f"waiting for {empty / 'drift.jsonl'}: none up to two folders below, at most 5 min"
        assert said in printed.getvalue()
        now[0] += 50

    with pytest.raises(MonitorError, match=r"empty: no row in a drift.jsonl .*\(waited 5 min; --wait says"):
        watch_trainings([empty], console=console, wait=wait, patience=300, clock=lambda: now[0])
    assert now[0] == 300


def test_once_something_is_watched_it_never_ends_by_itself(tmp_path: Path) -> None:
    """Though another folder stays empty; and for ever where that was asked."""
    console, printed = _console()
    now = [0.0]

    def later(_: int) -> None:
        now[0] += 1000

    out = made_log(tmp_path / "mine", [5])
    ways: list[tuple[list[Path], float]] = [
        ([out, tmp_path / "none"], 300.0),
        ([tmp_path / "none"], math.inf),
    ]
    for places, patience in ways:
        watch_trainings(
            places, console=console, wait=_ends_after(5, later), patience=patience, clock=lambda: now[0]
        )
    assert printed.getvalue().splitlines()[-1].endswith("drift.jsonl: no such folder yet")


def test_the_command_does_not_wait_where_it_is_told_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["watch", str(tmp_path), "--wait", "0"])
    said = capsys.readouterr()
    assert ended.value.code == 2
    assert said.err.startswith(f"error: {tmp_path}: no row in a drift.jsonl")
    assert said.err.count("\n") == 1


def test_a_terminal_shows_the_latest(tmp_path: Path) -> None:
    out = made_log(tmp_path / "mine", [5])
    console, printed = _console(terminal=True)
    watch_trainings(
        [out, tmp_path / "later"], console=console, wait=_ends_after(1, lambda _: append(out, made_row(20)))
    )
    last = printed.getvalue().rpartition("CKA so far")[2]
    assert "0.900" in last
    assert "waiting for" in last
    assert "Ctrl-C ends this" in last


def test_a_narrow_terminal_gets_fewer_columns(tmp_path: Path) -> None:
    made_log(tmp_path / "mine")
    (one,) = Following([tmp_path]).look()
    assert [len(table_of([one], width).columns) for width in (80, 120)] == [6, 8]


def test_a_log_is_followed_while_a_thread_writes_it(tmp_path: Path) -> None:
    """No row is missed, none comes twice, and a line that is half there is never damage."""
    out = tmp_path / "live"
    out.mkdir()
    count = 60

    def write() -> None:
        with (out / "drift.jsonl").open("a") as file:
            for step in range(1, count + 1):
                line = json.dumps(made_row(step)) + "\n"
                for part in (line[:40], line[40:]):
                    file.write(part)
                    file.flush()
                    time.sleep(0.001)

    writer = threading.Thread(target=write)
    writer.start()
    following, found, damaged = Following([out]), list[int](), 0
    until = time.monotonic() + 30
    while len(found) < count and time.monotonic() < until:
        for one in following.look():
            assert one.course is not None
            rows = one.course.rows
            found += [row["step"] for row in rows[len(rows) - one.fresh :]] if one.fresh else []
            damaged += one.course.damaged
    writer.join()
    assert found == list(range(1, count + 1))
    assert damaged == 0


def test_a_log_that_begins_anew_is_new(tmp_path: Path) -> None:
    out = made_log(tmp_path / "mine", [5, 10, 15])
    one = Followed(out)
    one.look()
    assert one.fresh == 3
    one.look()
    assert one.fresh == 0
    (out / "drift.jsonl").rename(out / "drift.1.jsonl")
    append(out, made_row(5, at=1.0))
    one.look()
    assert one.fresh == 1
    assert one.course is not None
    assert one.course.steps == [5]


def test_pages_are_loaded_again_while_the_training_lives(tmp_path: Path) -> None:
    out = tmp_path / "mine"
    append(out, made_row(5, at=time.time()))
    pages: list[str] = []

    def act(look: int) -> None:
        pages.append((out / "index.html").read_text())
        if look == 0:
            append(out, made_row(10, at=time.time()))

    console, printed = _console()
    watch_trainings([out], html=True, console=console, wait=_ends_after(3, act))
    refresh = f'http-equiv="refresh" content="{REFRESH}"'
    assert all(refresh in page for page in pages)
    assert ["1 measurement at step 5" in page for page in pages] == [True, False, False]
    assert refresh not in (out / "index.html").read_text()  # nobody writes it any more
    assert f"page {out / 'index.html'}" in printed.getvalue()


def test_a_page_of_a_training_that_has_ended_stands_still(tmp_path: Path) -> None:
    out = made_log(tmp_path / "mine", [5])
    console, _ = _console()
    watch_trainings([out], once=True, html=True, console=console)
    assert 'http-equiv="refresh"' not in (out / "index.html").read_text()


def test_bars_stand_between_the_lowest_and_one() -> None:
    assert sparkline([1.0, 0.96, 0.9]) == "█▅▁"
    assert sparkline([1.0, float("nan"), 0.2]) == "█ ▁"
    assert sparkline([float("nan")]) == ""
    assert len(sparkline([1.0] * 100)) == 16


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
def test_ctrl_c_ends_it_cleanly_without_torch(tmp_path: Path) -> None:
    made_log(tmp_path / "mine")
    code = (
        "import sys, atexit; atexit.register(lambda: print('torch' in sys.modules, flush=True)); "
        f"from clipdrift.cli import main; main(['watch', {str(tmp_path)!r}, '--every', '0.1'])"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline().startswith("mine")
        process.send_signal(signal.SIGINT)
        out, error = process.communicate(timeout=60)
    assert (process.returncode, error) == (0, "")
    assert out.splitlines()[-1] == "False"
