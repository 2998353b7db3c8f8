"""Subsets are exact, nested and class-balanced; the validation part and the selected classes are fixed by key."""

import numpy as np
import pytest

from hf_scaling import data
from hf_scaling.data.sampling import select_classes
from hf_scaling.errors import InputError

NAMES = [f"class {number}" for number in range(20)]


def shuffled_labels(counts: list[int]) -> np.ndarray:
    return np.random.default_rng(0).permutation(np.repeat(np.arange(len(counts)), counts))


@pytest.mark.parametrize("seed", [0, 1, 12345])
def test_every_subset_is_exact_balanced_and_inside_the_larger_ones(seed):
    labels = shuffled_labels([100] * 7)
    previous = np.empty(0, np.int64)
    for n in (7, 8, 50, 133, 400, 699, 700):
        subset = data.nested_subset(labels, n, seed)
        counts = np.bincount(labels[subset], minlength=7)
        assert len(np.unique(subset)) == n and (np.diff(subset) > 0).all()
        assert counts.max() - counts.min() <= 1
        assert np.isin(previous, subset).all()
        previous = subset


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
    # A change of the keys would silently draw other subsets for every published run.
    labels = np.arange(1000) % 10
    assert data.nested_subset(labels, 10, 0).tolist() == [17, 246, 361, 593, 622, 724, 725, 769, 858, 870]


@pytest.mark.parametrize(("n", "named"), [(101, "101 .*100"), (4, "4 .*5 ")])
def test_impossible_sizes_are_refused_with_the_available_number(n, named):
    with pytest.raises(InputError, match=named):
        data.nested_subset(np.arange(100) % 5, n, 0)


def test_a_subset_of_a_million_rows():
    labels = np.random.default_rng(0).integers(0, 1000, 1_000_000)
    subset = data.nested_subset(labels, 10_000, 0)
    assert (np.bincount(labels[subset]) == 10).all()


@pytest.mark.parametrize(("n", "n_validation"), [(1_000, 100), (60_000, 5_000), (19, 1)])
def test_validation_is_a_tenth_and_at_most_five_thousand(n, n_validation):
    train, validation = data.hold_out_validation(np.zeros(n, int), seed=0)
    assert len(validation) == n_validation
    assert np.array_equal(np.sort(np.concatenate([train, validation])), np.arange(n))


def test_validation_follows_the_seed_and_needs_ten_images():
    labels = np.zeros(1000, int)
    parts = [data.hold_out_validation(labels, seed)[1] for seed in (0, 0, 1)]
    assert np.array_equal(parts[0], parts[1]) and not np.array_equal(parts[0], parts[2])
    with pytest.raises(InputError, match=r"^9 "):
        data.hold_out_validation(labels[:9], 0)


def test_smaller_selections_of_classes_are_in_larger_ones():
    selections = [set(select_classes(NAMES, n, "it").tolist()) for n in (2, 5, 10, 20)]
    assert [len(selection) for selection in selections] == [2, 5, 10, 20]
    assert selections[0] < selections[1] < selections[2] < selections[3]


def test_random_subsets_of_the_classes_differ_by_number_and_seed_and_order_classes_by_their_names_alone():
    def names_of(classes, names=NAMES):
        return {names[at] for at in select_classes(names, classes, "it")}

    halves = [names_of(f"subset:0.5:0:{number}") for number in range(60)]
    assert {len(half) for half in halves} == {10} and len({frozenset(half) for half in halves}) == 60
    assert names_of("subset:0.5:1:0") != halves[0] and names_of("subset:0.25:0:0") < halves[0]
    # Every class is in about half of them.
    assert all(15 <= sum(name in half for half in halves) <= 45 for name in NAMES)
    # Classes that come and go elsewhere leave the order of the others as it is.
    more = [*NAMES, "another", "and one more"]
    assert names_of("subset:0.5:0:0", more) - {"another", "and one more"} <= names_of("subset:0.6:0:0")
    assert names_of("subset:0.5:0:0") == names_of("subset:0.5:0:0", NAMES[::-1])


def test_a_known_random_subset_never_changes():
    # Run ids depend on it.
    assert select_classes(NAMES, "subset:0.25:0:3", "it").tolist() == [1, 2, 3, 17, 18]


def test_a_list_file_names_classes_or_ids(tmp_path):
    file = tmp_path / "some.txt"
    file.write_text("# two of them\nclass 7\n\n3\n")
    assert select_classes(NAMES, str(file), "it").tolist() == [3, 7]


@pytest.mark.parametrize(
    ("classes", "named"),
    [
        (21, "classes: 21 .*20"),
        (1, "classes: 1 "),
        (-3, "classes: -3 "),
        ("nowhere.txt", r"classes: nowhere\.txt"),
        ("subset:0.5:0", "subset:0.5:0 .*SHARE"),
        ("subset:1.5:0:0", "subset:1.5:0:0 .*SHARE"),
        ("subset:0.05:0:0", "at least two"),
        ("misspelt.txt", r"misspelt\.txt, line 2: .*'clas 7'.*class 7"),
    ],
)
def test_a_bad_selection_of_classes_is_refused(classes, named, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "misspelt.txt").write_text("class 1\nclas 7\n")
    with pytest.raises(InputError, match=named):
        select_classes(NAMES, classes, "it")
