"""Bars on a terminal, plain lines elsewhere; durations in words; a loss that is no number."""

import logging
import math
import os
import pty
import subprocess
import sys
import termios

import pytest

from binas.cli.terminal import shown
from binas.engine.memory_forecast import Footprint, Forecast, announce
from binas.errors import UserError
from binas.run.nan import check_finite
from binas.run.progress import Stopwatch, eta, progress, room_logger, say, shown_by, warn

LIBRARY = """
from binas.run.progress import progress, say
for number in progress(iter(range(3)), "counting", total=3):
    say(f"line {number}")
"""
PROGRAM = f"""
from binas.cli.terminal import shown
with shown():
    exec({LIBRARY!r})
"""


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (0.4, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min 0 s"),
        (200, "3 min 20 s"),
        (3599.7, "1 h 0 min"),
        (7500, "2 h 5 min"),
        (86_399, "1 d 0 h"),
        (97_200, "1 d 3 h"),
        (math.inf, "unknown"),
        (math.nan, "unknown"),
        (-1, "unknown"),
    ],
)
def test_eta(seconds: float, text: str) -> None:
    assert eta(seconds) == text


def test_the_library_prints_nothing() -> None:
    """Its lines are records of logging, and a program that sets nothing up sees none of them."""
    done = subprocess.run([sys.executable, "-c", LIBRARY], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "")


def test_without_a_terminal_only_lines() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    assert done.stdout == "line 0\nline 1\nline 2\n"
    assert done.stderr == ""


def test_on_a_terminal_a_bar_and_whole_lines() -> None:
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 80))
    child = subprocess.Popen([sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, stderr=theirs)
    assert child.communicate()[0] == b"line 0\nline 1\nline 2\n"
    os.set_blocking(ours, False)
    shown = os.read(ours, 100_000)
    os.close(ours)
    os.close(theirs)
    assert b"counting" in shown
    assert b"/3" in shown


def test_progress_yields_everything_and_is_told() -> None:
    seen: list[tuple[str, int, int | None]] = []
    assert list(progress([1, 2, 3], "before")) == [1, 2, 3]
    with shown_by(lambda description, done, total, figures: seen.append((description, done, total))):
        assert list(progress([1, 2], "a")) == [1, 2]
        with shown_by(None):
            assert list(progress(iter([1]), "b")) == [1]
    assert list(progress([1], "after")) == [1]
    assert seen == [("a", 0, 2), ("a", 1, 2), ("a", 2, 2), ("b", 0, None), ("b", 1, None)]


def test_a_line_is_a_record_of_its_room(caplog: pytest.LogCaptureFixture) -> None:
    footprint = Footprint(constant=5, per_image=1)
    announce(Forecast(footprint, images=4, optimizers=0, in_use=0, available=1), list)
    assert [(record.name, record.levelname) for record in caplog.records] == [
        ("binas.engine", "INFO"),
        ("binas.engine", "WARNING"),
    ]
    assert caplog.records[0].filename == "memory_forecast.py"
    assert room_logger("binas.search.strategies.base").name == "binas.search"
    assert room_logger("__main__").name == room_logger("tests.run").name == "binas"


def test_a_command_leaves_logging_as_it_was(capsys: pytest.CaptureFixture[str]) -> None:
    logger = logging.getLogger("binas")
    before = logger.level, list(logger.handlers)
    with shown():
        say("told")
        warn("take care")
        logging.getLogger("binas").debug("not shown")
    assert (logger.level, logger.handlers) == before
    assert capsys.readouterr().out == "told\nwarning: take care\n"


def test_stopwatch(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([100.0, 104.0, 104.0, 104.0])
    monkeypatch.setattr("time.perf_counter", lambda: next(clock))
    watch = Stopwatch()
    assert watch.remaining(5) == math.inf
    watch.add(6)
    watch.add(2)
    assert watch.seconds == 4
    assert watch.rate == 2
    assert watch.remaining(10) == 5


def test_finite_loss_passes() -> None:
    assert check_finite(1.5, "here") == 1.5


@pytest.mark.parametrize("loss", [math.nan, math.inf, -math.inf])
def test_loss_that_is_no_number(loss: float) -> None:
    with pytest.raises(UserError) as caught:
        check_finite(loss, "search, epoch 3, step 7: the loss", "give T a higher end")
    text = str(caught.value)
    assert text.startswith(f"search, epoch 3, step 7: the loss is {loss}")
    assert "last good checkpoint" in text
    assert text.index("give T a higher end") < text.index("learning rate") < text.index("clip_grad_norm")
