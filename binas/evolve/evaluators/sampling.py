"""What the predictor learns from: candidates that are drawn and measured, kept in a file as they come."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Literal

from binas.config import read_text
from binas.errors import UserError
from binas.evolve.evaluators.candidate import Judgement
from binas.evolve.evaluators.identity import Identity, is_samples_identity
from binas.evolve.evaluators.predictor import Samples
from binas.evolve.problems.genome import Genome
from binas.evolve.problems.joint import JointProblem
from binas.evolve.study.storage import cut_torn_line, file_lock
from binas.run.files import AppendedFile
from binas.run.progress import Stopwatch, eta, progress, say
from binas.run.seeds import derive_seed

SamplePrecision = Literal["real", "quantized"]
Measure = Callable[[Genome, int], Judgement]
SAY_EVERY = 10
"""Samples between two lines of progress."""


class SampleFile:
    """Measured candidates, a line for each; a worker that finds it unfinished goes on, others wait.

    Args:
        file: the samples; its first line says whose they are.
        problem: what genomes stand for.
        identity: settings that the samples depend on, in plain types.
        seed: of the genomes.
    """

    def __init__(self, file: Path, problem: JointProblem, identity: Identity, seed: int) -> None:
        self.file, self.problem, self.seed = file, problem, seed
        self.identity: Identity = json.loads(json.dumps(identity))
        self.lock = file.with_name(f"{file.name}.lock")

    def drawn(self, precision: SamplePrecision, count: int, measure: Measure) -> Samples:
        """So many different genomes, drawn at random, and what was measured of them.

        Those whose training left the numbers are left out. They keep no limits; what each is does not depend
        on how many there are.
        """
        generator = random.Random(derive_seed(self.seed, "samples", precision))
        genomes: dict[Genome, None] = {}
        draws = 0
        while len(genomes) < count:
            draws += 1
            if draws > 100 * count:
                raise UserError(
                    f"evolve.predictor.{precision}_samples: only {len(genomes)} different candidates were"
                    f" found in {draws} draws; lower it, or give evolve.joint more choices"
                )
            genome = self.problem.space.random(generator)
            genomes[self.problem.architecture(genome) if precision == "real" else genome] = None
        judgements = dict(zip(genomes, self.measured(precision, list(genomes), measure), strict=True))
        good = {genome: judgement.accuracy for genome, judgement in judgements.items() if not judgement.note}
        if len(good) < count:
            say(
                f"{count - len(good)} of {count} {precision} samples did not train to the end; they are left"
                " out"
            )
        return Samples(tuple(good), tuple(good.values()))

    def measured(
        self, precision: SamplePrecision, genomes: Sequence[Genome], measure: Measure
    ) -> list[Judgement]:
        """What was measured of these genomes, in another run or now."""
        with file_lock(self.lock):
            known = self._read()
            watch, missing = Stopwatch(), [g for g in genomes if (precision, g) not in known]
            target = AppendedFile(self.file)
            try:
                for number, genome in enumerate(progress(missing, f"{precision} samples", len(missing))):
                    # a seed of its own for each genome, whatever has been measured before
                    own = derive_seed(self.seed, "sample", precision, *genome) % 2**31
                    judgement = known[precision, genome] = measure(genome, own)
                    row = {"precision": precision, "genome": genome, **asdict(judgement)}
                    target.append(f"{json.dumps(row)}\n".encode())
                    watch.add()
                    left = len(missing) - number - 1
                    if left % SAY_EVERY == 0:
                        say(
                            f"{precision} sample {len(genomes) - left}/{len(genomes)}: accuracy"
                            f" {judgement.accuracy:.4f}, {eta(watch.remaining(left))} left"
                        )
                target.sync()
            finally:
                target.close()
        return [known[precision, genome] for genome in genomes]

    def _read(self) -> dict[tuple[str, Genome], Judgement]:
        cut_torn_line(self.file)
        if not self.file.exists() or not self.file.stat().st_size:
            target = AppendedFile(self.file)
            target.append(f"{json.dumps({'identity': self.identity})}\n".encode())
            target.close()
        head, *lines = read_text(self.file).splitlines()
        try:
            identity, rows = json.loads(head)["identity"], [json.loads(line) for line in lines]
            known = {
                (str(row["precision"]), tuple(map(int, row["genome"]))): Judgement(
                    float(row["accuracy"]), row["loss"], str(row["note"])
                )
                for row in rows
            }
        except (ValueError, KeyError, TypeError):
            raise UserError(
                f"{self.file}: is damaged; remove it, and its samples are measured again"
            ) from None
        if not is_samples_identity(identity, self.identity):
            raise UserError(
                f"{self.file}: holds the samples of another recipe or seed; remove it, or name another file"
                " by evolve.predictor.samples"
            )
        return known
