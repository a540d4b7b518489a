"""One trained network whose parts are the candidates, see `part.py`.

The network is the one with every gene at its costliest choice. Each step draws a genome, computes with the
part of the weights that belongs to it, and so trains them for all genomes that share them. A candidate is
evaluated with its part, after its batch-norm statistics have been taken anew. In phases, one kind of genes
after the other begins to vary, and parts learn from the largest network as the first phase left it.

Yu and Huang, Universally Slimmable Networks, arXiv:1903.05134 (slices; statistics taken anew); Phan et al.,
arXiv:2005.06305 (random combinations of groups); Cai et al., Once-for-All, arXiv:1908.09791 (phases).
Deviations from Once-for-All: a smaller kernel is the middle of the larger one, without learned matrices
between them; a kind of genes varies over all of its choices at once; one part is trained in a step.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Hashable
from itertools import islice
from pathlib import Path

import torch
from torch import nn

from binas.arch.slices import tensors
from binas.binarize import binary_convolutions, set_progress
from binas.data.open_data import Data
from binas.engine.batch_norm import take_statistics
from binas.engine.loop import evaluate, evaluation_batches, train_epoch
from binas.errors import UserError
from binas.evolve.config import SharedConfig, SharedPhase
from binas.evolve.evaluators.candidate import Judgement, training_batches
from binas.evolve.evaluators.identity import Identity, is_shared_identity, shared_identity
from binas.evolve.evaluators.part import assembled, part_of
from binas.evolve.evaluators.shared_step import SharedStep
from binas.evolve.problems.genome import Genome
from binas.evolve.problems.problem import Problem, structure_of
from binas.evolve.study.storage import file_lock
from binas.registry import nearest
from binas.run.checkpoint import load_checkpoint, save_checkpoint
from binas.run.optimizer_state import load_optimizer_state, optimizer_state
from binas.run.progress import say
from binas.run.seeds import derive_seed, seed_everything
from binas.train.model_file import ModelStructure
from binas.train.stage import StageConfig

KIND = "shared network"


class SharedNetwork:
    """Trains the network once, then judges candidates by their parts of it.

    Args:
        problem: what genomes stand for.
        config: its training.
        data: the images.
        seed: of weights, order and drawn genomes.
        device: where to train.
        file: where it is kept; a worker that finds it unfinished goes on with it, others wait meanwhile.
    """

    def __init__(
        self,
        problem: Problem,
        config: SharedConfig,
        data: Data,
        seed: int,
        device: torch.device,
        file: Path,
    ) -> None:
        self.problem, self.config, self.seed, self.device, self.file = problem, config, seed, device, file
        last = problem.stages[-1]
        stage = config.stage
        self.stage: StageConfig = stage.model_copy(
            update={
                "binarization": stage.binarization or last.binarization,
                "layers": last.layers if stage.layers is None else stage.layers,
            }
        )
        self.phases = phases_of(config, problem.shared_kinds())
        seed_everything(seed, "shared weights")
        self.network = self._structure(problem.largest()).build_network().to(device)
        self.teacher: nn.Module | None = None
        self._blocks: dict[tuple[str, Hashable], nn.Module] = {}
        self._template: nn.Module | None = None
        self.precision = config.acceleration.precision(device)
        self.train_batches = training_batches(data, config.batch_size, device, config.acceleration)
        self.validation = evaluation_batches(data.search_validation(), data, device)

    def train(self) -> None:
        """Trains to the end, from its file where that is there; only one worker at a time."""
        with file_lock(self.file.with_name(f"{self.file.name}.lock")):
            optimizer = self.stage.optimizer.build_for(self.network)
            done, position = self._restore(optimizer), 0
            for place, phase in enumerate(self.phases):
                for epoch in range(phase.epochs):
                    position += 1
                    if position <= done:
                        continue
                    if epoch == 0 and place > 0:
                        optimizer = self._next_phase(place)
                    self._epoch(position - 1, epoch, phase, optimizer)
                    save_checkpoint(
                        self.file,
                        KIND,
                        self.identity(),
                        {
                            "model": self.network.state_dict(),
                            "teacher": {} if self.teacher is None else self.teacher.state_dict(),
                            "optimizer": optimizer_state(optimizer, dict(self.network.named_parameters())),
                            "epoch": position,
                            "precision": self.precision.state_dict(),
                        },
                    )

    def __call__(self, genome: Genome, number: int) -> Judgement:
        """The accuracy of a genome's part of the network, in the precision of the candidate."""
        return self.judge(self.problem.structure(genome, [self.stage]), genome, number)

    def judge_as_shared(self, genome: Genome, number: int) -> Judgement:
        """The accuracy of a genome's part of the network in the precision that the network was trained in."""
        return self.judge(self._structure(genome), genome, number)

    def judge(self, structure: ModelStructure, genome: Genome, number: int) -> Judgement:
        """The accuracy of a structure's network with the weights of a genome's part."""
        seed_everything(self.seed, "candidate", number)
        candidate = structure.build_network().to(self.device)
        self.start(genome, candidate)
        set_progress(candidate, 1.0)
        self._take_statistics(candidate, number)
        result = evaluate(candidate, self.validation, self.stage.loss)
        return Judgement(result["accuracy"], result["loss"])

    @torch.no_grad()
    def start(self, genome: Genome, candidate: nn.Module) -> None:
        """Gives a candidate the weights of its part; what only its own binarizers have starts from these."""
        part = part_of(self.network, self._empty(genome))
        own = tensors(candidate)
        for name in part.keys() & own.keys():  # binarizers may be others
            own[name].copy_(part[name])
        for name, conv in binary_convolutions(candidate):
            if any(key.startswith(f"{name}.weight_binarizers.") for key in own.keys() - part.keys()):
                conv.weight_binarizer.restart(conv.weight)

    def _structure(self, genome: Genome) -> ModelStructure:
        return structure_of(self.problem.shared_variant(genome), [self.stage], self.problem.data)

    def _empty(self, genome: Genome) -> nn.Module:
        """A genome's network without weights of its own; blocks that were built before are used again."""
        wanted = self.problem.blocks(genome)
        if self._template is not None and wanted and self._blocks.keys() >= wanted.items():
            return assembled(self._template, {path: self._blocks[path, key] for path, key in wanted.items()})
        network = self._built(genome)
        self._blocks.update({(path, key): network.get_submodule(path) for path, key in wanted.items()})
        self._template = network
        return network

    def _built(self, genome: Genome) -> nn.Module:
        structure = self._structure(genome)
        try:
            with torch.device("meta"):
                return structure.build_network()
        except UserError:
            raise
        except Exception:  # some binarizers read numbers, which the meta device does not have
            return structure.build_network().to(self.device)

    def _next_phase(self, place: int) -> torch.optim.Optimizer:
        """What happens between two phases: the largest network becomes the teacher, channels are sorted."""
        before, phase = self.phases[place - 1], self.phases[place]
        if not before.varies:
            self.teacher = self._new_teacher()
            self.teacher.load_state_dict(self.network.state_dict())
        self.problem.prepare(self.network, set(phase.varies) - set(before.varies))
        return self.stage.optimizer.build_for(self.network)

    def _new_teacher(self) -> nn.Module:
        teacher = self._structure(self.problem.largest()).build_network().to(self.device)
        set_progress(teacher, 1.0)
        return teacher.eval().requires_grad_(False)

    def _epoch(self, position: int, epoch: int, phase: SharedPhase, optimizer: torch.optim.Optimizer) -> None:
        purpose = ("shared", position)
        seed_everything(self.seed, *purpose)
        generator = random.Random(derive_seed(self.seed, "drawn genomes", position))
        built: dict[Genome, nn.Module] = {}

        def draw() -> nn.Module:
            genome = drawn(self.problem, phase.varies, generator)
            if genome not in built:
                built[genome] = self._empty(genome)
            return built[genome]

        steps = len(self.train_batches)
        step = SharedStep(
            self.network,
            optimizer,
            draw,
            self.stage,
            self.config,
            phase,
            epoch,
            steps,
            self.teacher,
            self.precision,
        )
        where = f"shared network, {phase.name} epoch {epoch + 1}/{phase.epochs}"
        batches = self.train_batches.epoch(derive_seed(self.seed, "order", *purpose))
        result = train_epoch(
            step, batches, steps, where, check_interval=self.config.acceleration.check_interval
        )
        shown = " ".join(f"{name} {value:.4f}" for name, value in result.means.items())
        say(f"{where}: {shown}, {result.images_per_second:.0f} images/s")

    def _take_statistics(self, candidate: nn.Module, number: int) -> None:
        """Batch-norm statistics of the train split."""
        batches = self.train_batches.epoch(derive_seed(self.seed, "statistics", number))
        some = islice(batches, self.config.calibration_batches)
        take_statistics(candidate, (images for images, _ in some))

    def identity(self) -> Identity:
        """What it is trained from, in plain types."""
        genes = [[gene.name, *map(str, gene.choices)] for gene in self.problem.space.genes]
        structure = self._structure(self.problem.largest())
        return shared_identity(genes, self.seed, self.config, structure)

    def _restore(self, optimizer: torch.optim.Optimizer) -> int:
        """How many epochs the file has behind it."""
        if not self.file.exists():
            return 0
        checkpoint = load_checkpoint(self.file, KIND)
        if not is_shared_identity(checkpoint.structure, self.identity()):
            raise UserError(
                f"{self.file}: is the shared network of another recipe or seed; name another file by"
                " evolve.shared.checkpoint, or remove it"
            )
        self.network.load_state_dict(checkpoint.state["model"])
        if checkpoint.state["teacher"]:
            self.teacher = self._new_teacher()
            self.teacher.load_state_dict(checkpoint.state["teacher"])
        load_optimizer_state(optimizer, checkpoint.state["optimizer"], dict(self.network.named_parameters()))
        self.precision.load_state_dict(checkpoint.state.get("precision"))
        done = int(checkpoint.state["epoch"])
        epochs = sum(phase.epochs for phase in self.phases)
        say(f"shared network: {done} of {epochs} epochs are done: {self.file}")
        return done


def phases_of(config: SharedConfig, kinds: Collection[str]) -> tuple[SharedPhase, ...]:
    """The phases of its training; without any in the settings one in which all genes vary.

    Args:
        kinds: of genes that the shared network uses.
    Raises:
        UserError: a phase names another kind of genes.
    """
    known = sorted(kinds)
    for place, phase in enumerate(config.phases):
        for kind in phase.varies:
            if kind not in known:
                raise UserError(
                    f"evolve.shared.phases.{place}.varies: the shared network has no genes called '{kind}';"
                    f"{nearest(kind, known)}"
                )
    whole = SharedPhase(name="all genes", varies=tuple(known), epochs=config.stage.epochs)
    return config.phases or (whole,)


def drawn(problem: Problem, varies: Collection[str], generator: random.Random) -> Genome:
    """A genome of which only these kinds of genes are drawn; the others have their costliest choice."""
    # all draws before any is dropped: a depth that does not vary must not silence the genes of its blocks
    genome = problem.space.drawn(generator)
    places = zip(problem.space.kinds, genome, problem.largest(), strict=True)
    return problem.space.canonical(tuple(own if kind in varies else largest for kind, own, largest in places))
