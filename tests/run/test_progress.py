"""Bars on a terminal, plain lines elsewhere; durations in words; a loss that is no number."""

import math
import os
import pty
import subprocess
import sys
import termios

import pytest

from binas.errors import UserError
from binas.run.nan import check_finite
from binas.run.progress import Stopwatch, eta, progress, say

PROGRAM = """
from binas.run.progress import progress, say
for number in progress(iter(range(3)), "counting", total=3):
    say(f"line {number}")
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


def test_progress_yields_everything(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(progress([1, 2, 3], "x")) == [1, 2, 3]
    say("done")
    assert capsys.readouterr() == ("done\n", "")


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
