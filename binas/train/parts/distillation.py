"""What a network learns from a teacher: settings and losses. The teacher itself is in `teacher.py`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator
from torch import Tensor
from torch.nn import functional as F

from binas.config import Config
from binas.errors import UserError

Transfer = Literal["l2", "attention"]


class FeatureTransfer(Config):
    """Inner outputs of the network are drawn towards those of the teacher."""

    layers: dict[str, str] = Field(min_length=1)
    """Names of modules of the network, each with the teacher's: {cells.1: cells.1}."""
    loss: Transfer = "l2"
    """l2: mean squared difference, equal shapes; attention: of spatial attention maps, any channels."""
    weight: float = Field(1.0, gt=0)
    """Of the sum over all layers."""


class TeacherConfig(Config):
    """Whom a stage learns from, and how."""

    checkpoint: Path | tuple[Path, ...] | None = None
    """A retrain checkpoint of the same classes; several are an ensemble, whose logits are averaged."""
    torchvision: str | None = None
    """Instead: a network of torchvision by name, e.g. resnet34; `weights` says where its weights lie."""
    weights: Path | None = None
    """File of the state dict for torchvision's network; nothing is downloaded."""
    network: dict[str, Any] | None = None
    """Of mode joint: what the teacher's network settings change; it has the same genotype, real-valued."""
    mode: Literal["distribution", "distil", "joint", "fine_tune", "features"] = "distribution"
    """distribution: the divergence from the teacher instead of the labels' loss; distil, joint, fine_tune:
    Apprentice's three; features: the labels' loss and `features` alone."""
    temperature: float = Field(1.0, gt=0)
    """Both distributions are softened by it; the loss is multiplied by its square."""
    teacher_weight: float = Field(1.0, ge=0)
    """Apprentice's alpha, of mode joint: the teacher's own loss."""
    label_weight: float = Field(0.5, ge=0)
    """Apprentice's beta: the labels' loss."""
    soft_weight: float = Field(0.5, ge=0)
    """Apprentice's gamma: cross-entropy with the teacher's distribution."""
    features: FeatureTransfer | None = None
    """Inner layers that are transferred too."""

    @model_validator(mode="after")
    def _one_teacher(self) -> TeacherConfig:
        sources = [self.checkpoint is not None, self.torchvision is not None, self.mode == "joint"]
        if sum(sources) != 1 or self.checkpoint == ():
            raise ValueError("give exactly one of checkpoint, torchvision and mode: joint")
        if (self.torchvision is None) != (self.weights is None):
            raise ValueError("torchvision and weights are given together")
        if self.network is not None and self.mode != "joint":
            raise ValueError("network is for mode: joint; a checkpoint brings its own")
        if self.mode == "features" and self.features is None:
            raise ValueError("mode features needs the key features")
        if self.mode == "fine_tune" and len(self.checkpoints) != 1:
            raise ValueError("mode fine_tune starts from the weights of a single checkpoint")
        if self.features is not None and len(self.checkpoints) > 1:
            raise ValueError("features are those of a single teacher, not of an ensemble")
        return self

    def unused_keys(self) -> Iterator[tuple[str, str]]:
        """Weights of terms that the mode does not have."""
        apprentice = ("distil", "joint", "fine_tune")
        for key, modes in (
            ("temperature", ("distribution", *apprentice)),
            ("teacher_weight", ("joint",)),
            ("label_weight", apprentice),
            ("soft_weight", apprentice),
        ):
            if self.mode not in modes and self.is_set(key):
                yield key, f"mode '{self.mode}'"

    @property
    def checkpoints(self) -> tuple[Path, ...]:
        """The teacher's files."""
        if self.checkpoint is None:
            return ()
        return self.checkpoint if isinstance(self.checkpoint, tuple) else (self.checkpoint,)


def divergence(logits: Tensor, teacher_logits: Tensor, temperature: float = 1.0) -> Tensor:
    """The distribution loss: Kullback-Leibler divergence of a network's output from its teacher's.

    forward   T²/N · Σ_i Σ_c p^R_c(X_i)·log(p^R_c(X_i) / p^B_c(X_i)), p = softmax(logits / T)
    backward  dL/dz^B = T/N · (p^B − p^R)

    Shape: (N, classes), (N, classes) -> ().
    Reference: Liu et al., ReActNet, arXiv:2003.03488, eq. 10 (T = 1).
    """
    student = F.log_softmax(logits / temperature, dim=1)
    teacher = F.log_softmax(teacher_logits.detach() / temperature, dim=1)
    return temperature**2 * F.kl_div(student, teacher, reduction="batchmean", log_target=True)


def soft_cross_entropy(logits: Tensor, teacher_logits: Tensor, temperature: float = 1.0) -> Tensor:
    """Cross-entropy with a teacher's distribution: T²/N · −Σ_i Σ_c p^T_c·log p^A_c.

    Shape: (N, classes), (N, classes) -> ().
    Reference: Mishra and Marr, Apprentice, arXiv:1711.05852, eq. 1, third term.
    Deviation: the gradient does not reach the teacher; the paper does not say whether it should.
    """
    student = F.log_softmax(logits / temperature, dim=1)
    teacher = F.softmax(teacher_logits.detach() / temperature, dim=1)
    return -(temperature**2) * (teacher * student).sum(dim=1).mean()


def attention_map(features: Tensor) -> Tensor:
    """Mean of squares over channels, flattened and divided by its norm. Shape: (N, C, H, W) -> (N, H·W).

    Reference: Zagoruyko and Komodakis, Paying More Attention to Attention, arXiv:1612.03928, eq. 2.
    """
    return F.normalize(features.square().mean(dim=1).flatten(1), dim=1)


def transfer_loss(
    student: Mapping[str, Tensor], teacher: Mapping[str, Tensor], config: FeatureTransfer
) -> Tensor:
    """The weighted sum over all layers of the difference between two networks' inner outputs.

    l2         mean over all elements of (s − t)²
    attention  mean over images of ‖a(s) − a(t)‖², a the attention map

    Raises:
        UserError: two outputs cannot be compared.
    """
    total: Tensor | None = None
    for ours, theirs in config.layers.items():
        s, t = student[ours], teacher[theirs].detach()
        alike = s.shape == t.shape if config.loss == "l2" else s.shape[2:] == t.shape[2:] and s.dim() == 4
        if not alike:
            raise UserError(
                f"teacher.features.layers: the output of '{ours}' is {tuple(s.shape)}, the teacher's of"
                f" '{theirs}' {tuple(t.shape)}; l2 needs equal shapes, attention equal height and width"
            )
        if config.loss == "l2":
            loss = F.mse_loss(s, t)
        else:
            loss = (attention_map(s) - attention_map(t)).square().sum(dim=1).mean()
        total = loss if total is None else total + loss
    assert total is not None
    return config.weight * total
