"""Subsets are exact, nested and class-balanced; the validation part and the choice of classes are fixed by key."""

import numpy as np
import pytest

from hf_scaling import data
from hf_scaling.data.sampling import choose_classes
from hf_scaling.errors import InputError

NAMES = [f"class {number}" for number in range(20)]


def shuffled_labels(counts: list[int]) -> np.ndarray:
    return np.random.default_rng(0).permutation(np.repeat(np.arange(len(counts)), counts))


@pytest.mark.parametrize("seed", [0, 1, 12345])
def test_every_subset_is_exact_balanced_and_inside_the_larger_ones(seed):
    labels = shuffled_labels([100] * 7)
    previous = np.empty(0, np.int64)
    for n in (7, 8, 50, 133, 400, 699, 700):
        chosen = data.nested_subset(labels, n, seed)
        counts = np.bincount(labels[chosen], minlength=7)
        assert len(np.unique(chosen)) == n and (np.diff(chosen) > 0).all()
        assert counts.max() - counts.min() <= 1
        assert np.isin(previous, chosen).all()
        previous = chosen


def test_a_small_class_is_taken_whole_and_the_others_stay_balanced():
    labels = shuffled_labels([3, 100, 100])
    counts = np.bincount(labels[data.nested_subset(labels, 103, 0)])
    assert counts.tolist() == [3, 50, 50]


def test_another_seed_gives_another_subset():
    labels = shuffled_labels([500] * 4)
    overlap = np.isin(data.nested_subset(labels, 200, 0), data.nested_subset(labels, 200, 1)).sum()
    # 200 of 2,000 twice: 20 in common are expected with a standard deviation of 4; five of them either way.
    assert 0 < overlap < 40


def test_subsets_are_the_same_on_every_machine_and_release():
    # Written down once: a change of the keys would silently draw other subsets for every published run.
    labels = np.arange(1000) % 10
    assert data.nested_subset(labels, 10, 0).tolist() == [17, 246, 361, 593, 622, 724, 725, 769, 858, 870]


@pytest.mark.parametrize(("n", "said"), [(101, "only 100"), (4, "5 classes")])
def test_impossible_sizes_are_refused_with_the_number_there_is(n, said):
    with pytest.raises(InputError, match=said):
        data.nested_subset(np.arange(100) % 5, n, 0)


def test_a_million_rows_are_chosen_from_at_once():
    labels = np.random.default_rng(0).integers(0, 1000, 1_000_000)
    chosen = data.nested_subset(labels, 10_000, 0)
    assert (np.bincount(labels[chosen]) == 10).all()


@pytest.mark.parametrize(("n", "n_validation"), [(1_000, 100), (60_000, 5_000), (19, 1)])
def test_validation_is_a_tenth_and_at_most_five_thousand(n, n_validation):
    train, validation = data.hold_out_validation(np.zeros(n, int), seed=0)
    assert len(validation) == n_validation
    assert np.array_equal(np.sort(np.concatenate([train, validation])), np.arange(n))


def test_validation_follows_the_seed_and_needs_ten_images():
    labels = np.zeros(1000, int)
    again = [data.hold_out_validation(labels, seed)[1] for seed in (0, 0, 1)]
    assert np.array_equal(again[0], again[1]) and not np.array_equal(again[0], again[2])
    with pytest.raises(InputError, match="at least 10"):
        data.hold_out_validation(labels[:9], 0)


def test_fewer_classes_lie_inside_more():
    chosen = [set(choose_classes(NAMES, n, "it").tolist()) for n in (2, 5, 10, 20)]
    assert [len(each) for each in chosen] == [2, 5, 10, 20]
    assert chosen[0] < chosen[1] < chosen[2] < chosen[3]


def test_a_list_file_names_classes_or_ids(tmp_path):
    file = tmp_path / "some.txt"
    file.write_text("# two of them\nclass 7\n\n3\n")
    assert choose_classes(NAMES, str(file), "it").tolist() == [3, 7]


@pytest.mark.parametrize(
    ("classes", "said"),
    [
        (21, "only 20"),
        (1, "at least two"),
        (-3, "at least two"),
        ("nowhere.txt", "neither a number nor a file"),
        ("misspelt.txt", r"misspelt.txt, line 2: 'clas 7' is no class .*did you mean 'class 7'"),
    ],
)
def test_a_bad_choice_of_classes_is_refused(classes, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "misspelt.txt").write_text("class 1\nclas 7\n")
    with pytest.raises(InputError, match=said):
        choose_classes(NAMES, classes, "it")
