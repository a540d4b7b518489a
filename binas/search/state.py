"""What a gradient search consists of at one moment: supernet, alphas, optimizers; built, edited, stored."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from binas.arch.alphas import Alphas
from binas.arch.genotype import CELL_KINDS, ZEROISE
from binas.arch.space import NetworkSettings, SearchSpace
from binas.arch.supernet import Candidates, Supernet, all_candidates
from binas.binarize import set_precision
from binas.engine.acceleration import MixedPrecision
from binas.engine.data_parallel import take_from_first
from binas.engine.sync_batch_norm import synchronise
from binas.errors import UserError
from binas.run.checkpoint import load_checkpoint
from binas.run.optimizer_state import load_optimizer_state, optimizer_state
from binas.run.seeds import generator, seed_everything
from binas.search.config import Edit, SearchConfig
from binas.train.model_file import load_weights

KIND = "search"


@dataclass
class SearchState:
    """Supernet, alphas and their optimizers; `epoch` epochs are done."""

    supernet: Supernet
    alphas: Alphas
    weight_optimizer: torch.optim.Optimizer
    alpha_optimizer: torch.optim.Optimizer
    epoch: int = 0
    seen: list[dict[str, Any]] = field(default_factory=list)
    """For each epoch its number from 1 on, accuracy, excess over the limits, and genotype as JSON text."""
    strategy: dict[str, Any] = field(default_factory=dict)
    """What the strategy keeps besides."""
    micro_batch: int | None = None
    """Images computed at a time. What `auto` chose stays until an edit, so that a run goes on bit for bit."""
    weight_precision: MixedPrecision = field(default_factory=MixedPrecision)
    alpha_precision: MixedPrecision = field(default_factory=MixedPrecision)

    def structure(self) -> dict[str, Any]:
        """What the supernet is built from, for a checkpoint."""
        return {
            "space": self.supernet.space.model_dump(mode="json"),
            "settings": self.supernet.settings.model_dump(mode="json"),
            "candidates": self.supernet.candidates,
            "in_channels": self.supernet.in_channels,
            "num_classes": self.supernet.num_classes,
        }

    def tensors(self) -> dict[str, Any]:
        """Everything else, for a checkpoint."""
        return {
            "supernet": self.supernet.state_dict(),
            "alphas": self.alphas.state_dict(),
            "weight_optimizer": optimizer_state(self.weight_optimizer, _named(self.supernet)),
            "alpha_optimizer": optimizer_state(self.alpha_optimizer, _named(self.alphas)),
            "epoch": self.epoch,
            "seen": self.seen,
            "strategy": self.strategy,
            "micro_batch": self.micro_batch,
            "weight_precision": self.weight_precision.state_dict(),
            "alpha_precision": self.alpha_precision.state_dict(),
        }


@dataclass(frozen=True)
class Builder:
    """Builds states of one search.

    Args:
        space: the search space.
        config: the search's settings.
        in_channels, num_classes: of the data.
        seed: of weights and alphas.
        device: where to train.
        sync_batch_norm: whether batch-norm sees the images of all ranks.
    """

    space: SearchSpace
    config: SearchConfig
    in_channels: int
    num_classes: int
    seed: int
    device: torch.device
    sync_batch_norm: bool = True

    def fresh(self) -> SearchState:
        """The state before the first epoch."""
        return self._state(all_candidates(self.space), self.space.supernet, "start")

    def restored(self, path: Path) -> SearchState:
        """The state in a checkpoint: first its structure is built, then its tensors are loaded strictly.

        Raises:
            UserError: the file is damaged, or the checkpoint of another search.
        """
        checkpoint = load_checkpoint(path, KIND)
        if checkpoint.structure.get("space") != self.space.model_dump(mode="json"):
            raise UserError(f"{path}: is the checkpoint of a search of another space; put its own back")
        settings = NetworkSettings.model_validate(checkpoint.structure["settings"])
        state = self._state(checkpoint.structure["candidates"], settings, "start")
        saved = checkpoint.state
        load_weights(state.supernet, saved["supernet"], path)
        load_weights(state.alphas, saved["alphas"], path)
        load_optimizer_state(state.weight_optimizer, saved["weight_optimizer"], _named(state.supernet))
        load_optimizer_state(state.alpha_optimizer, saved["alpha_optimizer"], _named(state.alphas))
        state.epoch, state.strategy = saved["epoch"], saved.get("strategy", {})
        state.seen = saved["seen"] if "seen" in saved else _seen_before(saved)
        state.micro_batch = saved.get("micro_batch", state.micro_batch)
        state.weight_precision.load_state_dict(saved.get("weight_precision"))
        state.alpha_precision.load_state_dict(saved.get("alpha_precision"))
        return state

    def edited(self, state: SearchState, edit: Edit, temperatures: Mapping[str, float]) -> SearchState:
        """The state after the structural edit at the end of a phase; see `restructured`."""
        candidates = kept_candidates(state, edit.operations_per_edge, temperatures)
        return self.restructured(state, candidates, num_cells=edit.num_cells, reset_alphas=edit.reset_alphas)

    def restructured(
        self,
        state: SearchState,
        candidates: Candidates,
        *,
        num_cells: int | None = None,
        reset_alphas: bool = False,
    ) -> SearchState:
        """The state with other operations left, or another depth.

        Operations that are left keep weights, alphas and optimizer state by name; a new depth starts the
        weights and their optimizer afresh.
        """
        settings = state.supernet.settings
        deeper = num_cells is not None and num_cells != settings.num_cells
        if deeper:
            settings = settings.model_copy(update={"num_cells": num_cells, "reductions": None})
        after = self._state(candidates, settings, f"edit at epoch {state.epoch}")
        if not deeper:
            old = state.supernet.state_dict()
            after.supernet.load_state_dict({name: old[name] for name in after.supernet.state_dict()})
            saved = optimizer_state(state.weight_optimizer, _named(state.supernet))
            load_optimizer_state(after.weight_optimizer, saved, _named(after.supernet))
        if not reset_alphas:
            after.alphas.load_state_dict(state.alphas.state_dict())
            saved = optimizer_state(state.alpha_optimizer, _named(state.alphas))
            load_optimizer_state(after.alpha_optimizer, saved, _named(after.alphas))
        after.epoch, after.seen, after.strategy = state.epoch, state.seen, state.strategy
        after.weight_precision, after.alpha_precision = state.weight_precision, state.alpha_precision
        return after

    def _state(self, candidates: Candidates, settings: NetworkSettings, purpose: str) -> SearchState:
        seed_everything(self.seed, "supernet", purpose)
        supernet = Supernet(
            self.space, self.in_channels, self.num_classes, candidates=candidates, settings=settings
        )
        set_precision(supernet, self.config.binarize_activations, self.config.binarize_weights)
        alphas = Alphas(self.space, candidates, generator("cpu", self.seed, "alphas", purpose))
        supernet, alphas = supernet.to(self.device), alphas.to(self.device)
        supernet.checkpoint_cells = self.config.checkpoint_cells
        take_from_first(supernet, alphas)
        synchronise(supernet, self.sync_batch_norm)
        return SearchState(
            supernet,
            alphas,
            self.config.weights.build_for(supernet),
            self.config.alphas.build(_named(alphas).values()),
            micro_batch=None if self.config.micro_batch == "auto" else self.config.micro_batch,
            weight_precision=self.config.acceleration.precision(self.device),
            alpha_precision=self.config.acceleration.precision(self.device),
        )


def kept_candidates(
    state: SearchState, operations_per_edge: int | None, temperatures: Mapping[str, float]
) -> Candidates:
    """The most probable operations of each edge, in the order of the space; ties go to the first."""
    if operations_per_edge is None:
        return state.supernet.candidates
    probabilities = state.alphas.probabilities(temperatures)
    order = state.supernet.space.operations
    kept: Candidates = {}
    for kind in CELL_KINDS:
        kept[kind] = []
        for names, row in zip(state.supernet.candidates[kind], probabilities[kind].tolist(), strict=True):
            scores = dict(zip(order, row, strict=True))
            ranked = sorted(names, key=scores.__getitem__, reverse=True)
            best = ranked[:operations_per_edge]
            if best == [ZEROISE] and len(ranked) > 1 and state.supernet.space.zeroise.policy == "drop":
                best = [ranked[1]]  # nothing else would be left to choose at discretisation
            kept[kind].append([name for name in names if name in best])
    return kept


def _seen_before(saved: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What an older checkpoint knows of the epochs before: the genotype that was the best one so far."""
    if not saved["recommended"]:
        return []
    reached = saved["best_accuracy"]
    return [
        {
            "epoch": json.loads(saved["recommended"])["provenance"].get("epoch", 0),
            "accuracy": None if reached < 0 else reached,
            "excess": saved.get("best_excess", 0.0),
            "genotype": saved["recommended"],
        }
    ]


def _named(module: nn.Module) -> dict[str, nn.Parameter]:
    return {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}
