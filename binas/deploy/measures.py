"""What an exported network costs, as measures: limits and objectives of searches."""

from __future__ import annotations

from typing import TYPE_CHECKING

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
