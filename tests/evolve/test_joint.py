"""The joint search: genomes of architecture, pruning and bits, the parts of its network, and its costs."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.func import functional_call

from binas.arch.slices import conv_part, tensors
from binas.binarize import BinaryConv2d, binary_convolutions
from binas.data.config import DataConfig
from binas.data.open_data import Data, open_data
from binas.errors import UserError
from binas.evolve.config import EvolveConfig, SharedConfig
from binas.evolve.evaluators.part import part_of
from binas.evolve.evaluators.shared import SharedNetwork, drawn, phases_of
from binas.evolve.problems.genome import Genome
from binas.evolve.problems.joint import BITS, JointProblem, sort_middle
from binas.evolve.problems.open_problem import open_problem
from binas.evolve.problems.problem import completed, profile_of, structure_of
from binas.models import ModelChoice
from binas.models.mobilenet_v2 import InvertedBlock
from binas.profile.count import profile_built
from binas.profile.executed import profile_module

CPU = torch.device("cpu")
STAGES = [
    {"channels": 8, "stride": 1, "blocks": [{"expansion": 1}]},
    {"channels": 16, "stride": 2, "blocks": [{"expansion": 4}] * 3},
    {"channels": 16, "stride": 1, "blocks": [{"expansion": 4}] * 2},
]
NETWORK = {
    "name": "mobilenet_v2",
    "stem": "cifar",
    "first_channels": 8,
    "last_channels": 16,
    "stages": STAGES,
}
JOINT = {"depths": [1, 2, 3], "kernels": [3, 5], "expansions": [2, 4], "kept": [0.5, 1.0]}


@pytest.fixture(scope="module")
def data() -> Data:
    return open_data(DataConfig(name="synthetic", images_per_class=12, num_classes=3))


def problem_of(data: Data, network: dict[str, Any] | None = None, **joint: Any) -> JointProblem:
    config = EvolveConfig.model_validate({"search": "joint", "joint": {**JOINT, **joint}})
    problem = open_problem(config, ModelChoice.model_validate(network or NETWORK), {}, data)
    assert isinstance(problem, JointProblem)
    return problem


def genomes(problem: JointProblem, count: int, seed: int = 0) -> list[Genome]:
    generator = random.Random(seed)
    return [tuple(generator.randrange(len(gene.choices)) for gene in problem.genes) for _ in range(count)]


def test_genes_are_those_of_every_block_that_can_vary(data: Data) -> None:
    problem = problem_of(data)
    names = [gene.name for gene in problem.genes]
    assert names[:2] == ["depth.1", "depth.2"] and problem.genes[1].choices == (1, 2)
    assert names[2:7] == ["kernel.0.0", *(f"{kind}.0.0" for kind in BITS)], "no width without expansion"
    assert names[7:10] == ["kernel.1.0", "width.1.0", "kept.1.0"]
    assert len(names) == 2 + 5 + 5 * 7
    assert all(gene.choices == (1, 2, 4, 8, "real") for gene in problem.genes if "_" in gene.name)
    assert set(problem.references) == {"largest, 1 bit", "largest, real"}


def test_genomes_of_one_network_are_written_alike(data: Data) -> None:
    """Against the layers that are counted: equal networks have one canonical genome, others do not."""
    problem = problem_of(data, bits=[1, "real"])
    by_layers: dict[Any, Genome] = {}
    for genome in genomes(problem, 300):
        canonical = problem.canonical(genome)
        assert problem.canonical(canonical) == canonical
        layers = tuple(
            profile_of(
                structure_of(problem._variant(problem.space.values(genome)), problem.stages, data)
            ).layers
        )
        assert by_layers.setdefault(layers, canonical) == canonical
    assert len(set(by_layers.values())) == len(by_layers)
    shallow = list(problem.largest())
    shallow[0] = 0
    changed = list(shallow)
    changed[problem.place["kernel.1.2"]] = 0
    assert problem.canonical(tuple(changed)) == problem.canonical(tuple(shallow))
    assert sum(problem.is_active(tuple(shallow))) == len(problem.genes) - 2 * 7


def test_what_the_genome_says_is_what_is_built(data: Data) -> None:
    problem = problem_of(data)
    for genome in [problem.canonical(genome) for genome in genomes(problem, 6)]:
        said = problem.space.params(genome)
        network = problem.structure(genome).build_network()
        convs = dict(binary_convolutions(network))
        depths = [1, said["depth.1"], said["depth.2"]]
        assert {name.rpartition(".")[0] for name in convs} == {
            f"stages.{s}.{b}" for s, depth in enumerate(depths) for b in range(int(depth))
        }
        for name, conv in convs.items():
            _, s, b, part = name.split(".")
            kind = "depthwise" if part == "depthwise" else "pointwise"
            read, kept = said[f"{kind}_activation.{s}.{b}"], said[f"{kind}_weight.{s}.{b}"]
            assert conv.binarize_activations == (read != "real")
            assert conv.binarize_weights == (kept != "real")
            if read != "real":
                assert len(conv.activation_binarizer.levels) == 2 ** int(read)
            if kept != "real":
                assert len(conv.weight_binarizer.levels) == 2 ** int(kept)
            if part == "depthwise":
                assert conv.kernel_size == said[f"kernel.{s}.{b}"]
                if s != "0":
                    inputs = 8 if (s, b) == ("1", "0") else 16
                    middle = inputs * float(said[f"width.{s}.{b}"]) * float(said[f"kept.{s}.{b}"])
                    assert conv.out_channels == middle


def test_closed_form_costs_are_those_of_the_network_that_runs(data: Data) -> None:
    for network in (NETWORK, {**NETWORK, "last_channels": 0, "stem": "imagenet", "width": 0.5}):
        problem = problem_of(data, network)
        for genome in genomes(problem, 4):
            structure = problem.structure(genome)
            sizes = (structure.in_channels, structure.image_size)
            run = profile_built(
                structure.build_network, lambda n, sizes=sizes: profile_module(n, *sizes), "cpu"
            )
            assert set(profile_of(structure).layers) == set(run.layers)
            assert problem.cost(genome).ops == run.ops and problem.cost(genome).bits == run.bits


def test_a_stage_that_says_its_own_rules_is_counted_as_it_runs(data: Data) -> None:
    problem = problem_of(data)
    genome = problem.largest()
    (stage,) = completed(problem.variant(genome), problem.stages)
    plain = structure_of(problem.variant(genome), [stage.model_copy(update={"layers": ()})], data)
    least = problem.cost(problem.references["largest, 1 bit"])
    assert profile_of(plain).ops == least.ops < problem.cost(genome).ops


def test_a_part_computes_what_the_network_alone_does(data: Data) -> None:
    problem = problem_of(data)
    torch.manual_seed(0)

    def built(genome: Genome) -> torch.nn.Module:
        return structure_of(problem.shared_variant(genome), problem.stages, data).build_network()

    shared = built(problem.largest())
    for genome in genomes(problem, 4):
        alone, empty = built(genome), built(genome)
        with torch.no_grad():
            part = part_of(shared, alone)
            for name, tensor in tensors(alone).items():
                tensor.copy_(part[name])
        images = torch.randn(4, data.channels, *data.image_size)
        together = functional_call(empty, part_of(shared, empty), (images,), strict=True)
        torch.testing.assert_close(together, alone(images), rtol=1e-5, atol=1e-5)


def test_a_smaller_kernel_is_the_middle_of_the_larger_one() -> None:
    """Against the definition, weight by weight; depthwise, with fewer channels."""
    wide, conv = BinaryConv2d(6, 6, 7, groups=6), BinaryConv2d(4, 4, 3, groups=4)
    found = conv_part(wide.weight, conv, wide)
    assert found is not None and found.shape == conv.weight.shape
    for channel in range(4):
        for row in range(3):
            for column in range(3):
                assert found[channel, 0, row, column] == wide.weight[channel, 0, row + 2, column + 2]


def test_sorting_channels_changes_nothing_but_their_order(data: Data) -> None:
    problem = problem_of(data)
    torch.manual_seed(0)
    network = structure_of(problem.shared_variant(problem.largest()), problem.stages, data).build_network()
    images = torch.randn(8, data.channels, *data.image_size)
    for _ in range(2):
        network(images)
    before = network.eval()(images)
    weights = [m.project.weight.clone() for m in network.modules() if isinstance(m, InvertedBlock)]
    problem.prepare(network, {"kernel"})
    blocks = [m for m in network.modules() if isinstance(m, InvertedBlock)]
    assert all(torch.equal(a, m.project.weight) for a, m in zip(weights, blocks, strict=True))
    problem.prepare(network, {"kept"})
    torch.testing.assert_close(network(images), before, rtol=1e-4, atol=1e-5)
    assert any(not torch.equal(a, m.project.weight) for a, m in zip(weights, blocks, strict=True))
    for block in blocks[1:]:
        importance = block.project.weight.abs().sum(dim=(0, 2, 3))
        assert bool((importance[:-1] >= importance[1:]).all())
    sort_middle(blocks[0])  # without expansion its channels are those of the stream: left alone
    assert torch.equal(blocks[0].project.weight, weights[0])


PHASES = [
    {"name": "largest", "epochs": 2},
    {"name": "kernels", "varies": ["kernel"], "epochs": 1},
    {"name": "all", "varies": ["kernel", "depth", "width", "kept"], "epochs": 2, "learning_rate": 0.5},
]


def test_a_phase_draws_only_the_genes_that_vary(data: Data) -> None:
    problem = problem_of(data)
    generator = random.Random(0)
    assert drawn(problem, (), generator) == problem.largest()
    seen = {drawn(problem, ("kernel",), generator) for _ in range(50)}
    places = {name: problem.place[name] for name in ("kernel.1.0", "kernel.1.2", "kernel.2.1")}
    draws = [drawn(problem, ("kernel",), generator) for _ in range(400)]
    for name, place in places.items():
        share = sum(genome[place] for genome in draws) / len(draws)
        assert 0.4 < share < 0.6, (name, "as often the small as the large kernel, in the last blocks too")
    # half of the wide middle is written as the whole of the narrow one
    wide = [drawn(problem, ("kept",), generator)[problem.place["width.1.0"]] for _ in range(100)]
    assert 30 < sum(wide) < 70
    kinds = {
        problem.space.kinds[i]
        for genome in seen
        for i, place in enumerate(genome)
        if place != problem.largest()[i]
    }
    assert kinds == {"kernel"} and len(seen) > 10
    config = SharedConfig.model_validate({"phases": [{"name": "x", "varies": ["kernels"], "epochs": 1}]})
    with pytest.raises(
        UserError, match=r"phases.0.varies: the shared network has no genes called 'kernels'.*kernel"
    ):
        phases_of(config, problem.shared_kinds())
    config = SharedConfig.model_validate({"phases": [{"name": "x", "varies": [BITS[0]], "epochs": 1}]})
    with pytest.raises(UserError, match="the shared network has no genes called"):
        phases_of(config, problem.shared_kinds())


def shared_network(problem: JointProblem, data: Data, file: Path) -> SharedNetwork:
    stage = {"optimizer": {"learning_rate": 3e-3}}
    config = SharedConfig.model_validate({"batch_size": 12, "stage": stage, "phases": PHASES})
    return SharedNetwork(problem, config, data, 0, CPU, file)


def test_phases_teach_resume_and_end_as_if_never_stopped(
    data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    problem = problem_of(data)
    whole = shared_network(problem, data, tmp_path / "whole.pt")
    assert whole.teacher is None
    whole.train()
    assert whole.teacher is not None, "the largest network taught the later phases"
    differ = [
        n for n, t in whole.teacher.named_parameters() if not torch.equal(t, whole.network.get_parameter(n))
    ]
    assert differ, "and stayed as the first phase left it"
    epoch = SharedNetwork._epoch
    for stop in (1, 2, 3, 4):
        file = tmp_path / f"stopped_{stop}.pt"

        def until(self: SharedNetwork, position: int, *rest: Any, stop: int = stop) -> None:
            if position == stop:
                raise KeyboardInterrupt
            epoch(self, position, *rest)

        with monkeypatch.context() as patch:
            patch.setattr(SharedNetwork, "_epoch", until)
            with pytest.raises(KeyboardInterrupt):
                shared_network(problem, data, file).train()
        again = shared_network(problem, data, file)
        again.train()
        for name, tensor in tensors(whole.network).items():
            assert torch.equal(tensor, tensors(again.network)[name]), (stop, name)


def test_a_candidate_starts_from_its_part_and_is_judged_in_its_precision(data: Data, tmp_path: Path) -> None:
    problem = problem_of(data)
    network = shared_network(problem, data, tmp_path / "shared.pt")
    genome = problem.references["largest, 1 bit"]
    candidate = problem.structure(genome).build_network()
    network.start(genome, candidate)
    own = tensors(candidate)
    assert all(torch.equal(own[name], tensor) for name, tensor in tensors(network.network).items())
    real = network.judge_as_shared(genome, 0)
    assert real == network.judge_as_shared(problem.references["largest, real"], 0)
    assert network(problem.references["largest, real"], 0) == real
    assert network(genome, 0) != real


def test_a_network_without_blocks_is_told(data: Data) -> None:
    config = EvolveConfig.model_validate({"search": "joint"})
    with pytest.raises(UserError, match=r"evolve.search: joint: .*option 'stages'"):
        open_problem(config, ModelChoice(name="vgg_small"), {}, data)
    with pytest.raises(UserError, match=r"evolve.joint.depths: stage 2 .* only 2 blocks"):
        problem_of(data, depths=[3])
    kept, widths = {"kept": [0.5, 1.5]}, {"expansions": [1, 2]}
    for wrong in (kept, widths, {"bits": ["real", 1]}, {"kernels": [4]}, {"depths": []}):
        with pytest.raises(ValueError):
            EvolveConfig.model_validate({"search": "joint", "joint": wrong})
    with pytest.raises(ValueError, match="predicted: is for search: joint"):
        EvolveConfig.model_validate({"evaluation": "predicted"})


def test_what_would_undo_the_bits_is_refused(data: Data) -> None:
    with pytest.raises(UserError, match=r"model.real: true leaves no bits"):
        problem_of(data, {**NETWORK, "real": True})
    for key in ("layers", "binarization"):
        stage = {"name": "x", key: [] if key == "layers" else {}}
        for place, settings in (
            ("training.stages.0", {"training": {"stages": [stage]}}),
            ("shared.stage", {"shared": {"stage": stage}}),
        ):
            with pytest.raises(ValueError, match=f"{place}.{key}: a joint search's genomes say the bits"):
                EvolveConfig.model_validate({"search": "joint", **settings})


def test_stages_deeper_than_any_choice_have_no_silent_genes(data: Data) -> None:
    problem = problem_of(data, depths=[1, 2])
    assert "kernel.1.1" in problem.place and "kernel.1.2" not in problem.place
    assert all(problem.is_active(problem.largest()))


def test_parts_of_blocks_that_were_built_before_compute_the_same(data: Data, tmp_path: Path) -> None:
    problem = problem_of(data)
    network = shared_network(problem, data, tmp_path / "shared.pt")
    generator = random.Random(3)
    images = torch.randn(4, data.channels, *data.image_size)
    assembled = 0
    for _ in range(80):
        genome = problem.space.random(generator)
        before = network._template
        found = network._empty(genome)
        assembled += found is not network._template and network._template is before
        whole = network._built(genome)
        names = dict(whole.named_parameters())
        assert {n: p.shape for n, p in found.named_parameters()} == {n: p.shape for n, p in names.items()}
        alike = [
            functional_call(one.train(), part_of(network.network, one), (images,), strict=True)
            for one in (found, whole)
        ]
        assert torch.equal(*alike)
    assert assembled > 20


def test_children_draw_what_their_parents_did_not_say(data: Data) -> None:
    problem = problem_of(data)
    shallow = problem.canonical((0, 0, *problem.largest()[2:]))
    place = problem.place["pointwise_weight.1.2"]
    assert not problem.is_active(shallow)[place] and shallow[place] == 0
    generator = random.Random(0)
    filled = [problem.space.filled(shallow, generator) for _ in range(200)]
    assert {genome[place] for genome in filled} == set(range(5))
    says = problem.is_active(shallow)
    assert all(a == b for genome in filled for a, b, on in zip(genome, shallow, says, strict=True) if on)


def test_running_out_of_different_networks_is_told(tmp_path: Path, data: Data) -> None:
    from binas.evolve.sampler import EvolutionSampler
    from binas.evolve.study.storage import open_storage
    from binas.evolve.study.worker import join_study

    one = {**NETWORK, "stages": [{"channels": 8, "stride": 1, "blocks": [{"expansion": 4}]}]}
    problem = problem_of(data, one, kernels=[3], expansions=[2, 4], kept=[0.5, 1.0], bits=[1])
    assert problem.space.size == 4
    config = EvolveConfig(evaluations=4, population=2)
    with open_storage(tmp_path / "study.journal", "few") as shared:
        study = join_study(shared, "few", EvolutionSampler(problem.space, config, 0), {})
        for _ in range(3):
            study.tell(study.ask(problem.space.distributions()), [0.5, 1.0])
        with pytest.raises(UserError, match=r"4 different candidates are wanted, but there are only 3"):
            study.ask(problem.space.distributions())
