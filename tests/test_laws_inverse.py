"""The inverse of a law: which size reaches a target."""

import sys
from pathlib import Path

import numpy as np
import pytest

from hf_scaling import InputError
from hf_scaling.laws import LAWS, Law

sys.path.insert(0, str(Path(__file__).parent / "support"))
from law_truths import TRUTHS, law_of, sizes

PAIRS = [(name, variable) for name in LAWS for variable in LAWS[name].variables]
# A student's loss falls and rises again with its teacher's, a data-limited one levels off; these have their own tests.
MONOTONE = [
    pair for pair in PAIRS if pair[1] not in ("teacher_loss", "samples_seen") and pair[0] != "data_constrained"
]


@pytest.mark.parametrize(("name", "variable"), MONOTONE)
def test_the_inverse_undoes_the_prediction(name, variable):
    law = law_of(name)
    columns = sizes(law, count=5)
    columns = {n: c if n == variable else c[:1] for n, c in columns.items()}
    targets = law.predict(TRUTHS[name], columns)
    others = {n: c[0] for n, c in columns.items() if n != variable}
    solution = law.invert(TRUTHS[name], targets, variable, others)
    assert solution.shape == (5,)
    # A relative error of 1e-16 in a loss is one of 1e-16 * loss / (x dloss/dx) in the size, where the loss is flat
    # up to 1e5 times as much; what must be exact is the loss at the solution.
    np.testing.assert_allclose(law.predict(TRUTHS[name], columns | {variable: solution}), targets, rtol=1e-13)
    np.testing.assert_allclose(solution, columns[variable], rtol=1e-8)


def test_every_draw_and_every_point_has_its_own_answer():
    law = LAWS["chinchilla"]
    draws = law.vector(TRUTHS["chinchilla"]) * np.exp(0.02 * np.random.default_rng(0).standard_normal((40, 5)))
    sizes_of_model = np.array([3e9, 1e10, 1e11])
    solution = law.invert(draws, 2.3, "n_pretrain", {"n_params": sizes_of_model})
    assert solution.shape == (40, 3)
    reachable = np.isfinite(solution)
    assert reachable.mean() > 0.5
    for i, j in ((0, 0), (7, 2), (39, 1)):
        assert solution[i, j] == law.invert(draws[i], 2.3, "n_pretrain", {"n_params": sizes_of_model[j]})
        if reachable[i, j]:
            at = {"n_params": sizes_of_model[j], "n_pretrain": solution[i, j]}
            assert law.predict(draws[i], at) == pytest.approx(2.3, rel=1e-13)
    several = law.invert(TRUTHS["chinchilla"], [2.2, 2.3, 2.4], "n_pretrain", {"n_params": 1e10})
    assert np.all(np.diff(several) < 0)


@pytest.mark.parametrize("name", ["power_law", "m4", "bnsl"])
def test_at_or_below_the_floor_no_amount_is_enough_and_above_the_start_none_is_needed(name):
    law, p = LAWS[name], TRUTHS[name]
    assert law.invert(p, [0.5 * p["E"], p["E"]], "x").tolist() == [np.inf, np.inf]
    assert law.invert(p, 1e9, "x") == 0.0


def test_repeats_of_too_few_images_never_reach_what_more_images_would():
    law, p = LAWS["data_constrained"], TRUTHS["data_constrained"]
    few = {"n_params": 1e8, "n_pretrain": 1e9}
    limit = float(law.predict(p, few | {"samples_seen": 1e30}))
    assert law.invert(p, 0.999 * limit, "samples_seen", few) == np.inf
    enough = law.invert(p, 1.001 * limit, "samples_seen", few)
    assert law.predict(p, few | {"samples_seen": enough}) == pytest.approx(1.001 * limit, rel=1e-13)
    more = law.invert(p, 0.999 * limit, "n_pretrain", {"n_params": 1e8, "samples_seen": 1e12})
    assert 1e9 < more < 1e12


def test_a_rising_law_is_inverted_too():
    law, p = LAWS["downstream_log"], TRUTHS["downstream_log"]
    solution = law.invert(p, 5.0, "n_pretrain")
    assert law.predict(p, {"n_pretrain": solution}) == pytest.approx(5.0, rel=1e-13)
    assert law.invert(p, 1e3, "n_pretrain") == np.inf
    sparse, q = LAWS["sparse"], TRUTHS["sparse"]
    others = {"n_params": 1e8, "n_pretrain": 1e10}
    densest = float(sparse.predict(q, others | {"sparsity": 0.0}))
    # The loss as the share of zeros grows, nonzero weights held: it falls, from the dense model's.
    assert sparse.invert(q, densest * 1.01, "sparsity", others) == 0.0
    share = sparse.invert(q, densest * 0.99, "sparsity", others)
    assert sparse.predict(q, others | {"sparsity": share}) == pytest.approx(densest * 0.99, rel=1e-12)


def test_the_smallest_of_several_crossings_is_given():
    law = law_of("distillation")
    others = {"n_params": 1e9, "n_pretrain": 2e10}
    losses = np.linspace(1.0, 2.6, 400)
    students = law.predict(TRUTHS["distillation"], others | {"teacher_loss": losses})
    best = int(np.argmin(students))
    assert 0 < best < 399
    solution = law.invert(TRUTHS["distillation"], students[best] + 0.05, "teacher_loss", others)
    assert solution < losses[best]
    at = others | {"teacher_loss": solution}
    assert law.predict(TRUTHS["distillation"], at) == pytest.approx(students[best] + 0.05, rel=1e-12)


def test_a_custom_law_is_inverted():
    law = Law("mine", "E + A*exp(-seconds/tau)", variables=["seconds"])
    p = {"E": 0.1, "A": 2.0, "tau": 60.0}
    assert law.invert(p, 0.1 + 2.0 / np.e, "seconds") == pytest.approx(60.0, rel=1e-12)


@pytest.mark.parametrize(
    ("target", "solve_for", "others", "named"),
    [
        (0.0, "n_pretrain", {"n_params": 1e8}, "target.*0.0"),
        (-1.0, "n_pretrain", {"n_params": 1e8}, "target.*-1.0"),
        (np.nan, "n_pretrain", {"n_params": 1e8}, "target.*nan"),
        (2.0, "n_pretrain", {"n_params": 0.0}, "n_params"),
        (2.0, "n_pretrain", {}, "'n_params'"),
        (2.0, "n_pretrian", {"n_params": 1e8}, "'n_pretrian'.* n_pretrain"),
    ],
)
def test_the_error_names_what_cannot_be_solved(target, solve_for, others, named):
    with pytest.raises(InputError, match=named):
        LAWS["chinchilla"].invert(TRUTHS["chinchilla"], target, solve_for, others)
