"""Search: its two steps, its schedules, structural edits, the recommended genotype, signs of collapse."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from binas.arch.alphas import mean_entropy
from binas.arch.genotype import CELL_KINDS, Edge, Genotype
from binas.arch.space import load_space
from binas.config import build
from binas.data.config import DataConfig
from binas.data.open_data import Data, open_data
from binas.errors import UserError
from binas.ops import OPS
from binas.run.checkpoint import load_checkpoint
from binas.run.folder import RunFolder
from binas.run.metrics import read_metrics
from binas.search.collapse import collapse_warnings, largest_entropy
from binas.search.config import Collapse, Edit, SearchConfig
from binas.search.regularizers.diversity import Diversity, diversity_weight
from binas.search.search import Search
from binas.search.state import Builder, SearchState, kept_candidates
from binas.search.step import BilevelStep

SUPERNET = {"init_channels": 4, "num_cells": 2, "reductions": [1], "stem_multiplier": 1}
OPERATIONS = ["zeroise", "skip", "binary_conv_3x3"]
MAPPING = {"base": "binas", "operations": OPERATIONS, "num_nodes": 2, "supernet": SUPERNET}
SPACE = load_space(MAPPING)
FLAT = {"normal": 1.0, "reduce": 1.0}


@pytest.fixture(scope="module")
def data() -> Data:
    return open_data(DataConfig(name="synthetic", images_per_class=16, num_classes=3))


def config(**more: Any) -> SearchConfig:
    return build(SearchConfig, {"batch_size": 8, "phases": [{"epochs": 1}], **more}, "test")


def fresh(settings: SearchConfig, space: Any = SPACE) -> SearchState:
    return Builder(space, settings, 1, 3, 0, torch.device("cpu")).fresh()


def bilevel(state: SearchState, settings: SearchConfig, diversity: float = 0.0) -> BilevelStep:
    state.supernet.train()
    return BilevelStep(
        state.supernet,
        state.alphas,
        state.weight_optimizer,
        state.alpha_optimizer,
        settings,
        FLAT,
        regularizers=(Diversity(diversity),),
    )


def batch(seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(8, 1, 8, 8, generator=generator), torch.arange(8) % 3


def snapshot(module: torch.nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def changed(module: torch.nn.Module, before: dict[str, Tensor]) -> set[str]:
    return {name for name, value in module.state_dict().items() if not torch.equal(value, before[name])}


def run(search: Search, path: Path) -> Genotype:
    with RunFolder.create(path, "search", overwrite=True) as folder:
        return search.run(folder)


def search(data: Data, settings: SearchConfig, **more: Any) -> Search:
    return Search(SPACE, settings, data, seed=0, device=torch.device("cpu"), tensorboard=False, **more)


def test_the_alpha_step_leaves_weights_and_statistics_alone() -> None:
    settings = config()
    state = fresh(settings)
    step = bilevel(state, settings)
    weights, alphas = snapshot(state.supernet), snapshot(state.alphas)
    values = step.alpha_step(batch())
    assert not changed(state.supernet, weights)
    assert any(name.endswith("num_batches_tracked") for name in weights)
    assert changed(state.alphas, alphas) == {"normal", "reduce"}
    assert all(p.grad is None and p.requires_grad for p in state.supernet.parameters())
    assert set(values) == {"alpha_loss", "validation_loss", "validation_accuracy"}


def test_the_alpha_step_as_in_the_released_code_moves_statistics_only() -> None:
    settings = config(alpha_step_updates_batch_norm=True)
    state = fresh(settings)
    weights = snapshot(state.supernet)
    bilevel(state, settings).alpha_step(batch())
    moved = changed(state.supernet, weights)
    assert {name.rpartition(".")[2] for name in moved} == {
        "running_mean",
        "running_var",
        "num_batches_tracked",
    }
    assert all(p.grad is None for p in state.supernet.parameters())


def test_the_weight_step_leaves_alphas_alone() -> None:
    settings = config()
    state = fresh(settings)
    weights, alphas = snapshot(state.supernet), snapshot(state.alphas)
    bilevel(state, settings).weight_step(batch())
    assert not changed(state.alphas, alphas)
    assert all(p.grad is None for p in state.alphas.parameters())
    moved = changed(state.supernet, weights)
    assert "classifier.weight" in moved and any(name.endswith("running_mean") for name in moved)


def test_the_gradient_of_the_weight_step_is_clipped() -> None:
    settings = config(clip_grad_norm=1e-3)
    state = fresh(settings)
    bilevel(state, settings).weight_step(batch())
    gradients = [p.grad for p in state.supernet.parameters() if p.grad is not None]
    norm = torch.stack([gradient.norm() for gradient in gradients]).norm()
    assert float(norm) == pytest.approx(1e-3, rel=1e-2)  # clip_grad_norm_ divides by norm + 1e-6


@pytest.mark.parametrize("weight", [0.0, 0.5, 2.0])
def test_the_alpha_loss_has_the_diversity_term(weight: float) -> None:
    settings = config()
    state = fresh(settings)
    entropy = mean_entropy(state.alphas.probabilities(FLAT)).item()
    values = bilevel(state, settings, diversity=weight).alpha_step(batch())
    expected = values["validation_loss"].item() - weight * entropy
    assert values["alpha_loss"].item() == pytest.approx(expected, rel=1e-5)  # float32


def test_diversity_falls_exponentially_from_the_end_of_the_warm_up(data: Data) -> None:
    assert diversity_weight(2.0, 7.7, 0) == 2.0
    assert diversity_weight(2.0, 7.7, 3) == pytest.approx(2.0 * math.exp(-3 / 7.7))
    phases = [{"trains": "weights", "epochs": 2}, {"epochs": 3}]
    work = search(data, config(phases=phases, diversity={"weight": 2.0, "tau": 4.0}))
    work.strategy.start(work.start)
    found = []
    for epoch in range(5):
        work.strategy.begin_epoch(epoch)
        found.append(work.strategy.figures()["diversity"])
    expected = [2.0, 2.0, 2.0, 2.0 * math.exp(-1 / 4), 2.0 * math.exp(-2 / 4)]
    assert found == pytest.approx(expected)


def test_temperatures_of_each_cell_kind() -> None:
    temperature = {
        "normal": {"start": 1.0, "end": 0.2, "shape": "linear"},
        "reduce": {"start": 4.0, "end": 1.0, "shape": "exponential"},
    }
    phases = [{"trains": "weights", "epochs": 2}, {"epochs": 3}]
    work = config(phases=phases, temperature=temperature)
    found = [work.temperatures_at(epoch) for epoch in range(5)]
    assert [kinds["normal"] for kinds in found] == pytest.approx([1.0, 1.0, 1.0, 0.6, 0.2])
    assert [kinds["reduce"] for kinds in found] == pytest.approx([4.0, 4.0, 4.0, 2.0, 1.0])


@pytest.mark.parametrize("trains", ["weights", "alphas", "both"])
def test_a_phase_trains_what_it_says(data: Data, tmp_path: Path, trains: str) -> None:
    phases = [{"name": "first", "trains": trains, "epochs": 1}, {"name": "second", "epochs": 1}]
    work = search(data, config(phases=phases))
    seen: list[set[str]] = []
    epoch = work._epoch

    def watch(state: SearchState, *arguments: Any) -> Genotype:
        weights, alphas = snapshot(state.supernet), snapshot(state.alphas)
        genotype = epoch(state, *arguments)
        what = {"weights"} if changed(state.supernet, weights) else set()
        seen.append(what | ({"alphas"} if changed(state.alphas, alphas) else set()))
        return genotype

    work._epoch = watch  # type: ignore[method-assign]
    run(work, tmp_path / "run")
    assert seen == [{"weights", "alphas"} if trains == "both" else {trains}, {"weights", "alphas"}]
    lines = read_metrics(tmp_path / "run")
    assert [line["phase"] for line in lines] == ["first", "second"]
    assert ("validation_loss" in lines[0]) == (trains != "weights")
    assert ("train_loss" in lines[0]) == (trains != "alphas")


def test_removed_operations_leave_the_others_as_they_were() -> None:
    settings = config(phases=[{"epochs": 1, "end": {"operations_per_edge": 2}}, {"epochs": 1}])
    builder = Builder(SPACE, settings, 1, 3, 0, torch.device("cpu"))
    state = builder.fresh()
    step = bilevel(state, settings)
    for seed in range(2):
        step.alpha_step(batch(seed))
        step.weight_step(batch(seed))
    with torch.no_grad():  # skip is the least probable one on every edge
        for kind in CELL_KINDS:
            state.alphas.get_parameter(kind)[:, 1] -= 5.0
    state.epoch = 1
    after = builder.edited(state, Edit(operations_per_edge=2), FLAT)
    assert all(
        names == ["zeroise", "binary_conv_3x3"] for k in CELL_KINDS for names in after.supernet.candidates[k]
    )
    old, new = state.supernet.state_dict(), after.supernet.state_dict()
    assert set(new) < set(old) and not any(".skip.first" in name for name in new)
    assert all(torch.equal(value, old[name]) for name, value in new.items())
    for kind in CELL_KINDS:
        assert torch.equal(after.alphas.get_parameter(kind), state.alphas.get_parameter(kind))
        probabilities = after.alphas.probabilities(FLAT)[kind]
        assert bool((probabilities[:, 1] == 0).all())
    momentum = {
        name: state.weight_optimizer.state[p]["momentum_buffer"]
        for name, p in state.supernet.named_parameters()
        if p in state.weight_optimizer.state
    }
    checked = 0
    for name, parameter in after.supernet.named_parameters():
        if name in momentum:
            assert torch.equal(after.weight_optimizer.state[parameter]["momentum_buffer"], momentum[name])
            checked += 1
    assert checked > 5
    for name, parameter in after.alphas.named_parameters():
        before = state.alpha_optimizer.state[state.alphas.get_parameter(name)]
        assert torch.equal(after.alpha_optimizer.state[parameter]["exp_avg"], before["exp_avg"])
    assert after.epoch == 1


def test_a_new_depth_starts_weights_afresh_and_keeps_alphas() -> None:
    settings = config(phases=[{"epochs": 1, "end": {"num_cells": 3}}, {"epochs": 1}])
    builder = Builder(SPACE, settings, 1, 3, 0, torch.device("cpu"))
    state = builder.fresh()
    step = bilevel(state, settings)
    step.alpha_step(batch())
    step.weight_step(batch())
    after = builder.edited(state, Edit(num_cells=3), FLAT)
    assert len(after.supernet.cells) == 3 and not after.weight_optimizer.state
    assert torch.equal(after.alphas.get_parameter("normal"), state.alphas.get_parameter("normal"))
    assert after.alpha_optimizer.state
    reset = builder.edited(state, Edit(operations_per_edge=2, reset_alphas=True), FLAT)
    assert not torch.equal(reset.alphas.get_parameter("normal"), state.alphas.get_parameter("normal"))
    assert not reset.alpha_optimizer.state


def test_zeroise_alone_is_never_what_is_left_where_it_is_dropped() -> None:
    state = fresh(config())
    with torch.no_grad():
        for kind in CELL_KINDS:
            state.alphas.get_parameter(kind)[:] = torch.tensor([9.0, 0.0, 1.0])
    kept = kept_candidates(state, 1, FLAT)
    assert all(names == ["binary_conv_3x3"] for kind in CELL_KINDS for names in kept[kind])


def scripted(work: Search, accuracies: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    """Epochs that move alphas by hand and measure the accuracies given."""
    import binas.search.search as module

    real = module.train_epoch

    def epoch(step: Any, batches: Any, num_batches: int, description: str, **more: Any) -> Any:
        result = real(step, batches, num_batches, description, **more)
        number = int(description.split("epoch ")[1].split("/")[0])
        if "validation_accuracy" in result.means:
            result.means["validation_accuracy"] = accuracies[number - 1]
        return result

    monkeypatch.setattr(module, "train_epoch", epoch)


@pytest.mark.parametrize(("rule", "epoch"), [("last", 4), ("best_validation", 3)])
def test_the_recommended_genotype(
    data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rule: str, epoch: int
) -> None:
    phases = [{"trains": "weights", "epochs": 1}, {"epochs": 3}]
    work = search(data, config(phases=phases, recommend=rule, alphas={"learning_rate": 0.5}))
    # the first epoch trains no alphas; of two equal accuracies the first one counts
    scripted(work, [0.99, 0.2, 0.6, 0.6], monkeypatch)
    genotype = run(work, tmp_path / "run")
    folder = tmp_path / "run"
    files = sorted(path.name for path in (folder / "genotypes").iterdir())
    assert files == [f"epoch_{number:04d}.json" for number in (1, 2, 3, 4)]
    chosen = json.loads((folder / "genotypes" / f"epoch_{epoch:04d}.json").read_text())
    written = json.loads((folder / "genotype.json").read_text())
    assert (written["normal"], written["reduce"]) == (chosen["normal"], chosen["reduce"])
    assert written["provenance"]["epoch"] == epoch and written["provenance"]["rule"] == rule
    assert genotype.to_json() == (folder / "genotype.json").read_text()
    lines = read_metrics(folder)
    assert lines[epoch - 1]["genotype"] == genotype.hash()


def cells(op: str, other: str, count: int) -> Genotype:
    names = [op] * count + [other] * (8 - count)
    edges = tuple(
        Edge(node, source, name)
        for (node, source), name in zip([(2, 0), (2, 1), (3, 0), (3, 1)] * 2, names, strict=True)
    )
    return Genotype(space={}, num_nodes=2, edges_per_node=2, normal=edges[:4], reduce=edges[4:])


@pytest.mark.parametrize("op", ["skip", "zeroise", "max_pool_3x3", "avg_pool_3x3"])
def test_too_many_operations_without_weights_are_told(op: str) -> None:
    limits = Collapse(max_share=0.5)
    assert collapse_warnings(cells(op, "binary_conv_3x3", 4), 1.0, 1.1, limits) == []
    (warning,) = collapse_warnings(cells(op, "binary_conv_3x3", 5), 1.0, 1.1, limits)
    assert f"5 of 8 edges have no weights (5 {op})" in warning and "try" in warning


def test_a_low_entropy_is_told() -> None:
    limits = Collapse(min_entropy=0.1)
    genotype = cells("skip", "binary_conv_3x3", 0)
    largest = math.log(3)
    assert collapse_warnings(genotype, 0.11 * largest, largest, limits) == []
    (warning,) = collapse_warnings(genotype, 0.09 * largest, largest, limits)
    assert "mean entropy" in warning and "temperature" in warning
    assert collapse_warnings(genotype, 0.0, 0.0, limits) == []  # one operation left is no collapse


def test_the_largest_entropy_counts_what_is_left() -> None:
    candidates = {"normal": [["skip", "zeroise"]], "reduce": [["skip"]]}
    assert largest_entropy(candidates) == pytest.approx(math.log(2) / 2)


def test_a_rigged_search_says_that_it_collapsed(
    data: Data, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    work = search(data, config(alphas={"learning_rate": 1e-6}))
    with torch.no_grad():
        for kind in CELL_KINDS:
            work.start.alphas.get_parameter(kind)[:, 1] += 50.0
    run(work, tmp_path / "run")
    output = caplog.text
    assert "the search may have collapsed: 8 of 8 edges have no weights (8 skip)" in output
    assert "the search may have collapsed: the mean entropy 0.000" in output


def test_random_genotypes_come_from_the_seed(data: Data, tmp_path: Path) -> None:
    texts = [run(search(data, config(strategy="random")), tmp_path / name).to_json() for name in "ab"]
    other = Search(
        SPACE, config(strategy="random"), data, seed=1, device=torch.device("cpu"), tensorboard=False
    )
    assert texts[0] == texts[1] != run(other, tmp_path / "c").to_json()
    assert all(edge["op"] in OPS and edge["op"] != "zeroise" for edge in json.loads(texts[0])["normal"])


def test_precision_during_the_search(data: Data) -> None:
    from binas.binarize import binary_convolutions

    state = fresh(config(binarize_weights=False))
    convs = [conv for _, conv in binary_convolutions(state.supernet)]
    assert convs and all(conv.binarize_activations and not conv.binarize_weights for conv in convs)


def test_changes_keep_the_other_defaults_of_the_search() -> None:
    settings = config(
        weights={"learning_rate": 0.1}, alphas={"learning_rate": 1e-2}, learning_rate={"final": 0.5}
    )
    defaults = SearchConfig()
    assert settings.weights == defaults.weights.model_copy(update={"learning_rate": 0.1})
    assert (settings.alphas.betas, settings.alphas.weight_decay) == ((0.5, 0.999), 1e-3)
    assert settings.learning_rate.shape == "cosine"
    other = config(weights={"name": "adam"}).weights
    assert (other.learning_rate, other.weight_decay) == (1e-3, 0.0)  # Adam's own, not those of SGD
    with pytest.raises(UserError, match=r"weights.learning_rat'; did you mean 'learning_rate'"):
        config(weights={"learning_rat": 0.1})


@pytest.mark.parametrize(
    ("phases", "message"),
    [
        ([{"trains": "weights"}], "no phase trains alphas"),
        ([{"end": {"num_cells": 3}}], "the last phase has an end"),
        ([], "phases"),
    ],
)
def test_phases_that_make_no_sense(phases: list[Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        config(phases=phases)


def test_the_checkpoint_of_another_search_is_told(data: Data, tmp_path: Path) -> None:
    run(search(data, config()), tmp_path / "run")
    path = tmp_path / "run" / "checkpoint.pt"
    assert load_checkpoint(path).kind == "search"
    other = load_space({**MAPPING, "operations": ["skip", "binary_conv_3x3"]})
    builder = Builder(other, config(), 1, 3, 0, torch.device("cpu"))
    with pytest.raises(UserError, match=r"run/checkpoint.pt: is the checkpoint of a search of another space"):
        builder.restored(path)
    builder = Builder(SPACE, config(), 1, 5, 0, torch.device("cpu"))
    with pytest.raises(UserError, match=r"is a checkpoint of another network: 'classifier.weight'"):
        builder.restored(path)


def test_a_loss_that_is_no_number_stops_the_search_and_keeps_the_checkpoint(
    data: Data, tmp_path: Path
) -> None:
    work = search(data, config(phases=[{"epochs": 2}]))
    epoch = work._epoch

    def spoilt(state: SearchState, *arguments: Any) -> Genotype:
        if state.epoch == 1:
            state.supernet.classifier.bias.data[0] = float("nan")
        return epoch(state, *arguments)

    work._epoch = spoilt  # type: ignore[method-assign]
    with pytest.raises(UserError, match=r"(?s)epoch 2/2.*loss is nan.*last good checkpoint.*What to try"):
        run(work, tmp_path / "run")
    saved = load_checkpoint(tmp_path / "run" / "checkpoint.pt", "search").state
    assert saved["epoch"] == 1
    assert all(bool(v.isfinite().all()) for v in saved["supernet"].values() if v.is_floating_point())
    assert len(read_metrics(tmp_path / "run")) == 1
