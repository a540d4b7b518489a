"""The check that stops a run whose loss is no longer a number, before it can spoil a checkpoint."""

from __future__ import annotations

import math

from binas.errors import UserError

ADVICE = ("lower the learning rate", "set clip_grad_norm (5 is a common value)", "train warm-up epochs")


def check_finite(loss: float, where: str, *advice: str) -> float:
    """The loss itself when it is finite.

    Args:
        where: what was computed, in words: "search, epoch 3, step 17: the loss on the weights".
        advice: what to try besides the usual remedies, most useful first.

    Raises:
        UserError: the loss is infinite or not a number; says what is kept and what to try.
    """
    if math.isfinite(loss):
        return loss
    remedies = "".join(f"\n  - {remedy}" for remedy in (*advice, *ADVICE))
    raise UserError(
        f"{where} is {loss}, so training stops here."
        " The last good checkpoint in the run folder is kept, if an epoch was finished. What to try, in a"
        f" new run:{remedies}",
        hint="settings",
    )
