"""What a stage minimises: the labels' loss, a teacher's, and the terms that are added to them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from binas.errors import UserError
from binas.train.parts.compactness import Centres, centred_layer
from binas.train.parts.distillation import divergence, soft_cross_entropy, transfer_loss
from binas.train.parts.regularizer import batch_norm_penalty
from binas.train.parts.teacher import Teacher, file_digests
from binas.train.parts.watch import Watch
from binas.train.stage import StageConfig


class Objective:
    """The loss of a stage, a function of the images, the network's logits for them and the labels.

    Args:
        stage: its settings.
        network: what is trained; inner outputs that the loss needs are caught while it runs.
        num_classes: classes.
        teacher: of the stage, if it has one.
    """

    def __init__(
        self, stage: StageConfig, network: nn.Module, num_classes: int, teacher: Teacher | None = None
    ) -> None:
        self.stage, self.network, self.teacher = stage, network, teacher
        self.trained = nn.ModuleDict()
        """What is trained or remembered beside the network, and stored in the checkpoint."""
        if teacher is not None and teacher.is_trained:
            self.trained["teacher"] = teacher.network
        self.teacher_files = file_digests(stage.teacher)
        self._centred = ""
        inputs = []
        if stage.compactness is not None:
            self._centred, length = centred_layer(network, stage.compactness)
            device = next(network.parameters()).device
            self.trained["centres"] = Centres(num_classes, length, stage.compactness).to(device)
            inputs = [self._centred]
        features = teacher.config.features if teacher is not None else None
        self._features = features
        names = [] if features is None else list(features.layers)
        self._watches = (
            Watch(network, names, "teacher.features.layers"),
            Watch(network, inputs, "compactness.layer", inputs=True),
        )

    def __call__(self, images: Tensor, logits: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of a batch that the network has just been run on, and the terms it consists of by name."""
        stage = self.stage
        inner, entered = (watch.take() for watch in self._watches)
        terms: dict[str, Tensor] = {}
        if self.teacher is None:
            loss = stage.loss(logits, labels)
        else:
            loss, terms = self._taught(images, logits, labels, inner)
        if stage.compactness is not None:
            terms["compactness_loss"] = self.trained["centres"](entered[self._centred], labels)
            loss = loss + terms["compactness_loss"]
        if stage.weight_regularizer is not None:
            terms["regularizer_loss"] = stage.weight_regularizer(self.network)
            loss = loss + terms["regularizer_loss"]
        if stage.batch_norm_sparsity is not None:
            terms["sparsity_loss"] = stage.batch_norm_sparsity * batch_norm_penalty(self.network)
            loss = loss + terms["sparsity_loss"]
        return loss, terms

    def _taught(
        self, images: Tensor, logits: Tensor, labels: Tensor, inner: Mapping[str, Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        assert self.teacher is not None
        config = self.teacher.config
        answers, their_inner = self.teacher(images)
        terms: dict[str, Tensor] = {}
        if config.mode == "distribution":
            loss = terms["teacher_loss"] = divergence(logits, answers, config.temperature)
        elif config.mode == "features":
            loss = terms["label_loss"] = self.stage.loss(logits, labels)
        else:
            terms["label_loss"] = self.stage.loss(logits, labels)
            terms["teacher_loss"] = soft_cross_entropy(logits, answers, config.temperature)
            loss = config.label_weight * terms["label_loss"] + config.soft_weight * terms["teacher_loss"]
            if config.mode == "joint":
                terms["teachers_own_loss"] = self.stage.loss(answers, labels)
                loss = loss + config.teacher_weight * terms["teachers_own_loss"]
        if self._features is not None:
            terms["feature_loss"] = transfer_loss(inner, their_inner, self._features)
            loss = loss + terms["feature_loss"]
        return loss, terms

    def named_parameters(self) -> dict[str, nn.Parameter]:
        """What is trained beside the network, by name."""
        return {name: p for name, p in self.trained.named_parameters() if p.requires_grad}

    def state(self) -> dict[str, Any]:
        """What a checkpoint stores: what is trained or remembered, and which files the teacher is."""
        return {"tensors": self.trained.state_dict(), "teacher_files": self.teacher_files}

    def load(self, state: Mapping[str, Any], path: Path) -> None:
        """What `state` gave, strictly; `path` is for errors.

        Raises:
            UserError: the teacher's files have changed since.
        """
        if state.get("teacher_files", []) != self.teacher_files:
            raise UserError(
                f"{path}: teacher: its files are not those that the stage was started with; put them back, or"
                " train again"
            )
        self.trained.load_state_dict(state.get("tensors", {}))

    def close(self) -> None:
        """Lets the network go; called at the end of the stage."""
        for watch in self._watches:
            watch.close()
