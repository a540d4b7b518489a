"""The teacher of a stage: opened from files, or built to be trained beside the network."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from binas.arch.space import NetworkSettings
from binas.binarize import set_precision
from binas.config import build, merged
from binas.errors import UserError
from binas.models import ModelChoice
from binas.plugins import PluginRecord
from binas.registry import nearest
from binas.train.model_file import ModelStructure, load_model
from binas.train.parts.base import PartLoss, StagePart, StageSetting
from binas.train.parts.distillation import TeacherConfig, divergence, soft_cross_entropy, transfer_loss
from binas.train.parts.watch import Watch

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""What torchvision's networks expect their images to be normalised by."""


class Renormalized(nn.Module):
    """A network that is given images normalised by other means and deviations than its own.

    Shape: (N, C, H, W) -> that of the network.
    """

    scale: Tensor
    shift: Tensor

    def __init__(
        self,
        network: nn.Module,
        given: tuple[Sequence[float], Sequence[float]],
        expected: tuple[Sequence[float], Sequence[float]],
    ) -> None:
        super().__init__()
        self.network = network
        mean, std, own_mean, own_std = (torch.tensor(list(v)).view(-1, 1, 1) for v in (*given, *expected))
        self.register_buffer("scale", std / own_std)
        self.register_buffer("shift", (mean - own_mean) / own_std)

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        return self.network(x * self.scale + self.shift)  # type: ignore[no-any-return]


class Ensemble(nn.Module):
    """Several networks as one: the mean of their logits.

    Shape: (N, C, H, W) -> (N, classes).
    """

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks)

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        return torch.stack([network(x) for network in self.networks]).mean(dim=0)


class Teacher:
    """A network whose outputs, and inner outputs, another one is drawn to.

    Args:
        config: the stage's settings.
        network: the teacher.
        source: the network in which inner layers are looked up by name: mostly the same.
    """

    def __init__(self, config: TeacherConfig, network: nn.Module, source: nn.Module) -> None:
        self.config, self.network = config, network
        self.is_trained = config.mode == "joint"
        network.requires_grad_(self.is_trained).train(self.is_trained)
        names = [] if config.features is None else config.features.layers.values()
        self._watch = Watch(source, names, "teacher.features.layers", always=True)

    def __call__(self, images: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The logits and the inner outputs by name; a finished teacher is in evaluation mode."""
        self.network.train(self.is_trained)
        with torch.set_grad_enabled(self.is_trained):
            output = self.network(images)
        return output[0] if isinstance(output, tuple) else output, self._watch.take()


class Taught(StagePart):
    """Draws a stage's network to its teacher, in place of the labels' loss or beside it.

    Args:
        config: whom it learns from, and how.
    """

    teaches = True
    is_fixed_program = False

    def __init__(self, config: TeacherConfig) -> None:
        self.config = config

    def start(self, setting: StageSetting) -> None:
        """See `StagePart`."""
        if setting.structure is None:
            raise UserError("teacher: this training has none; leave the key out")
        self.labels_loss = setting.loss
        self.teacher = open_teacher(self.config, setting.structure, setting.plugins, setting.device)
        self.files = file_digests(self.config)
        features = self.config.features
        names = [] if features is None else list(features.layers)
        self.watch = Watch(setting.network, names, "teacher.features.layers")

    def modules(self) -> Mapping[str, nn.Module]:
        """See `StagePart`."""
        return {"teacher": self.teacher.network} if self.teacher.is_trained else {}

    def loss(self, images: Tensor, logits: Tensor, labels: Tensor) -> PartLoss:
        """See `StagePart`."""
        config, inner = self.config, self.watch.take()
        answers, their_inner = self.teacher(images)
        terms: dict[str, Tensor] = {}
        if config.mode == "distribution":
            loss = terms["teacher_loss"] = divergence(logits, answers, config.temperature)
        elif config.mode == "features":
            loss = terms["label_loss"] = self.labels_loss(logits, labels)
        else:
            terms["label_loss"] = self.labels_loss(logits, labels)
            terms["teacher_loss"] = soft_cross_entropy(logits, answers, config.temperature)
            loss = config.label_weight * terms["label_loss"] + config.soft_weight * terms["teacher_loss"]
            if config.mode == "joint":
                terms["teachers_own_loss"] = self.labels_loss(answers, labels)
                loss = loss + config.teacher_weight * terms["teachers_own_loss"]
        if config.features is not None:
            terms["feature_loss"] = transfer_loss(inner, their_inner, config.features)
            loss = loss + terms["feature_loss"]
        return loss, terms

    def end(self) -> None:
        """See `StagePart`."""
        self.watch.close()


def open_teacher(
    config: TeacherConfig, structure: ModelStructure, plugins: tuple[PluginRecord, ...], device: torch.device
) -> Teacher:
    """The teacher of a stage.

    Args:
        config: the stage's settings.
        structure: of the network that learns.
        plugins: what is loaded.
    Raises:
        UserError: a file is missing, or of other classes or channels.
    """
    if config.mode == "joint":
        network = _beside(config, structure)
        return Teacher(config, network.to(device), network)
    if config.torchvision is not None:
        network = _torchvision(config, structure)
        return Teacher(config, _fitted(network, structure, (IMAGENET_MEAN, IMAGENET_STD)).to(device), network)
    found = []
    for path in config.checkpoints:
        one, its, _ = load_model(path, plugins)
        for key, own, other in (
            ("classes", structure.class_names, its.class_names),
            ("channels of its images", structure.in_channels, its.in_channels),
        ):
            if own != other:
                raise UserError(
                    f"teacher.checkpoint: {path}: has other {key} ({other}) than the network ({own}); give"
                    " one that was trained on the same kind of images"
                )
        found.append((one, _fitted(one, structure, (its.mean, its.std))))
    whole = found[0][1] if len(found) == 1 else Ensemble([fitted for _, fitted in found])
    return Teacher(config, whole.to(device), found[0][0])


def file_digests(config: TeacherConfig | None) -> list[str]:
    """The sha256 of the teacher's files, by which a resumed run knows that they are the same."""
    if config is None:
        return []
    files = [*config.checkpoints, *([] if config.weights is None else [config.weights])]
    try:
        return [hashlib.sha256(Path(file).read_bytes()).hexdigest() for file in files]
    except OSError as error:
        raise UserError(f"teacher: {error.filename}: cannot be read: {error.strerror}") from None


def _fitted(
    network: nn.Module, structure: ModelStructure, expected: tuple[Sequence[float], Sequence[float]]
) -> nn.Module:
    given = (structure.mean, structure.std)
    return network if tuple(map(tuple, expected)) == given else Renormalized(network, given, expected)


def _beside(config: TeacherConfig, structure: ModelStructure) -> nn.Module:
    """The same network, real-valued and with fresh weights; wider or deeper where the settings say so."""
    if structure.model is not None:
        twin = {**structure.model.model_dump(), "real": True}
        changed = build(ModelChoice, merged(twin, config.network or {}), "teacher.network")
        structure = structure.model_copy(update={"model": changed})
    elif config.network is not None and structure.settings is not None:
        settings = merged(structure.settings.model_dump(), config.network)
        built = build(NetworkSettings, settings, "teacher.network")
        structure = structure.model_copy(update={"settings": built})
    network = structure.build_network()
    set_precision(network, binarize_activations=False, binarize_weights=False)
    return network


def _torchvision(config: TeacherConfig, structure: ModelStructure) -> nn.Module:
    try:
        from torchvision import models
    except ImportError:
        raise UserError("teacher.torchvision: torchvision is not installed; install it") from None
    assert config.torchvision is not None and config.weights is not None
    if structure.in_channels != len(IMAGENET_MEAN):
        raise UserError("teacher.torchvision: its networks read 3 channels; set data.channels: 3")
    known = models.list_models(module=models)
    if config.torchvision not in known:
        raise UserError(
            f"teacher.torchvision: unknown network '{config.torchvision}';"
            f"{nearest(config.torchvision, known)[:300]}"
        )
    network: nn.Module = models.get_model(config.torchvision, weights=None, num_classes=structure.num_classes)
    try:
        state = torch.load(config.weights, map_location="cpu", weights_only=True)
        network.load_state_dict(state)
    except OSError as error:
        raise UserError(f"teacher.weights: {config.weights}: cannot be read: {error.strerror}") from None
    except Exception as error:  # torch raises a dozen types for a file that others have made
        reason = str(error).partition("\n")[0][:200]
        raise UserError(
            f"teacher.weights: {config.weights}: is no state dict of torchvision's {config.torchvision} with"
            f" {structure.num_classes} classes ({type(error).__name__}: {reason})"
        ) from None
    return network
