"""What an exported network costs, as measures: limits and objectives of searches."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from binas.profile.cost import Profile
from binas.profile.measures import Measure, register_measure

if TYPE_CHECKING:
    from binas.deploy.footprint import Footprint


class _OfExported(Measure):
    """Exports the network as it is, with fresh weights: seconds for each."""

    needs_numbers = True

    def _footprint(self, network: nn.Module, profile: Profile) -> Footprint:
        from binas.deploy.footprint import footprint

        channels, height, width = profile.layers[0].input_shape
        return footprint(network, (channels, height, width), fresh=True)


@register_measure("export_kb")
class ExportKilobytes(_OfExported):
    """Bytes / 1000 that an exported network's numbers take; `binas profile` says the rule."""

    unit = "kB"

    def __call__(self, network: nn.Module, profile: Profile) -> float:
        """See the class."""
        return self._footprint(network, profile).export_bytes / 1000


@register_measure("activation_kb")
class ActivationKilobytes(_OfExported):
    """Bytes / 1000 of memory in which the exported C program computes: values that live at the same time."""

    unit = "kB"

    def __call__(self, network: nn.Module, profile: Profile) -> float:
        """See the class."""
        return self._footprint(network, profile).activation_bytes / 1000


@register_measure("program_ms")
class ProgramMilliseconds(Measure):
    """Milliseconds of the exported C program for one image: the sum of its steps in a table.

    Args:
        table: a file of the times of steps on a device; `binas latency SPACE` measures one.
    Raises:
        UserError: it cannot be read, or holds no table.
    """

    unit = "ms"
    needs_numbers = True

    def __init__(self, table: Path) -> None:
        from binas.deploy.step_times import StepTimes

        self.times = StepTimes(table)

    def about(self) -> Mapping[str, Any]:
        """Which table it is."""
        return {"device": self.times.device, "steps": len(self.times.times)}

    def __call__(self, network: nn.Module, profile: Profile) -> float:
        """See the class.

        Raises:
            UserError: the table lacks a step.
        """
        from binas.deploy.export import graph_of
        from binas.deploy.footprint import as_if_trained
        from binas.deploy.step_times import signatures

        shape = profile.layers[0].input_shape
        graph = graph_of(as_if_trained(network), torch.zeros(1, *shape))
        return self.times.predicted(signatures(graph))
