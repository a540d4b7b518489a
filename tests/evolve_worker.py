"""A worker process for the tests of shared storages: real study, leases and locks, a judge that only waits.

python evolve_worker.py STORAGE STUDY LOG EVALUATIONS SECONDS LEASE
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from binas.evolve.config import EvolveConfig
from binas.evolve.evaluators.candidate import Judgement
from binas.evolve.problems.genome import Gene, Genome, GenomeSpace
from binas.evolve.sampler import EvolutionSampler
from binas.evolve.study.storage import open_storage
from binas.evolve.study.worker import Worker, join_study

SPACE = GenomeSpace(tuple(Gene(f"ratios.{place}", (1, 2, 3, 4)) for place in range(4)))


def accuracy_of(genome: Genome) -> float:
    """What the judge says of a genome."""
    return sum(genome) / 12


def main(storage: str, study: str, log: str, evaluations: str, seconds: str, lease: str) -> None:
    """Works until all candidates are evaluated; writes a line for each that it has judged."""
    config = EvolveConfig(evaluations=int(evaluations), population=4)
    shared = open_storage(storage, study)
    sampler = EvolutionSampler(SPACE, config, seed=0)

    def judge(genome: Genome, number: int) -> Judgement:
        time.sleep(float(seconds))
        with open(log, "a", encoding="utf-8") as file:
            file.write(f"{number} {os.getpid()}\n")
        return Judgement(accuracy_of(genome), 0.0)

    with shared:
        worker = Worker(
            join_study(shared, study, sampler, {"seed": 0}),
            shared,
            judge,
            lambda genome: (1.0 + sum(genome), 8.0),
            lambda genome: {},
            13.0,
            float(lease),
        )
        Path(f"{log}.ready{os.getpid()}").touch()
        while not Path(f"{log}.go").exists():  # so that all begin together, however long it takes to start
            time.sleep(0.05)
        print(worker.run(), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
