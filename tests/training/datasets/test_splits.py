"""Photos are dealt out so that each split has its share of every class."""

from __future__ import annotations

from collections import Counter

from hypothesis import example, given, settings
from hypothesis import strategies as st

from maskserve.training.datasets.splits import stratified

photo_labels = st.lists(st.frozensets(st.sampled_from("abcd"), max_size=3), max_size=60)


@settings(deadline=None)
@given(photo_labels, st.integers(0, 5))
def test_every_photo_gets_one_split_and_the_same_seed_gives_the_same(photos: list[frozenset[str]], seed: int) -> None:
    fractions = {"train": 0.7, "val": 0.1, "test": 0.2}
    splits = stratified(photos, fractions, seed)
    assert len(splits) == len(photos)
    assert set(splits) <= set(fractions)
    assert splits == stratified(photos, fractions, seed)


@settings(deadline=None)
@given(photo_labels, st.integers(0, 5))
@example([frozenset("ab"), frozenset("abc"), frozenset("ad")], 0)  # d's only photo was dealt as a's last
def test_every_class_is_trained_on(photos: list[frozenset[str]], seed: int) -> None:
    splits = stratified(photos, {"train": 0.8, "test": 0.2}, seed)
    trained = {name for photo, split in zip(photos, splits, strict=True) if split == "train" for name in photo}
    assert trained == {name for photo in photos for name in photo}


@settings(deadline=None)
@given(st.integers(5, 80), st.integers(5, 80), st.integers(0, 5))
def test_with_one_class_a_photo_each_class_is_split_by_the_fraction(cats: int, dogs: int, seed: int) -> None:
    photos = [frozenset({"cat"})] * cats + [frozenset({"dog"})] * dogs
    splits = stratified(photos, {"train": 0.8, "test": 0.2}, seed)
    held_out = Counter(next(iter(p)) for p, split in zip(photos, splits, strict=True) if split == "test")
    assert abs(held_out["cat"] - 0.2 * cats) <= 1
    assert abs(held_out["dog"] - 0.2 * dogs) <= 1


def test_another_seed_holds_out_other_photos() -> None:
    photos = [frozenset({"cat"})] * 30
    fractions = {"train": 0.8, "test": 0.2}
    assert stratified(photos, fractions, 0) != stratified(photos, fractions, 1)


def test_a_rare_class_that_never_comes_alone_is_split_by_the_fraction() -> None:
    photos = [frozenset({"cat"})] * 40 + [frozenset({"cat", "dog"})] * 10
    for seed in range(5):
        splits = stratified(photos, {"train": 0.8, "test": 0.2}, seed)
        assert (splits.count("test"), splits[40:].count("test")) == (10, 2)


def test_another_release_holds_out_the_same_photos() -> None:
    photos = [
        frozenset(classes) for classes in ("bd", "bc", "", "b", "bd", "a", "", "", "a", "abc", "bc", "b", "bd", "d")
    ]
    splits = stratified(photos, {"train": 0.6, "val": 0.2, "test": 0.2}, 0)
    assert " ".join(splits) == "train val train test train train val train test train train train val test"
