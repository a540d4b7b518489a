"""Leases: who evaluates which candidate, so that each is evaluated once, whoever dies meanwhile.

A worker takes a candidate and shows signs of life while it works. A candidate whose worker is gone is put
back and taken again under the same number, with the same genome. Optuna's own heartbeat covers
`Study.optimize` only, not ask and tell.
"""

from __future__ import annotations

import os
import platform
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState

from binas.evolve.sampler import EvolutionSampler
from binas.evolve.study.storage import Lock

OWNER_KEY = "owner"
POLLS = 4
"""Signs of life in the time of a lease."""


class Leases:
    """Takes candidates out of a study and hands their results in.

    A worker is gone when its process on our own host is, or when its sign of life has not changed for the
    time of a lease by our own clock, so that clocks of hosts need not agree.

    Args:
        study: with an `EvolutionSampler`.
        lock: of the storage.
        seconds: time of a lease.
        worker: name of this worker, unlike all others; None draws one.
    """

    def __init__(self, study: Study, lock: Lock, seconds: float, *, worker: str | None = None) -> None:
        assert isinstance(study.sampler, EvolutionSampler)
        self.study, self.lock, self.seconds = study, lock, seconds
        self.sampler = study.sampler
        self.worker = worker or uuid.uuid4().hex[:12]
        self._seen: dict[tuple[int, str], tuple[Any, float]] = {}

    def take(self) -> Trial | None:
        """The next candidate: one that a dead worker left, or a new one; None where there is none to take."""
        with self.lock():
            trials = self.study.get_trials(deepcopy=False)
            for trial in trials:
                if trial.state == TrialState.RUNNING and self._is_dead(trial):
                    self.study._storage.set_trial_state_values(trial._trial_id, TrialState.WAITING)
            waiting = self.study.get_trials(deepcopy=False, states=(TrialState.WAITING,))
            if not waiting and len(trials) >= self.sampler.num_trials:
                return None
            taken = self.study.ask(self.sampler.space.distributions())
            taken.set_user_attr(OWNER_KEY, {"worker": self.worker, **this_process()})
        return taken

    def is_done(self) -> bool:
        """Whether every candidate has been evaluated."""
        done = self.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        return len(done) >= self.sampler.num_trials

    def tell(self, trial: Trial, values: Sequence[float]) -> FrozenTrial | None:
        """Hands a result in; None where the candidate had been given to another worker meanwhile."""
        with self.lock():
            now = self.study._storage.get_trial(trial._trial_id)
            owner = now.user_attrs.get(OWNER_KEY, {})
            if now.state != TrialState.RUNNING or owner.get("worker") != self.worker:
                return None
            return self.study.tell(trial, list(values))

    @contextmanager
    def kept(self, trial: Trial) -> Iterator[None]:
        """Shows signs of life inside the block."""
        end = threading.Event()
        thread = threading.Thread(target=self._beat, args=(trial, end), daemon=True)
        thread.start()
        try:
            yield
        finally:
            end.set()
            thread.join()

    def _beat(self, trial: Trial, end: threading.Event) -> None:
        beat = 0
        while not end.wait(self.seconds / POLLS):
            beat += 1
            # a storage that is away for a moment: the next sign of life counts as well
            with suppress(Exception):
                # a key of our own: one who lost its lease does not disturb the one who has it
                self.study._storage.set_trial_user_attr(trial._trial_id, _beat_key(self.worker), beat)

    def _is_dead(self, trial: FrozenTrial) -> bool:
        owner = trial.user_attrs.get(OWNER_KEY)
        if owner is None:
            return True  # taking is done under the lock, which we hold: its worker died half-way
        here = this_process()
        if owner["host"] == here["host"] and start_of(owner["process"]) != owner["start"]:
            return True
        key = (trial.number, owner["worker"])
        beat = trial.user_attrs.get(_beat_key(owner["worker"]), 0)
        seen, since = self._seen.get(key, (None, 0.0))
        if seen != beat:
            self._seen[key] = (beat, time.monotonic())
            return False
        return bool(time.monotonic() - since > self.seconds)


def _beat_key(worker: str) -> str:
    return f"beat:{worker}"


def this_process() -> dict[str, Any]:
    """This process and its host, told apart from any other by name."""
    process = os.getpid()
    return {"host": _host(), "process": process, "start": start_of(process)}


def _host() -> str:
    """The machine since its start, and where processes are numbered: containers number their own."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return platform.node()


def start_of(process: int) -> str:
    """When a process was started, empty where there is none: numbers of processes are used again."""
    try:
        text = Path(f"/proc/{process}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return "" if Path("/proc/self").exists() or not _runs(process) else "running"
    fields = text.rpartition(")")[2].split()
    return "" if fields[0] in "ZX" else fields[19]


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
