"""Macro spaces and networks: membership, samples, the slow oracle, NAS-BNN's published ends."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from oracles import macro_network as oracle
from spaces import spaces_of
from torch import nn

from binas.arch.kinds import genotype_network, load_any_space, space_of
from binas.arch.macro_genotype import MacroGenotype
from binas.arch.macro_space import BLOCK_KEYS, MacroSpace
from binas.arch.sample import random_genotype
from binas.config import build
from binas.errors import UserError
from binas.profile.count import count

SPACE: dict[str, Any] = {
    "kind": "macro",
    "name": "tiny",
    "stem": {"kind": ["cifar", "imagenet"], "channels": [4, 6]},
    "stages": [
        {"channels": [6, 8, 10], "depth": [1, 2], "kernel_size": [1, 3, 5], "groups": [1, 2]},
        {"channels": [8, 14], "depth": [1, 2], "stride": 2, "kernel_size": [3, 5], "groups": [1, 2]},
    ],
    "binarization": {"activation": {"name": "sign", "window": 1.0}, "weight": {"name": "xnor"}},
}
for _stage in SPACE["stages"]:
    _stage |= {"activation": ["relu", "prelu", "rprelu"], "skip": ["average", "max", "real", "none"]}


def drawn(seed: int, space: Any = SPACE) -> MacroGenotype:
    genotype = random_genotype(load_any_space(space), random.Random(seed))
    assert isinstance(genotype, MacroGenotype)
    return genotype


@pytest.mark.parametrize("sign", ["sign", "rsign"])
def test_network_equals_the_slow_oracle_forward_and_backward(sign: str) -> None:
    seen = set()
    for seed in range(12):
        estimator = {"name": sign, "window": 1.0} if sign == "sign" else {"name": sign}
        binarization = {**SPACE["binarization"], "activation": estimator}
        genotype = drawn(seed, {**SPACE, "binarization": binarization})
        seen |= {(b.block.skip, b.block.activation, b.stride) for b in genotype.blocks()}
        torch.manual_seed(seed)
        network = genotype_network(genotype, 3, 5).double()
        with torch.no_grad():
            for parameter in network.parameters():
                parameter += 0.1 * torch.randn_like(parameter)
        images = torch.randn(4, 3, 9, 7, dtype=torch.float64, requires_grad=True)
        state = {name: p.detach().clone().requires_grad_() for name, p in network.named_parameters()}
        other = images.detach().clone().requires_grad_()
        result, expected = network(images), oracle.logits(genotype, state, other)
        torch.testing.assert_close(result, expected, rtol=1e-9, atol=1e-9)  # sums in another order
        target = torch.arange(4) % 5
        nn.functional.cross_entropy(result, target).backward()
        nn.functional.cross_entropy(expected, target).backward()
        torch.testing.assert_close(images.grad, other.grad, rtol=1e-7, atol=1e-9)
        for name, parameter in network.named_parameters():
            found, wanted = parameter.grad, state[name].grad
            torch.testing.assert_close(found, wanted, rtol=1e-7, atol=1e-9, msg=name)
    assert {skip for skip, *_ in seen} == {"average", "max", "real", "none"}
    assert {activation for _, activation, _ in seen} == {"relu", "prelu", "rprelu"}


@pytest.mark.parametrize("name", spaces_of("macro"))
def test_random_genotypes_are_members_of_their_space_and_come_back_from_json(name: str) -> None:
    from binas.arch.genotype import parse_genotype

    hashes = set()
    for seed in range(20):
        genotype = drawn(seed, name)
        space = space_of(genotype)
        assert isinstance(space, MacroSpace)
        assert space.name == name
        widths = genotype.widths()
        assert list(widths) == sorted(widths)
        again = parse_genotype(genotype.to_json(), "text")
        assert again == genotype
        assert again.hash() == genotype.hash()
        hashes.add(genotype.hash())
    assert len(hashes) == 20


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"stages": [{"channels": 6, "groups": [4]}]}, "stages.0.groups: 4 does not divide 4|6"),
        ({"stages": [{"channels": 2}]}, "stages.0.channels: none is at least 4"),
        ({"stages": [{"channels": 8, "kernel_size": [2]}]}, "an odd kernel is needed"),
        ({"stages": [{"channels": [8, 8]}]}, "8 stands twice"),
        ({"stages": [{"channels": 8, "depht": 2}]}, "unknown key 'stages.0.depht'.*depth"),
        ({"stem": {"channels": []}}, "stem.channels"),
        ({"kind": "mcro"}, "space: kind: 'mcro' is none"),
    ],
)
def test_a_wrong_space_is_told_by_its_key(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_any_space({**SPACE, **change}, "mine.yaml")


def test_a_genotype_of_another_space_is_told_by_its_key() -> None:
    genotype = drawn(0)
    fields = genotype.model_dump(mode="json")
    for change, message in (
        ({"stem": {"channels": 8}}, "stem.channels: 8 is not in its space 'tiny' .4, 6."),
        ({"stages": fields["stages"][:1]}, "stages: it has 1, but its space 'tiny' has 2"),
        ({"space": {"name": "bnas"}}, "its space 'bnas' is one of cells"),
        ({"space": {}}, "key 'space' is empty"),
    ):
        with pytest.raises(UserError, match=message):
            space_of(build(MacroGenotype, {**fields, **change}, "genotype"))
    fields["stages"][0]["blocks"][0]["activation"] = "tanhh"
    with pytest.raises(UserError, match=r"stages.0.blocks.0.activation: 'tanhh' is not in its space"):
        space_of(build(MacroGenotype, fields, "genotype"))


def test_nas_bnn_has_the_ends_that_its_values_give() -> None:
    """20.8 and 331.8 M OPs, where its 8-bit stem counts 8/64 of its multiply-accumulates."""
    space = load_any_space("nas_bnn")
    assert isinstance(space, MacroSpace)
    for pick, groups, expected in ((min, max, 20.8), (max, min, 331.8)):
        stages = [
            {
                "channels": pick(stage.channels),
                "stride": stage.stride[0],
                "blocks": [{"kernel_size": pick(stage.kernel_size), "groups": groups(stage.groups)}]
                * pick(stage.depth),
            }
            for stage in space.stages
        ]
        stem = {"kind": "imagenet", "channels": pick(space.stem.channels)}
        data = {"stem": stem, "stages": stages, "space": {"name": "nas_bnn"}}
        profile = count(build(MacroGenotype, data, "end"), (224, 224), 1000)
        first = 27 * stem["channels"] * 112**2
        ops = profile.bops / 64 + (profile.flops - first) + first * 8 / 64
        assert round(ops / 1e6, 1) == expected


def test_an_estimator_of_a_block_binarizes_it_in_every_stage() -> None:
    fields = drawn(0).model_dump(mode="json")
    plain = build(MacroGenotype, fields, "genotype")
    fields["stages"][0]["blocks"][0]["estimator"] = {"name": "rsign"}
    chosen = build(MacroGenotype, fields, "genotype")
    assert chosen.hash() != plain.hash()
    network = genotype_network(chosen, 3, 5)
    names = {n for n, _ in network.named_parameters() if "activation_binarizers" in n}
    assert names
    assert all(name.startswith("stages.0.0.") for name in names)


def test_block_keys_are_those_of_a_block() -> None:
    block = next(drawn(0).blocks()).block
    assert all(hasattr(block, key) for key in BLOCK_KEYS)


def test_the_python_interface_takes_macro_spaces_and_genotypes() -> None:
    import binas

    found = binas.run_search("binas_macro", "digits", config={"strategy": "random"}, seed=3, device="cpu")
    genotype = found.genotype
    assert isinstance(genotype, MacroGenotype)
    assert binas.load_genotype(genotype.model_dump(mode="json")) == genotype
    assert binas.create_network(genotype, num_classes=4)(torch.zeros(2, 3, 9, 9)).shape == (2, 4)
    assert binas.count_cost(genotype).ops > 0
    assert "<svg" in binas.draw_cells(genotype)
    with pytest.raises(UserError, match="num_cells: change its stages"):
        binas.create_network(genotype, num_classes=4, num_cells=3)
    with pytest.raises(UserError, match="'gradient' does not search space"):
        binas.run_search("binas_macro", "digits", config={"strategy": "gradient"})
    stage = {"name": "one", "epochs": 1}
    trained = binas.run_retrain(genotype, "digits", config={"stages": [stage]}, device="cpu")
    assert binas.check_binary(trained.network).is_binary


def test_hash_tells_apart_what_is_computed_and_nothing_else() -> None:
    def built(skip: str, stride: int, channels: int) -> str:
        stage = {"channels": channels, "stride": stride, "blocks": [{"skip": skip}]}
        return build(MacroGenotype, {"stem": {"channels": 4}, "stages": [stage]}, "genotype").hash()

    for stride, channels, alike in (
        (1, 4, [{"average", "max", "real"}, {"none"}]),  # the identity, whatever it is called
        (1, 8, [{"average", "max"}, {"real"}, {"none"}]),
        (2, 4, [{"average"}, {"max"}, {"real"}, {"none"}]),
    ):
        found: dict[str, set[str]] = {}
        for skip in ("average", "max", "real", "none"):
            found.setdefault(built(skip, stride, channels), set()).add(skip)
        assert list(found.values()) == alike
