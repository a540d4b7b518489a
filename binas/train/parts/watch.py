"""Inner outputs of a network, caught while it runs in training."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn

from binas.errors import UserError
from binas.registry import nearest


class Watch:
    """Keeps the latest output of named modules, or what enters them.

    Args:
        model: the network.
        names: of its modules.
        key: of the setting that names them, for errors.
        inputs: keep the first input instead of the output.
        always: also in evaluation mode.
    Raises:
        UserError: there is no such module.
    """

    def __init__(
        self, model: nn.Module, names: Iterable[str], key: str, inputs: bool = False, always: bool = False
    ) -> None:
        self.seen: dict[str, Tensor] = {}
        self.key, self.always = key, always
        modules = dict(model.named_modules())
        self._handles = []
        for name in dict.fromkeys(names):
            if name not in modules or not name:
                raise UserError(f"{key}: the network has no module '{name}';{nearest(name, modules)[:300]}")
            hook = self._hook(name, inputs)
            self._handles.append(modules[name].register_forward_hook(hook))

    def _hook(self, name: str, inputs: bool) -> Any:
        def keep(module: nn.Module, given: tuple[Any, ...], output: Any) -> None:
            value = given[0] if inputs else output
            if not isinstance(value, Tensor):
                raise UserError(
                    f"{self.key}: what '{name}' gives is not a single tensor; name another module"
                )
            if module.training or self.always:
                self.seen[name] = value

        return keep

    def take(self) -> dict[str, Tensor]:
        """What was seen since the last call; it is forgotten, so that no graph outlives its step."""
        seen, self.seen = self.seen, {}
        return seen

    def close(self) -> None:
        """Takes the hooks off."""
        for handle in self._handles:
            handle.remove()
