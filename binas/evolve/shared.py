"""One trained network whose parts are the candidates: slices in width, connections that groups leave.

The network is the one with every gene at its costliest choice. Each step draws a genome, computes with the
part of the weights that belongs to it, and so trains them for all genomes that share them. A candidate is
evaluated with its part, after its batch-norm statistics have been taken anew.

Yu and Huang, Universally Slimmable Networks, arXiv:1903.05134 (slices; statistics taken anew); Phan et al.,
arXiv:2005.06305 (random combinations of groups).
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from binas.binarize import BinaryConv2d, after_optimizer_step, set_progress
from binas.data.opening import Data
from binas.errors import UserError
from binas.evolve.candidate import Judgement, training_batches, validation_batches
from binas.evolve.config import SharedConfig
from binas.evolve.genome import Genome
from binas.evolve.problem import Problem
from binas.evolve.storage import file_lock
from binas.run.checkpoint import load_checkpoint, save_checkpoint
from binas.run.optimizer_state import load_optimizer_state, optimizer_state
from binas.run.progress import say
from binas.run.seeds import derive_seed, seed_everything
from binas.train.batch_norm import batch_norms
from binas.train.loop import accuracy, check_weights, evaluate, run_epoch
from binas.train.optimizer import set_learning_rate
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
        self, problem: Problem, config: SharedConfig, data: Data, seed: int, device: torch.device, file: Path,
    ) -> None:  # fmt: skip
        self.problem, self.config, self.seed, self.device, self.file = problem, config, seed, device, file
        own = problem.structure(problem.largest()).stage
        stage = config.stage
        self.stage: StageConfig = stage.model_copy(
            update={
                "binarization": stage.binarization or own.binarization,
                "layers": own.layers if stage.layers is None else stage.layers,
            }
        )
        seed_everything(seed, "shared weights")
        self.network = problem.structure(problem.largest(), [self.stage]).build_network().to(device)
        self.train_batches = training_batches(data, config.batch_size, device)
        self.validation = validation_batches(data, device)
        self.plain = training_batches(data, config.batch_size, device)

    def train(self) -> None:
        """Trains to the end, from its file where that is there; only one worker at a time."""
        with file_lock(self.file.with_name(f"{self.file.name}.lock")):
            optimizer = self.stage.optimizer.build_for(self.network)
            done = self._restore(optimizer)
            for epoch in range(done, self.stage.epochs):
                self._epoch(epoch, optimizer)
                save_checkpoint(self.file, KIND, self._identity(), {
                    "model": self.network.state_dict(),
                    "optimizer": optimizer_state(optimizer, dict(self.network.named_parameters())),
                    "epoch": epoch + 1,
                })  # fmt: skip

    def __call__(self, genome: Genome, number: int) -> Judgement:
        """The accuracy of a genome's part of the network."""
        seed_everything(self.seed, "candidate", number)
        candidate = self.problem.structure(genome, [self.stage]).build_network().to(self.device)
        with torch.no_grad():
            part = part_of(self.network, candidate)
            for name, tensor in _tensors(candidate).items():
                tensor.copy_(part[name])
        set_progress(candidate, 1.0)
        self._take_statistics(candidate, number)
        result = evaluate(candidate, self.validation, self.stage.loss)
        return Judgement(result["accuracy"], result["loss"])

    def _epoch(self, epoch: int, optimizer: torch.optim.Optimizer) -> None:
        stage, purpose = self.stage, ("shared", epoch)
        seed_everything(self.seed, *purpose)
        generator = random.Random(derive_seed(self.seed, "drawn genomes", epoch))
        parts = _Parts(self.problem, stage, self.network)
        steps, done = len(self.train_batches), epoch * len(self.train_batches)
        self.network.train()
        stage.begin_epoch(self.network, epoch)

        def step(batch: tuple[Tensor, Tensor]) -> tuple[int, Mapping[str, Tensor]]:
            nonlocal done
            images, labels = batch
            progress = done / (steps * stage.epochs)
            set_learning_rate(optimizer, stage.optimizer.learning_rate * stage.learning_rate.factor(progress))
            optimizer.zero_grad(set_to_none=True)
            logits = parts(self.problem.space.random(generator), images, progress)
            loss = stage.loss(logits, labels)
            loss.backward()  # type: ignore[no-untyped-call]
            if stage.clip_grad_norm is not None:
                nn.utils.clip_grad_norm_(self.network.parameters(), stage.clip_grad_norm)
            optimizer.step()
            after_optimizer_step(self.network, stage.weight_clipping)
            done += 1
            return len(labels), {"loss": loss.detach(), "accuracy": accuracy(logits.detach(), labels)}

        where = f"shared network, epoch {epoch + 1}/{stage.epochs}"
        order = derive_seed(self.seed, "order", *purpose)
        result = run_epoch(self.train_batches.epoch(order), steps, step, where)
        check_weights(self.network, where)
        shown = " ".join(f"{name} {value:.4f}" for name, value in result.means.items())
        say(f"{where}: {shown}, {result.images_per_second:.0f} images/s")

    def _take_statistics(self, candidate: nn.Module, number: int) -> None:
        """Batch-norm statistics of the train split, as plain averages over batches."""
        norms = [norm for norm in batch_norms(candidate) if norm.track_running_stats]
        kept = [norm.momentum for norm in norms]
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # averages all batches alike
        candidate.train()
        order = derive_seed(self.seed, "statistics", number)
        with torch.no_grad():
            for position, (images, _) in enumerate(self.plain.epoch(order)):
                if position == self.config.calibration_batches:
                    break
                candidate(images)
        for norm, momentum in zip(norms, kept, strict=True):
            norm.momentum = momentum

    def _identity(self) -> dict[str, Any]:
        genes = [[gene.name, *map(str, gene.choices)] for gene in self.problem.space.genes]
        structure = self.problem.structure(self.problem.largest(), [self.stage])
        return {
            "genes": genes,
            "seed": self.seed,
            "config": self.config.model_dump(mode="json", exclude={"checkpoint", "calibration_batches"}),
            "structure": structure.model_dump(mode="json"),
        }

    def _restore(self, optimizer: torch.optim.Optimizer) -> int:
        """How many epochs the file has behind it."""
        if not self.file.exists():
            return 0
        checkpoint = load_checkpoint(self.file, KIND)
        if checkpoint.structure != self._identity():
            raise UserError(
                f"{self.file}: is the shared network of another recipe or seed; name another file by"
                " evolve.shared.checkpoint, or remove it"
            )
        self.network.load_state_dict(checkpoint.state["model"])
        load_optimizer_state(optimizer, checkpoint.state["optimizer"], dict(self.network.named_parameters()))
        done = int(checkpoint.state["epoch"])
        say(f"shared network: {done} of {self.stage.epochs} epochs are done: {self.file}")
        set_progress(self.network, done / self.stage.epochs)
        return done


class _Parts:
    """Runs the network of a genome with the shared weights.

    Networks are built once for each genome and thrown away after an epoch; their own weights are not used.
    """

    def __init__(self, problem: Problem, stage: StageConfig, network: nn.Module) -> None:
        self.problem, self.stage, self.network = problem, stage, network
        self.built: dict[Genome, nn.Module] = {}

    def __call__(self, genome: Genome, images: Tensor, progress: float) -> Tensor:
        if genome not in self.built:
            self.built[genome] = self._build(genome)
        candidate = self.built[genome]
        set_progress(candidate, progress)
        candidate.train()
        part = part_of(self.network, candidate)
        logits: Tensor = functional_call(candidate, part, (images,), strict=True)
        return logits

    def _build(self, genome: Genome) -> nn.Module:
        structure = self.problem.structure(genome, [self.stage])
        try:
            with torch.device("meta"):
                return structure.build_network()
        except UserError:
            raise
        except Exception:  # some binarizers read numbers, which the meta device does not have
            return structure.build_network().to(next(self.network.parameters()).device)


def _tensors(network: nn.Module) -> dict[str, Tensor]:
    return {**dict(network.named_parameters()), **dict(network.named_buffers())}


def part_of(shared: nn.Module, candidate: nn.Module) -> dict[str, Tensor]:
    """The tensors of a narrower or more grouped network of the same layers, as views of the shared ones.

    Of every dimension the first entries; of a convolution with more groups each output's own connections.
    Buffers of statistics are views as well, so that training moves them in place.

    Raises:
        UserError: it is no part of the shared network.
    """
    source = _tensors(shared)
    modules = dict(candidate.named_modules())
    whole = dict(shared.named_modules())
    part = {}
    for name, tensor in _tensors(candidate).items():
        owner, _, leaf = name.rpartition(".")
        conv = modules[owner]
        if name not in source or any(a > b for a, b in zip(tensor.shape, source[name].shape, strict=False)):
            raise UserError(
                f"evolve.evaluation: shared: '{name}' of a candidate is no part of the widest network's;"
                " use evaluation: short"
            )
        wide = whole.get(owner)
        if leaf == "weight" and isinstance(conv, BinaryConv2d) and isinstance(wide, BinaryConv2d):
            part[name] = conv_part(source[name], conv, wide)
        else:
            part[name] = source[name][tuple(slice(0, length) for length in tensor.shape)]
    return part


def conv_part(weight: Tensor, conv: BinaryConv2d, shared: BinaryConv2d) -> Tensor:
    """The weights of a convolution inside those of a shared one with at most as many groups.

    Connection (output o, input i) keeps its weight; those across the convolution's groups are left out.

    Shape: (O', I'/G', k, k) -> (O, I/G, k, k).
    """
    outputs, inputs = conv.weight.shape[:2]
    if conv.groups == shared.groups == 1 or conv.groups == shared.groups:
        return weight[:outputs, :inputs]
    own = torch.arange(outputs) // (outputs // conv.groups) * inputs
    wide = torch.arange(outputs) // (shared.out_channels // shared.groups) * weight.shape[1]
    columns = (own - wide)[:, None] + torch.arange(inputs)
    if int(columns.min()) < 0 or int(columns.max()) >= weight.shape[1]:
        raise UserError(
            "evolve.evaluation: shared: groups of a candidate cross those of the network that is shared; let"
            " the candidates of evolve.groups.groups divide each other, or use evaluation: short"
        )
    rows = torch.arange(outputs)[:, None]
    return weight[rows.to(weight.device), columns.to(weight.device)]
