"""The parts of a measured search, each against a slow or obvious version."""

from __future__ import annotations

import itertools
import json
import random
from collections import Counter
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from binas.arch.genotype import CELL_KINDS, AnyGenotype, Genotype
from binas.arch.kinds import load_any_space
from binas.arch.macro_genotype import MacroGenotype
from binas.arch.path_supernet import path_supernet, proxy_network
from binas.arch.sample import random_genotype
from binas.binarize import set_precision
from binas.data.batches import Batches
from binas.data.config import DataConfig
from binas.data.open_data import open_data
from binas.engine.optimizer import Curve, OptimizerConfig
from binas.errors import UserError
from binas.profile.pareto import Point, front, knee
from binas.search.measured.bins import Bins, Ranked, evolved
from binas.search.measured.draw import FairDraw
from binas.search.measured.halving import epochs_of, halved
from binas.search.measured.memo import Memo
from binas.search.measured.ranking import Ranking, kendall
from binas.search.measured.schedule import Schedule
from binas.search.measured.supernet_training import SupernetSettings, SupernetTraining
from binas.search.measured.trial import Trial

SPACE = load_any_space("binas_macro_small")
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def batches() -> Batches:
    data = open_data(DataConfig(name="synthetic", images_per_class=24, image_size=(8, 8), channels=1))
    return Batches(data.train(), 16, CPU, data.mean, data.std)


def _schedule(epochs: int, rate: float = 1e-2) -> Schedule:
    return Schedule(epochs, OptimizerConfig(learning_rate=rate), Curve(), F.cross_entropy)


def _trial(batches: Batches, epochs: int, number: int = 0) -> Trial:
    genotype = random_genotype(SPACE, random.Random(number))
    return Trial(
        genotype.hash(), lambda: proxy_network(genotype, SPACE, 1, 4), _schedule(epochs), batches, batches, 0
    )


def test_every_choice_is_drawn_equally_often() -> None:
    draw = FairDraw(SPACE, random.Random(0))
    counts: dict[tuple[int, int, str], Counter[object]] = {}
    for _ in range(50):
        genotype = draw()
        assert isinstance(genotype, MacroGenotype)
        for place in genotype.blocks():
            for key in ("kernel_size", "groups", "activation", "skip"):
                counter = counts.setdefault((place.stage, place.position, key), Counter())
                counter[getattr(place.block, key)] += 1
    for (stage, _, key), counter in counts.items():
        every = [counter[choice] for choice in getattr(SPACE.stages[stage], key)]
        assert max(every) - min(every) <= 1


def test_every_operation_is_drawn_equally_often_on_each_edge() -> None:
    space = load_any_space("binas")
    draw = FairDraw(space, random.Random(0))
    counts: dict[tuple[str, int, int], Counter[str]] = {}
    for _ in range(60):
        genotype = draw()
        assert isinstance(genotype, Genotype)
        for kind in CELL_KINDS:
            for edge in genotype.cell(kind):
                counts.setdefault((kind, edge.node, edge.source), Counter())[edge.op] += 1
    names = [name for name in space.operations if name != "zeroise"]
    for counter in counts.values():
        every = [counter[name] for name in names]
        assert max(every) - min(every) <= 1 and not counter["zeroise"]


def test_a_score_is_that_of_inherited_weights_with_statistics_of_their_own(batches: Batches) -> None:
    """Against a pass by hand: statistics as plain means over the same batches."""
    torch.manual_seed(0)
    supernet = path_supernet(SPACE, 1, 4)
    genotype = random_genotype(SPACE, random.Random(1))
    ranking = Ranking(supernet, batches, 3, batches, F.cross_entropy, 7)
    score = ranking(genotype)
    network = supernet.network(genotype)
    set_precision(network, True, False)
    seen: dict[str, list[tuple[torch.Tensor, torch.Tensor]]] = {}
    norms = {name: m for name, m in network.named_modules() if isinstance(m, torch.nn.BatchNorm2d)}
    for name, norm in norms.items():
        norm.register_forward_pre_hook(
            lambda module, args, name=name: seen.setdefault(name, []).append(
                (args[0].mean((0, 2, 3)), args[0].var((0, 2, 3)))
            )
        )
    with torch.no_grad():
        network.train()
        for images in ranking.images:
            network(images)
        for name, norm in norms.items():
            assert norm.running_mean is not None and norm.running_var is not None
            norm.running_mean.copy_(torch.stack([mean for mean, _ in seen[name][:3]]).mean(0))
            norm.running_var.copy_(torch.stack([var for _, var in seen[name][:3]]).mean(0))
        network.eval()
        pairs = [(network(x), y) for x, y in batches.epoch(0, shuffle=False)]
    logits, labels = (torch.cat(list(parts)) for parts in zip(*pairs, strict=True))
    assert score.loss == pytest.approx(float(F.cross_entropy(logits, labels)), rel=1e-4)
    assert score.accuracy == pytest.approx(float((logits.argmax(1) == labels).float().mean()))
    assert ranking(genotype) == score, "scoring changes nothing"


def test_a_trained_supernet_ranks_better_than_chance(batches: Batches) -> None:
    """A tiny supernet is trained and ranks anew: networks with all skips pooled away are told apart."""
    torch.manual_seed(0)
    supernet = path_supernet(SPACE, 1, 4)
    settings = SupernetSettings(_schedule(6, 5e-3))
    training = SupernetTraining(supernet, settings, lambda g: FairDraw(SPACE, g), batches, 0, {})
    losses = [training.train_epoch().means["loss"] for _ in range(6)]
    assert losses[-1] < losses[0] - 0.1
    ranking = Ranking(supernet, batches, 4, batches, F.cross_entropy, 0)
    genotypes = [random_genotype(SPACE, random.Random(number)) for number in range(8)]
    trained = [ranking(genotype).loss for genotype in genotypes]
    torch.manual_seed(0)
    fresh = Ranking(path_supernet(SPACE, 1, 4), batches, 4, batches, F.cross_entropy, 0)
    assert sum(trained) < sum(fresh(genotype).loss for genotype in genotypes)


def test_a_supernet_goes_on_bit_for_bit(batches: Batches, tmp_path: Path) -> None:
    def training(file: Path | None) -> SupernetTraining:
        torch.manual_seed(0)
        settings = SupernetSettings(_schedule(3, 5e-3))
        supernet = path_supernet(SPACE, 1, 4)
        return SupernetTraining(
            supernet, settings, lambda g: FairDraw(SPACE, g), batches, 0, {"a": 1}, file=file
        )

    whole = training(None)
    losses = [whole.train_epoch().means["loss"] for _ in range(3)]
    again = []
    for _ in range(3):  # a process for each epoch
        again.append(training(tmp_path / "supernet.pt").train_epoch().means["loss"])
    assert again == losses
    with pytest.raises(UserError, match="is the supernet of another search"):
        SupernetTraining(
            whole.supernet, whole.settings, whole.draw, batches, 0, {"a": 2}, file=tmp_path / "supernet.pt"
        )


def test_a_sandwich_teaches_by_the_largest_network(batches: Batches) -> None:
    """The gradient is the sum of the largest one's on labels and the others' on its soft outputs."""
    from binas.arch.extremes import extremes
    from binas.search.measured.supernet_training import _Step

    torch.manual_seed(0)
    supernet = path_supernet(SPACE, 1, 4)
    most, least = extremes(SPACE)
    settings = SupernetSettings(_schedule(1), paths=2, sandwich=(most, least))
    training = SupernetTraining(supernet, settings, lambda g: FairDraw(SPACE, g), batches, 0, {})
    step = _Step(training, FairDraw(SPACE, random.Random(0)), 0)
    drawn = [random_genotype(SPACE, random.Random(number)) for number in (1, 2)]
    step.genotypes = drawn
    images, labels = next(batches.epoch(0))
    state = {name: tensor.clone() for name, tensor in supernet.state_dict().items()}
    loss, values = step._forward((images, labels))
    loss.backward()
    found = {name: p.grad.clone() for name, p in supernet.named_parameters() if p.grad is not None}
    supernet.load_state_dict(state)
    supernet.zero_grad(set_to_none=True)
    logits = supernet(images, most)
    F.cross_entropy(logits, labels).backward()
    for genotype in (least, *drawn):
        soft = logits.detach().softmax(1)
        (-(soft * supernet(images, genotype).log_softmax(1)).sum(1).mean()).backward()
    for name, parameter in supernet.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(found[name], parameter.grad, rtol=1e-4, atol=1e-6)
    assert set(values) == {"loss", "distillation_loss", "accuracy"}


def test_stopping_a_trial_changes_nothing(batches: Batches) -> None:
    whole, pieces = _trial(batches, 4), _trial(batches, 4)
    progress = whole.train(4)
    pieces.train(1)
    state = pieces.state_dict()
    other = _trial(batches, 4)
    other.load_state_dict(state)
    other.train(3)
    assert other.train(4).losses == progress.losses
    assert other.progress.validation[4] == progress.validation[4]
    assert set(other.progress.validation) == {1, 3, 4}


@pytest.mark.parametrize("seed", range(5))
def test_halving_keeps_the_better_part_of_each_group(seed: int) -> None:
    """Against a version that sorts all at each rung."""
    generator = random.Random(seed)
    table = {one: {rung: generator.random() for rung in (1, 3, 9)} for one in range(17)}
    groups = [list(range(9)), list(range(9, 17)), []]
    asked: list[tuple[int, int]] = []

    def trained(one: int, rung: int) -> float:
        asked.append((one, rung))
        return table[one][rung]

    dropped: list[int] = []
    left, reached = halved(groups, (1, 3, 9), 0.4, trained, dropped.append)
    for group, found in zip(groups, left, strict=True):
        alive = list(group)
        for place, rung in enumerate((1, 3, 9)):
            alive = sorted(alive, key=lambda one: table[one][rung])
            if place < 2:
                alive = alive[: -int(-len(alive) * 0.4 // 1)]
        assert found == alive
    assert sorted(dropped) == sorted(set(table) - set(itertools.chain(*left)))
    assert len(asked) == len(set(asked))
    trained_epochs = sum(max(at) for at in reached.values())
    assert trained_epochs == epochs_of([9, 8, 0], (1, 3, 9), 0.4)


def test_bins_are_of_equal_ratio_and_hold_everything() -> None:
    bins = Bins.over([10.0, 1000.0, 50.0], 2)
    assert bins.edges == pytest.approx((100.0,))
    assert [bins.of(cost) for cost in (1, 99, 101, 1e9)] == [0, 0, 1, 1]
    assert len(Bins.over([5.0], 3)) == 3


def test_evolution_never_loses_the_best_of_a_bin() -> None:
    generator = random.Random(0)
    genotypes = [random_genotype(SPACE, generator) for _ in range(60)]
    costs = {genotype.hash(): generator.uniform(1, 100) for genotype in genotypes}
    losses = {genotype.hash(): generator.random() for genotype in genotypes}

    def ranked(genotype: AnyGenotype) -> Ranked:
        return Ranked(genotype, losses[genotype.hash()], costs[genotype.hash()])

    begun = [ranked(genotype) for genotype in genotypes[:10]]
    bins = Bins.over([one.cost for one in begun], 3)
    rest = iter(genotypes[10:])
    seen: list[list[float]] = []

    def told(number: int, pool: object) -> None:
        split = bins.split(pool)  # type: ignore[arg-type]
        seen.append([members[0].loss if members else 1.0 for members in split])

    pool = evolved(begun, bins, 5, 8, lambda parents: next(rest), ranked, told)
    assert len(pool) == 50 and len(seen) == 5
    for before, after in itertools.pairwise(seen):
        assert all(new <= old for old, new in zip(before, after, strict=True))
    best = bins.best(pool, 6)
    for place, members in enumerate(bins.split(pool)):
        assert [one for one in best if bins.of(one.cost) == place] == members[:2]


def test_a_memo_tells_what_it_knew(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    memo = Memo(file)
    memo.put("a", {"loss": 0.1 + 0.2})
    memo.put("a", {"loss": 5.0})
    memo.close()
    with open(file, "a") as opened:
        opened.write('{"key": "half')
    again = Memo(file)
    assert again.values == {"a": {"loss": 0.1 + 0.2}}
    again.put("b", {"loss": 1.0})
    again.close()
    assert [json.loads(line)["key"] for line in file.read_text().splitlines()] == ["a", "b"]
    file.write_text("{}\n" + file.read_text())
    with pytest.raises(UserError, match="line 1 is damaged"):
        Memo(file)


def test_kendall_counts_pairs() -> None:
    generator = random.Random(0)
    first, second = ([generator.random() for _ in range(12)] for _ in range(2))
    pairs = list(itertools.combinations(range(12), 2))
    agree = sum((first[a] - first[b]) * (second[a] - second[b]) > 0 for a, b in pairs)
    assert kendall(first, second) == pytest.approx((2 * agree - len(pairs)) / len(pairs))
    assert kendall([1.0, 1.0], [1.0, 2.0]) == 0.0


def test_the_knee_is_the_point_farthest_above_the_line() -> None:
    points = front([Point(0.5, 10), Point(0.8, 20), Point(0.85, 40), Point(0.9, 1000)])
    assert knee(points) == Point(0.8, 20)
    assert knee(points[:1]) == points[0] and knee(points[:2]) == points[1]
