"""Parts of a search from a user's file: used by name, recorded by name and hash, listed by a command."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from binas.registries import REGISTRIES
from binas.run.metrics import read_metrics

Runner = Callable[..., tuple[int, str, str]]

RELAXATION = '''\
"""A relaxation of one's own."""
import torch
from binas.search.relaxations.base import EdgeMix, Relaxation, register_relaxation


@register_relaxation("sigmoid")
class Sigmoid(Relaxation):
    """Operations do not compete: each has a gate of its own."""

    is_fixed_program = True

    def __init__(self, steepness: float = 1.0):
        self.steepness = steepness

    def edge_weights(self, alphas, temperatures, generator):
        kinds = {kind: alphas.get_parameter(kind) * self.steepness / t for kind, t in temperatures.items()}
        return EdgeMix({kind: x.sigmoid().masked_fill(~alphas.live(kind), 0.0) for kind, x in kinds.items()})
'''
REGULARIZER = '''\
"""Regularizers of one's own: one in the loss, one in what is mixed."""
import torch
from binas.search.regularizers.base import Regularizer, register_regularizer
from binas.search.relaxations.base import EdgeMix


@register_regularizer("beta_decay")
class BetaDecay(Regularizer):
    """Keeps the log-sum-exp of alphas small, more and more."""

    def __init__(self, weight: float = 1.0):
        self.weight, self.current = weight, 0.0

    def begin_epoch(self, alpha_epochs, progress):
        self.current = self.weight * progress

    def loss(self, relaxed):
        values = [a.logsumexp(1).mean() for a in relaxed.alphas.parameters()]
        return self.current * torch.stack(values).mean()

    def figures(self):
        return {"beta_decay": self.current}


@register_regularizer("edge_noise")
class EdgeNoise(Regularizer):
    """Multiplies edge weights by numbers near one."""

    def __init__(self, scale: float):
        self.scale = scale

    def mix(self, mix, generator):
        def noisy(weights):
            return weights * (1 + self.scale * torch.randn(weights.shape, generator=generator).to(weights))

        return EdgeMix({kind: noisy(w) for kind, w in mix.edge_weights.items()}, mix.paths, mix.probabilities)
'''
STRATEGY = '''\
"""Gumbel draws with a straight-through gradient; Dong and Yang, arXiv:1910.04465."""
import torch
from binas.search.relaxations.base import EdgeMix
from binas.search.strategies.base import register_strategy
from binas.search.strategies.gradient import Gradient


@register_strategy("gdas")
class GDAS(Gradient):
    """One operation of each edge, drawn by Gumbel noise."""

    def __init__(self, setting, tau: float = 10.0):
        super().__init__(setting)
        self.tau = tau

    def edge_weights(self, alphas, temperatures, generator):
        weights, paths = {}, {}
        for kind in temperatures:
            logits = alphas.get_parameter(kind).log_softmax(1)
            noise = -torch.empty(logits.shape).exponential_(generator=generator).log().to(logits)
            noisy = ((logits + noise) / self.tau).masked_fill(~alphas.live(kind), float("-inf"))
            soft, columns = noisy.softmax(1), noisy.argmax(1, keepdim=True)
            weights[kind] = torch.zeros_like(soft).scatter(1, columns, 1.0) - soft.detach() + soft
            paths[kind] = columns.squeeze(1).tolist()
        return EdgeMix(weights, paths)
'''
OWN_DECIDE = '''\
"""A strategy that takes an operation away after each epoch, and hands on the cheapest genotype it saw."""
from binas.search.decisions.base import Front, distinct
from binas.search.strategies.base import Structure, register_strategy
from binas.search.strategies.gradient import Gradient


@register_strategy("frugal")
class Frugal(Gradient):
    """Abandons skips after a while, and decides by cost."""

    uses = Gradient.uses - {"recommend", "decision"}
    ended = 0

    def end_epoch(self, epoch):
        self.ended += 1
        if self.ended != 3:
            return None
        kept = {
            kind: [[name for name in names if name != "skip"] for names in edges]
            for kind, edges in self.trained().supernet.candidates.items()
        }
        return Structure(kept, reason="skips are abandoned")

    def decide(self, found):
        cheapest = sorted(found.candidates, key=lambda one: found.setting.limits.costs(one.genotype)["ops"])
        return Front(distinct(tuple(cheapest)), "cheapest")

    def state_dict(self):
        return {"ended": self.ended}

    def load_state_dict(self, state):
        self.ended = state.get("ended", 0)
'''
DECISION = '''\
"""A decision of one's own: what is best by itself in the supernet."""
from dataclasses import replace
from binas.search.decisions.base import Decision, Front, distinct, register_decision


@register_decision("measured")
class Measured(Decision):
    """Ranks the genotypes of the last epochs by their accuracy with the supernet's weights."""

    def __init__(self, last: int = 2):
        self.last = last

    def decide(self, found):
        some = distinct(found.candidates[-self.last :])
        told = [replace(one, figures={"inherited_accuracy": found.accuracy(one.genotype)}) for one in some]
        return Front(tuple(sorted(told, key=lambda one: -one.figures["inherited_accuracy"])), "measured")
'''
PHASES = """\
  phases:
    - {name: warm_up, trains: weights, epochs: 1}
    - {name: wide, epochs: 2, end: {operations_per_edge: 2}}
    - {name: narrow, epochs: 1}
"""


def recipe(tiny: Path, changes: str, phases: str = PHASES) -> None:
    """Writes own.yaml: the tiny recipe with changes in its section `search`."""
    text = (tiny / "tiny.yaml").read_text().replace("name: tiny", "name: own")
    assert PHASES in text
    (tiny / "own.yaml").write_text(text.replace(PHASES, phases + changes))


def searched(tiny: Path, binas: Runner, plugin: str, name: str, *words: str) -> list[dict[str, object]]:
    """Metrics of a search with a plug-in, once what it records is checked."""
    (tiny / "mine.py").write_text(plugin)
    status, _, error = binas("search", "own.yaml", "--plugins", "mine.py", *words)
    assert status == 0, error
    digest = hashlib.sha256(plugin.encode()).hexdigest()
    manifest = json.loads(Path("runs/own/manifest.json").read_text())
    genotype = json.loads(Path("runs/own/genotype.json").read_text())
    for record in (*manifest["plugins"], *genotype["provenance"]["search_plugins"]):
        assert (record["file"], record["sha256"]) == ("mine.py", digest) and name in record["operations"]
    assert len(manifest["plugins"]) == len(genotype["provenance"]["search_plugins"]) == 1
    assert genotype["plugins"] == []  # its cells need nothing of the file
    status, output, _ = binas("methods", "--plugins", "mine.py")
    assert status == 0 and f"  {name} " in output and "[mine.py]" in output
    rows = json.loads(binas("methods", "--plugins", "mine.py", "--json")[1])
    assert [row["from"] for row in rows if row["name"] == name] == ["mine.py"]
    for registry in REGISTRIES:
        with registry.loading_from(str((tiny / "mine.py").resolve())):
            pass  # as in a process that was not given the file
    status, _, error = binas("search", "own.yaml", "--name", "without")
    assert status == 2 and f"'{name}'" in error and "--plugins FILE" in error
    return read_metrics("runs/own")


def plain(binas: Runner) -> list[dict[str, object]]:
    """Metrics of the tiny search as it is."""
    assert binas("search", "tiny.yaml")[0] == 0
    return read_metrics("runs/tiny")


def test_a_relaxation(tiny: Path, binas: Runner) -> None:
    changed = PHASES.replace(
        "narrow, epochs: 1", "narrow, epochs: 1, relaxation: {name: sigmoid, steepness: 2}"
    )
    recipe(tiny, "", changed)
    own, ours = searched(tiny, binas, RELAXATION, "sigmoid"), plain(binas)
    same = [a["validation_loss"] == b["validation_loss"] for a, b in zip(own[1:], ours[1:], strict=True)]
    assert same == [True, True, False]  # it acts in its phase alone
    status, _, error = binas(
        "search",
        "own.yaml",
        "--plugins",
        "mine.py",
        "--name",
        "a",
        "--search.phases.2.relaxation.steepness",
        "steep",
    )
    assert status == 2 and "search.phases.2.relaxation: relaxation 'sigmoid': option 'steepness'" in error


def test_a_regularizer(tiny: Path, binas: Runner) -> None:
    recipe(tiny, "  regularizers: [{name: beta_decay, weight: 2.0}, {name: edge_noise, scale: 0.1}]\n")
    own, ours = searched(tiny, binas, REGULARIZER, "beta_decay"), plain(binas)
    assert [row["beta_decay"] for row in own] == [0.0, 0.5, 1.0, 1.5] and "diversity" in own[0]
    assert all(a["train_loss"] != b["train_loss"] for a, b in zip(own, ours, strict=True))
    words = ("search", "own.yaml", "--plugins", "mine.py", "--name", "a")
    status, _, error = binas(*words, "--search.regularizers", "[edge_noise]")
    assert (
        status == 2 and "search.regularizers.0: regularizer 'edge_noise': option 'scale' is missing" in error
    )


def test_a_strategy_in_less_than_forty_lines(tiny: Path, binas: Runner) -> None:
    assert len(STRATEGY.splitlines()) < 40
    recipe(tiny, "  strategy: {name: gdas, tau: 5.0}\n")
    own, ours = searched(tiny, binas, STRATEGY, "gdas"), plain(binas)
    assert all(a["train_loss"] != b["train_loss"] for a, b in zip(own, ours, strict=True))
    words = ("search", "tiny.yaml", "--plugins", "mine.py", "--strategy", "gdas", "--search.micro_batch", "4")
    assert binas(*words, "--name", "laid_over")[0] == 0


def test_a_strategy_that_decides_by_itself_and_goes_on(
    tiny: Path, binas: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe(tiny, "  strategy: frugal\n", PHASES.replace(", end: {operations_per_edge: 2}", ""))
    own = searched(tiny, binas, OWN_DECIDE, "frugal")
    front = json.loads(Path("runs/own/front.json").read_text())
    assert front["rule"] == "cheapest" and front["strategy"] == "frugal"
    costs = [row["ops"] for row in front["front"]]
    assert costs == sorted(costs) and len({row["genotype"] for row in front["front"]}) == len(costs)
    assert not any(name.startswith("operations/skip") for name in own[3])
    whole = [Path(f"runs/own/{name}").read_bytes() for name in ("genotype.json", "front.json")]

    import binas.search.search as module

    real, calls = module.save_checkpoint, []

    def stop(*arguments: object) -> None:
        real(*arguments)  # type: ignore[arg-type]
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(module, "save_checkpoint", stop)
        assert binas("search", "own.yaml", "--plugins", "mine.py", "--overwrite")[0] == 130
    assert binas("search", "--resume", "runs/own", "--plugins", "mine.py")[0] == 0
    assert [Path(f"runs/own/{name}").read_bytes() for name in ("genotype.json", "front.json")] == whole
    status, _, error = binas(
        "search", "own.yaml", "--plugins", "mine.py", "--name", "a", "--search.recommend", "best_validation"
    )
    assert status == 2 and "search.recommend: strategy 'frugal' does not use it" in error


def test_a_decision(tiny: Path, binas: Runner) -> None:
    recipe(tiny, "  decision: {name: measured, last: 3}\n")
    searched(tiny, binas, DECISION, "measured")
    front = json.loads(Path("runs/own/front.json").read_text())
    reached = [row["inherited_accuracy"] for row in front["front"]]
    assert front["rule"] == "measured" and reached == sorted(reached, reverse=True)
    assert all(0 <= accuracy <= 1 for accuracy in reached)
    genotype = json.loads(Path("runs/own/genotype.json").read_text())
    assert genotype["provenance"]["rule"] == "measured"
    assert genotype["provenance"]["epoch"] == front["front"][0]["epoch"]


def test_an_installed_package_brings_a_strategy(tiny: Path) -> None:
    site = tiny / "site"
    info = site / "binas_gdas-1.0.dist-info"
    (site / "binas_gdas").mkdir(parents=True)
    info.mkdir()
    (site / "binas_gdas/__init__.py").write_text(STRATEGY)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: binas-gdas\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[binas]\ngdas = binas_gdas\n")
    (info / "RECORD").write_text("")
    environment = {**os.environ, "PYTHONPATH": str(site), "OMP_NUM_THREADS": "1"}
    for words in (["search", "tiny.yaml", "--strategy", "gdas"], ["methods"]):
        command = [sys.executable, "-m", "binas", *words]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
        assert done.returncode == 0, done.stderr
    assert "  gdas " in done.stdout
    genotype = json.loads(Path("runs/tiny/genotype.json").read_text())
    (record,) = genotype["provenance"]["search_plugins"]
    assert record["file"] == "binas_gdas" and record["operations"] == ["gdas"]


def test_keys_that_a_strategy_does_not_use(tiny: Path, binas: Runner) -> None:
    recipe(tiny, "  strategy: random\n")
    status, _, error = binas("search", "own.yaml")
    assert status == 2 and "search.phases: strategy 'random' does not use it" in error
    assert not Path("runs/own").exists()
    status, output, _ = binas("search", "tiny.yaml", "--strategy", "random")
    assert status == 0
    assert "strategy random: leaves out search.phases, search.batch_size, which it does not use" in output
    status, output, _ = binas("search", "tiny.yaml", "--strategy", "random", "--resume")
    assert status == 0, "the same words go on with the same run"
