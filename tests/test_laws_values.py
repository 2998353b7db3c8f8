"""What the laws predict, their gradients, and which parameters enter linearly."""

import sys
from pathlib import Path

import numpy as np
import pytest

from hf_scaling import InputError
from hf_scaling.laws import LAWS

sys.path.insert(0, str(Path(__file__).parent / "support"))
from law_truths import SUPERVISED, TRUTHS, in_numpy, law_of, sizes

# The contract: variables and parameters of every law, in the order in which arrays hold them.
TABLE = """
power_law | x | E A a
shifted_power_law | x | E A a x0
m4 | x | E L0 a b c
bnsl | x | E b c0 c1 d1 f1
chinchilla | n_params n_pretrain | E A alpha B beta
chinchilla_coupled | n_params n_pretrain | E A alpha B beta gamma
joint_additive | n_params n_pretrain n_finetune | E A alpha B beta C gamma
joint_multiplicative | n_params n_finetune | E A alpha beta
joint_multiplicative_data | n_pretrain n_finetune | E A alpha beta
joint_multiplicative_full | n_params n_pretrain n_finetune | E A alpha gamma beta
transfer_gap | n_pretrain n_finetune | A alpha G beta E
transfer_gap_shifted | n_pretrain n_finetune | A alpha G D0 beta E
transfer_gap_joint | n_params n_pretrain n_finetune | A alpha G H delta beta E
rectified | n_finetune | B Dl beta E
rectified_joint | n_pretrain n_finetune | B D0 k b beta E
effective_data | n_pretrain n_finetune | k a b B beta E
effective_data_shifted | n_pretrain n_finetune | k a b D0 B beta E
effective_data_model | n_params n_finetune | k a b B beta E
distillation | n_params n_pretrain teacher_loss | A alpha B beta gamma c0 c1 d1 f1
data_constrained | n_params n_pretrain samples_seen | E A alpha B beta R_D R_N
sparse | n_params n_pretrain sparsity | a_S b_S c_S b_N a_D b_D c
downstream_log | n_pretrain | A alpha beta
"""

LINEAR = {
    "power_law": {"E", "A"},
    "shifted_power_law": {"E", "A"},
    "m4": set(),
    "bnsl": {"E", "b"},
    "chinchilla": {"E", "A", "B"},
    "chinchilla_coupled": {"E"},
    "joint_additive": {"E", "A", "B", "C"},
    "joint_multiplicative": {"E", "A"},
    "joint_multiplicative_data": {"E", "A"},
    "joint_multiplicative_full": {"E", "A"},
    "transfer_gap": {"A", "G", "E"},
    "transfer_gap_shifted": {"A", "G", "E"},
    "transfer_gap_joint": {"A", "G", "H", "E"},
    "rectified": {"B", "E"},
    "rectified_joint": {"B", "E"},
    "effective_data": {"B", "E"},
    "effective_data_shifted": {"B", "E"},
    "effective_data_model": {"B", "E"},
    "distillation": set(),
    "data_constrained": {"E"},
    "sparse": {"a_S", "c_S", "c"},
    "downstream_log": set(),
}

every_law = pytest.mark.parametrize("name", list(LAWS))


def nearby(law, count=20, seed=1):
    """Parameter vectors (count, P) within about 10 % of the truth."""
    truth = law.vector(TRUTHS[law.name])
    return truth * np.exp(0.1 * np.random.default_rng(seed).standard_normal((count, len(truth))))


def test_the_catalogue_has_every_law_in_order():
    rows = [[part.strip() for part in line.split("|")] for line in TABLE.strip().splitlines()]
    assert [row[0] for row in rows] == list(LAWS)
    for name, variables, parameters in rows:
        assert " ".join(LAWS[name].variables) == variables
        assert " ".join(LAWS[name].names) == parameters


@pytest.mark.parametrize("name", [name for name in LAWS if name != "m4"])
def test_a_law_predicts_what_its_formula_says(name):
    law = law_of(name)
    columns = sizes(law)
    expected = in_numpy(name, TRUTHS[name], columns)
    # Powers as exp(exponent * log) lose a few units in the last place: exponents near 50 times logarithms near 20.
    np.testing.assert_allclose(law.predict(TRUTHS[name], columns), expected, rtol=1e-12)


def test_m4_solves_its_equation():
    p = TRUTHS["m4"]
    x = np.geomspace(1, 1e12, 60)
    L = LAWS["m4"].predict(p, {"x": x})
    # L - E and L0 - L each lose up to four digits of L's sixteen here.
    np.testing.assert_allclose((L - p["E"]) / (p["L0"] - L) ** p["a"], p["b"] * x ** -p["c"], rtol=1e-10)
    assert np.all(np.diff(L) < 0)
    assert np.all((p["E"] < L) & (p["L0"] > L))


@pytest.mark.parametrize("a", [1e-3, 0.5, 1.0, 5.0])
@pytest.mark.parametrize("E", [0.0, 0.3])
def test_m4_stays_exact_at_both_ends(a, E):
    p = {"E": E, "L0": 0.9, "a": a, "b": 2.0, "c": 0.5}
    x = np.array([1e-300, 1e-30, 1e30, 1e300])
    L = LAWS["m4"].predict(p, {"x": x})
    # Far out L - E is b x^-c (L0 - E)^a, whatever its size; at x near zero L is the ceiling.
    np.testing.assert_allclose(L[2:] - E, 2.0 * x[2:] ** -0.5 * (0.9 - E) ** a, rtol=1e-9, atol=1e-16 * (E > 0))
    np.testing.assert_allclose(L[0], 0.9, rtol=1e-15)


@every_law
def test_gradients_match_finite_differences(name):
    law = law_of(name)
    columns = sizes(law)
    theta = nearby(law)
    value, gradient = law.value_and_gradient(theta, columns)
    assert gradient.shape == (*value.shape, len(law.names))
    np.testing.assert_array_equal(value, law.predict(theta, columns))
    for k in range(len(law.names)):
        step = 1e-5 * theta[:, k]
        up, down = theta.copy(), theta.copy()
        up[:, k] += step
        down[:, k] -= step
        difference = (law.predict(up, columns) - law.predict(down, columns)) / (2 * step[:, None])
        # A central difference is off by step**2/6 times the third derivative (1e-10 relative times a factor of up to
        # 1e4, where an exponent times a logarithm is 20) and by rounding, 1e-16 of value over 1e-5 of parameter.
        # Values are good to 1e-14, so 1e-9 of value over parameter.
        slack = 1e-6 * np.abs(gradient[..., k]) + 3e-9 * np.abs(value / theta[:, k : k + 1])
        assert np.all(np.abs(difference - gradient[..., k]) <= slack), law.names[k]


@every_law
def test_the_linear_set_is_the_largest_and_the_design_rebuilds_the_value(name):
    law = law_of(name)
    assert set(law.linear) == LINEAR[name]
    columns = sizes(law)
    theta = nearby(law)
    offset, design = law.design(theta, columns)
    index = [law.names.index(n) for n in law.linear]
    rebuilt = offset + np.einsum("bnk,bk->bn", design, theta[:, index])
    np.testing.assert_allclose(rebuilt, law.predict(theta, columns), rtol=1e-12)
    ignored = theta.copy()
    ignored[:, index] = np.nan
    np.testing.assert_array_equal(law.design(ignored, columns)[1], design)


def test_published_chinchilla_coupled_and_distillation_values():
    at = {"n_params": 1e9, "n_pretrain": 2e10}
    assert LAWS["chinchilla_coupled"].predict(SUPERVISED, at) == pytest.approx(2.3747, abs=5e-5)
    student = law_of("distillation").predict(TRUTHS["distillation"], at | {"teacher_loss": [2.0, 2.2, 2.4, 2.6]})
    np.testing.assert_allclose(student, [2.2768, 2.3170, 2.4207, 2.6006], atol=5e-5)


def test_published_data_constrained_values_at_its_limits():
    law, p = LAWS["data_constrained"], TRUTHS["data_constrained"]
    once = {"n_params": 1e8, "n_pretrain": 2e10, "samples_seen": 2e10}
    unconstrained = {name: p[name] for name in ("E", "A", "alpha", "B", "beta")}
    # One pass over enough data is chinchilla; many passes are worth R_D more at the most.
    assert law.predict(p, once) == pytest.approx(LAWS["chinchilla"].predict(unconstrained, once), rel=1e-12)
    endless = law.predict(p, once | {"samples_seen": 1e20})
    worth = {"n_params": 1e8, "n_pretrain": 2e10 * (1 + p["R_D"])}
    assert endless == pytest.approx(LAWS["chinchilla"].predict(unconstrained, worth), rel=1e-12)


def test_a_sharp_bend_neither_overflows_nor_loses_its_gradient():
    law = LAWS["bnsl"]
    x = np.array([1.0, 10.0, 100.0, 101.0, 1e4, 1e9])
    p = {"E": 0.1, "b": 2.0, "c0": 0.1, "c1": 0.3, "d1": 100.0, "f1": 0.01}
    value, gradient = law.value_and_gradient(p, {"x": x})
    assert np.isfinite(gradient).all()
    # So sharp a bend is two straight lines, away from the break.
    expected = 0.1 + 2.0 * x**-0.1 * np.maximum(x / 100, 1.0) ** -0.3
    np.testing.assert_allclose(value[[0, 1, 4, 5]], expected[[0, 1, 4, 5]], rtol=1e-12)
    student = law_of("distillation")
    columns = {"n_params": 1e9, "n_pretrain": 2e10, "teacher_loss": np.array([1e-2, 1.0, 2.5, 10.0, 1e4])}
    value, gradient = student.value_and_gradient(TRUTHS["distillation"], columns)
    assert np.isfinite(value).all()
    assert np.isfinite(gradient).all()


@pytest.mark.parametrize("name", ["effective_data", "effective_data_shifted", "rectified_joint"])
def test_zero_pretraining_images_are_valid_in_the_laws_that_allow_it(name):
    law = LAWS[name]
    columns = {"n_pretrain": np.zeros(3), "n_finetune": np.array([10.0, 100.0, 1000.0])}
    value, gradient = law.value_and_gradient(TRUTHS[name], columns)
    np.testing.assert_allclose(value, in_numpy(name, TRUTHS[name], columns), rtol=1e-12)
    assert np.isfinite(gradient).all()
    assert np.all(gradient[:, [law.names.index("k"), law.names.index("b")]] == 0)


@every_law
def test_defined_is_false_where_a_zero_has_no_value(name):
    law = law_of(name)
    takes_zero = {
        "shifted_power_law": {"x"},
        "transfer_gap_shifted": {"n_finetune"},
        "rectified": {"n_finetune"},
        "rectified_joint": {"n_pretrain", "n_finetune"},
        "effective_data": {"n_pretrain"},
        "effective_data_shifted": {"n_pretrain", "n_finetune"},
        "effective_data_model": {"n_params"},
        "data_constrained": {"samples_seen"},
        "sparse": {"sparsity"},
        # x = 0 is where m4 starts: its ceiling.
        "m4": {"x"},
    }
    columns = sizes(law, count=4)
    assert law.defined(columns).all()
    for variable in law.variables:
        changed = columns | {variable: columns[variable] * [1.0, 0.0, -1.0, np.nan]}
        expected = [True, variable in takes_zero.get(name, ()), False, False]
        assert law.defined(changed).tolist() == expected, variable


def test_many_parameter_vectors_give_what_each_gives_alone():
    law = LAWS["chinchilla"]
    columns = sizes(law, count=64)
    # Enough to be evaluated in several blocks, the last one not full.
    theta = nearby(law, count=600).reshape(2, 300, 5)
    value, gradient = law.value_and_gradient(theta, columns)
    assert value.shape == (2, 300, 64)
    assert gradient.shape == (2, 300, 64, 5)
    for index in ((0, 0), (1, 17), (1, 299)):
        alone, slopes = law.value_and_gradient(theta[index], columns)
        np.testing.assert_allclose(value[index], alone, rtol=1e-14)
        np.testing.assert_allclose(gradient[index], slopes, rtol=1e-14)
    evaluator = law.evaluator(columns)
    np.testing.assert_array_equal(evaluator.value(theta), value)
    np.testing.assert_array_equal(np.moveaxis(evaluator.value_and_gradient(theta)[1], -2, -1), gradient)
    # Results belong to the caller: a second call leaves the first one's alone.
    first = evaluator.value(theta)
    evaluator.value(2 * theta)
    np.testing.assert_array_equal(first, value)


def test_parameters_by_name_or_in_order_single_sizes_or_many():
    law = LAWS["transfer_gap"]
    p = TRUTHS["transfer_gap"]
    single = law.predict(p, {"n_pretrain": 1e6, "n_finetune": 1000})
    assert np.shape(single) == ()
    many = law.predict([p[n] for n in law.names], {"n_pretrain": [1e6, 1e7], "n_finetune": 1000})
    assert many.shape == (2,)
    assert many[0] == single
    drawn = law.predict(p | {"E": np.array([0.2, 0.3, 0.4])}, {"n_pretrain": [1e6, 1e7], "n_finetune": 1000})
    assert drawn.shape == (3, 2)
    np.testing.assert_allclose(drawn[:, 0], single + np.array([0.0, 0.1, 0.2]), rtol=1e-14)


@pytest.mark.parametrize(
    ("theta", "columns", "named"),
    [
        ({"E": 1.0, "A": 1.0}, {"x": 1.0}, "parameter a"),
        ({"E": 1.0, "A": 1.0, "aa": 1.0}, {"x": 1.0}, "'aa'.* a\\?"),
        ([1.0, 2.0], {"x": 1.0}, "3 parameters"),
        ([1.0, 2.0, 0.5], {"n_pretrain": 1.0}, "'x'"),
        ([1.0, 2.0, 0.5], {"x": ["many"]}, "'x'"),
        ([1.0, 2.0, 0.5], {"x": np.ones((2, 2))}, "x \\(2, 2\\)"),
    ],
)
def test_the_error_names_the_argument_that_cannot_be_used(theta, columns, named):
    with pytest.raises(InputError, match=named):
        LAWS["power_law"].predict(theta, columns)
    with pytest.raises(InputError, match="n_params \\(2,\\), n_pretrain \\(3,\\)"):
        LAWS["chinchilla"].predict(TRUTHS["chinchilla"], {"n_params": [1.0, 2.0], "n_pretrain": [1.0, 2.0, 3.0]})


@every_law
def test_starts_cover_every_other_parameter_inside_its_bounds(name):
    law = law_of(name)
    columns = sizes(law)
    starts = law.starts(columns, target=np.array([0.7, 2.0]))
    assert set(starts) == set(law.names) - set(law.linear)
    for parameter in law.parameters:
        values = starts.get(parameter.name, np.array([parameter.low]))
        assert np.all((values >= parameter.low) & (values <= parameter.high) & np.isfinite(values))
        if parameter.name in starts:
            assert len(values) >= 3
            assert np.all(np.diff(values) > 0)
        if parameter.variable in columns and parameter.name in starts:
            assert values.max() == pytest.approx(columns[parameter.variable].max())
    if name == "m4":
        assert starts["L0"].min() > 2.0
        assert starts["E"].max() < 0.7


def test_distillation_needs_a_supervised_fit():
    with pytest.raises(InputError, match="supervised="):
        LAWS["distillation"].predict(TRUTHS["distillation"], sizes(LAWS["distillation"]))
    with pytest.raises(InputError, match="chinchilla_coupled"):
        LAWS["distillation"].with_supervised({"E": 1.0})
    with pytest.raises(InputError, match="supervised="):
        LAWS["distillation"].with_supervised(SUPERVISED | {"A": np.nan})
    with pytest.raises(InputError, match=r"chinchilla.*supervised="):
        LAWS["chinchilla"].with_supervised(SUPERVISED)
