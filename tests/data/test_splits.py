"""Splits are disjoint, complete, stratified and repeatable; subsets are balanced."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from binas.data.splits import balanced_subset, seeded, stratified_cut
from binas.errors import UserError

NAMES = ("ant", "bee", "cat")


@settings(max_examples=50, deadline=None)
@given(
    counts=st.lists(st.integers(2, 30), min_size=1, max_size=3),
    fraction=st.floats(0, 0.99),
    seed=st.integers(0, 5),
)
def test_a_cut_is_disjoint_complete_and_stratified(counts, fraction, seed):
    labels = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    labels = labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))]
    stay, cut = stratified_cut(labels, fraction, "test", seed, NAMES)
    assert sorted([*stay.tolist(), *cut.tolist()]) == list(range(len(labels)))
    assert stay.tolist() == sorted(stay.tolist()) and cut.tolist() == sorted(cut.tolist())
    for label, count in enumerate(counts):
        found = int((labels[cut] == label).sum())
        if fraction == 0:
            assert found == 0
        else:
            assert 1 <= found <= count - 1
            assert found in (1, count - 1) or abs(found - fraction * count) <= 0.5 + 1e-9


def test_a_cut_depends_on_seed_and_purpose_only():
    labels = torch.arange(300) % 3
    again = [stratified_cut(labels, 0.3, "test", 0, NAMES)[1] for _ in range(2)]
    assert torch.equal(*again)
    assert not torch.equal(again[0], stratified_cut(labels, 0.3, "test", 1, NAMES)[1])
    assert not torch.equal(again[0], stratified_cut(labels, 0.3, "validation", 0, NAMES)[1])


def test_a_class_with_one_image_is_named():
    with pytest.raises(UserError, match="class 'bee' has a single image"):
        stratified_cut(torch.tensor([0, 0, 1]), 0.5, "test", 0, NAMES)
    assert stratified_cut(torch.tensor([0, 0, 1]), 0, "test", 0, NAMES)[0].tolist() == [0, 1, 2]


@pytest.mark.parametrize(("size", "expected"), [(3, [1, 1, 1]), (7, [3, 2, 2]), (30, [10, 10, 10])])
def test_a_subset_is_balanced(size, expected):
    labels = torch.arange(60) % 3
    subset = balanced_subset(labels, size, 0, NAMES)
    assert torch.bincount(labels[subset], minlength=3).tolist() == expected
    assert len(subset.unique()) == size
    assert torch.equal(subset, balanced_subset(labels, size, 0, NAMES))


def test_a_subset_that_is_too_large_names_the_largest_possible_one():
    labels = torch.tensor([0] * 5 + [1] * 2 + [2] * 9)
    with pytest.raises(UserError, match="of class 'bee', which has 2; at most 7 can"):
        balanced_subset(labels, 9, 0, NAMES)
    assert len(balanced_subset(labels, 7, 0, NAMES)) == 7
    with pytest.raises(UserError, match=r"data\.subset"):
        balanced_subset(labels, 8, 0, NAMES)


def test_a_subset_smaller_than_the_number_of_classes_is_refused():
    with pytest.raises(UserError, match=r"data\.subset: 2 is less than one image for each of the 3"):
        balanced_subset(torch.arange(30) % 3, 2, 0, NAMES)


def test_generators_of_two_purposes_differ():
    draws = {torch.rand(1, generator=seeded(purpose, seed)).item() for purpose in "ab" for seed in (0, 1)}
    assert len(draws) == 4
