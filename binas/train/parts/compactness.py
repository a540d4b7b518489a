"""Intra-class compactness: features are drawn towards the centre of their class."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from pydantic import Field
from torch import Tensor, nn

from binas.config import Config
from binas.errors import UserError
from binas.run.distributed import all_reduce_sum
from binas.train.parts.base import PartLoss, StagePart, StageSetting
from binas.train.parts.watch import Watch


class Compactness(Config):
    """The centre loss and its settings."""

    weight: float = Field(0.01, gt=0)
    """Of the loss (lambda)."""
    rate: float = Field(0.5, gt=0, le=1)
    """How far a centre moves towards the mean of a batch (alpha)."""
    layer: str | None = None
    """Module whose input is the feature vector; null: the last linear layer, the classifier."""


class Centres(nn.Module):
    """The centres of the classes in feature space, and the loss that draws features towards them.

    forward   λ/(2N) · Σ_i ‖f_i − c_{y_i}‖²
    backward  dL/df_i = λ/N · (f_i − c_{y_i}); centres have no gradient
    update    c_j −= α · Σ_{i: y_i = j} (c_j − f_i) / (1 + n_j), n_j the images of class j in the batch

    state     the centres, from 0; stored in the checkpoint

    Args:
        num_classes: classes.
        features: length of a feature vector.
        config: weight and rate.
    Shape: (N, features), (N,) -> ().
    Reference: Wen et al., A Discriminative Feature Learning Approach for Deep Face Recognition, ECCV 2016,
        eqs. 2-4; as the intra-class term of CP-NAS, arXiv:2005.00057, and CBCN, arXiv:1910.10853.
    Deviation: the mean over a batch instead of the sum, so that the weight does not depend on its size; what
        CP-NAS takes as feature is uncertain, here it is what enters the classifier.
    """

    centres: Tensor
    across_ranks: bool = False
    """Whether centres move by the images of all ranks that train together."""

    def __init__(self, num_classes: int, features: int, config: Compactness) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("centres", torch.zeros(num_classes, features))

    def forward(self, features: Tensor, labels: Tensor) -> Tensor:
        """The loss of a batch, with the centres as they are; then the centres move."""
        features = features.to(self.centres.dtype)
        chosen = self.centres[labels]
        loss = self.config.weight / 2 * (features - chosen).square().sum(dim=1).mean()
        self._move(features.detach(), chosen, labels)
        return loss

    @torch.no_grad()
    def _move(self, features: Tensor, chosen: Tensor, labels: Tensor) -> None:
        # by a matrix instead of index_add_, which has no repeatable order of sums on every device
        member = nn.functional.one_hot(labels, len(self.centres)).to(features.dtype)
        counts, moves = member.sum(dim=0).unsqueeze(1), member.T @ (chosen - features)
        if self.across_ranks:
            counts, moves = all_reduce_sum(counts), all_reduce_sum(moves)
        self.centres -= self.config.rate * moves / (1 + counts)


class ClassCentres(StagePart):
    """The centre loss of a stage; see `Centres`.

    Args:
        config: its settings.
    """

    is_fixed_program = False

    def __init__(self, config: Compactness) -> None:
        self.config = config

    def start(self, setting: StageSetting) -> None:
        """See `StagePart`."""
        self.name, length = centred_layer(setting.network, self.config)
        self.centres = Centres(setting.num_classes, length, self.config).to(setting.device)
        self.watch = Watch(setting.network, [self.name], "compactness.layer", inputs=True)

    def modules(self) -> Mapping[str, nn.Module]:
        """See `StagePart`."""
        return {"centres": self.centres}

    def loss(self, images: Tensor, logits: Tensor, labels: Tensor) -> PartLoss:
        """See `StagePart`."""
        loss = self.centres(self.watch.take()[self.name], labels)
        return loss, {"compactness_loss": loss}

    def end(self) -> None:
        """See `StagePart`."""
        self.watch.close()


def centred_layer(model: nn.Module, config: Compactness) -> tuple[str, int]:
    """The name of the layer whose input is the feature vector, and the vector's length.

    Raises:
        UserError: there is no such layer, or it is not a linear one.
    """
    modules = dict(model.named_modules())
    linear = [
        name
        for name, module in modules.items()
        if isinstance(module, nn.Linear) and "auxiliary" not in name.split(".")
    ]
    name = config.layer if config.layer is not None else (linear or [""])[-1]
    length = getattr(modules.get(name), "in_features", None)
    if length is None:
        raise UserError(
            f"compactness.layer: '{name}' is no linear layer of the network; those are {', '.join(linear)}"
        )
    return name, int(length)
