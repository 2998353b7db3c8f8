"""For every law: parameters of a plausible study, sizes it could have measured, and the formula in plain numpy."""

import numpy as np

from hf_scaling.laws import LAWS

SUPERVISED = {"E": 1.220, "A": 3355.0, "alpha": 0.408, "B": 18186.0, "beta": 0.431, "gamma": 0.452}

TRUTHS = {
    "power_law": {"E": 0.1, "A": 2.0, "a": 0.35},
    "shifted_power_law": {"E": 0.1, "A": 9.0, "a": 0.4, "x0": 700.0},
    "m4": {"E": 0.08, "L0": 0.9, "a": 0.7, "b": 30.0, "c": 0.6},
    "bnsl": {"E": 0.05, "b": 1.2, "c0": 0.08, "c1": 0.4, "d1": 4e3, "f1": 0.3},
    "chinchilla": {"E": 1.8172, "A": 482.01, "B": 2085.43, "alpha": 0.3478, "beta": 0.3658},
    "chinchilla_coupled": SUPERVISED,
    "joint_additive": {"E": 0.3, "A": 20.0, "alpha": 0.3, "B": 15.0, "beta": 0.35, "C": 6.0, "gamma": 0.45},
    "joint_multiplicative": {"E": 0.3, "A": 300.0, "alpha": 0.25, "beta": 0.15},
    "joint_multiplicative_data": {"E": 0.3, "A": 50.0, "alpha": 0.2, "beta": 0.15},
    "joint_multiplicative_full": {"E": 0.3, "A": 900.0, "alpha": 0.2, "gamma": 0.15, "beta": 0.1},
    "transfer_gap": {"A": 30.0, "alpha": 0.3, "G": 1.5, "beta": 0.25, "E": 0.2},
    "transfer_gap_shifted": {"A": 30.0, "alpha": 0.3, "G": 1.5, "D0": 150.0, "beta": 0.25, "E": 0.2},
    "transfer_gap_joint": {"A": 30.0, "alpha": 0.3, "G": 1.5, "H": 60.0, "delta": 0.25, "beta": 0.2, "E": 0.2},
    "rectified": {"B": 900.0, "Dl": 300.0, "beta": 0.8, "E": 0.4},
    "rectified_joint": {"B": 900.0, "D0": 100.0, "k": 2.0, "b": 0.35, "beta": 0.8, "E": 0.4},
    "effective_data": {"k": 3.0, "a": 0.3, "b": 0.4, "B": 8.0, "beta": 0.3, "E": 0.2},
    "effective_data_shifted": {"k": 3.0, "a": 0.3, "b": 0.4, "D0": 200.0, "B": 8.0, "beta": 0.3, "E": 0.2},
    "effective_data_model": {"k": 1.9e4, "a": 0.18, "b": 0.38, "B": 40.0, "beta": 0.2, "E": 0.2},
    "distillation": {
        **{"A": 2243.0, "alpha": 0.321, "B": 24181.0, "beta": 0.637, "gamma": 0.764},
        **{"c0": 2.549, "c1": 522.6, "d1": 1.315, "f1": 0.090},
    },
    "data_constrained": {
        **{"E": 1.87, "A": 521.0, "alpha": 0.353, "B": 1488.0, "beta": 0.353},
        **{"R_D": 15.387756, "R_N": 5.309743},
    },
    "sparse": {"a_S": 16.8, "b_S": 0.722, "c_S": 45.0, "b_N": 0.245, "a_D": 6.9e8, "b_D": 0.203, "c": 0.651},
    "downstream_log": {"A": 0.05, "alpha": 0.9, "beta": 0.6},
}

_RANGES = {
    "n_params": (3e6, 4e9),
    "n_pretrain": (1e6, 2e10),
    "n_finetune": (50, 1e5),
    "x": (100, 1e6),
    "samples_seen": (1e8, 3e11),
    "teacher_loss": (1.8, 3.0),
    "sparsity": (0.05, 0.9),
}
# Where a law's own term would be lost over the ranges above: n_finetune in characters, as its paper counts.
_OWN_RANGES = {"effective_data_model": {"n_params": (1e5, 1e9), "n_finetune": (1e5, 1e10)}}


def ranges(name):
    """Variable to its (low, high), of a study that could fix the law."""
    return {v: _OWN_RANGES.get(name, {}).get(v, _RANGES[v]) for v in LAWS[name].variables}


def law_of(name):
    """The law, its supervised part bound where it has one."""
    law = LAWS[name]
    return law.with_supervised(SUPERVISED) if law.unbound else law


def sizes(law, count=12, seed=0):
    """Independent sizes over the range of each variable."""
    generator = np.random.default_rng(seed)
    return {name: np.exp(generator.uniform(*np.log(_RANGES[name]), count)) for name in law.variables}


def in_numpy(name, p, v):
    """The formula written out once more, by hand, for everything but m4."""
    M, Dp, Df, x = (v.get(n) for n in ("n_params", "n_pretrain", "n_finetune", "x"))
    return {
        "power_law": lambda E, A, a: E + A * x**-a,
        "shifted_power_law": lambda E, A, a, x0: E + A * (x + x0) ** -a,
        "bnsl": lambda E, b, c0, c1, d1, f1: E + b * x**-c0 * (1 + (x / d1) ** (1 / f1)) ** (-c1 * f1),
        "chinchilla": lambda E, A, alpha, B, beta: E + A / M**alpha + B / Dp**beta,
        "chinchilla_coupled": lambda E, A, alpha, B, beta, gamma: E + (A / M**alpha + B / Dp**beta) ** gamma,
        "joint_additive": lambda E, A, alpha, B, beta, C, gamma: E + A / M**alpha + B / Dp**beta + C / Df**gamma,
        "joint_multiplicative": lambda E, A, alpha, beta: E + A / M**alpha / Df**beta,
        "joint_multiplicative_data": lambda E, A, alpha, beta: E + A / Dp**alpha / Df**beta,
        "joint_multiplicative_full": lambda E, A, alpha, gamma, beta: E + A / M**alpha / Dp**gamma / Df**beta,
        "transfer_gap": lambda A, alpha, G, beta, E: (A / Dp**alpha + G) / Df**beta + E,
        "transfer_gap_shifted": lambda A, alpha, G, D0, beta, E: (A / Dp**alpha + G) / (Df + D0) ** beta + E,
        "transfer_gap_joint": lambda A, alpha, G, H, delta, beta, E: (A / Dp**alpha + G + H / M**delta) / Df**beta + E,
        "rectified": lambda B, Dl, beta, E: B / (Dl + Df**beta) + E,
        "rectified_joint": lambda B, D0, k, b, beta, E: B / (D0 + k * Dp**b + Df**beta) + E,
        "effective_data": lambda k, a, b, B, beta, E: B / (Df + k * Df**a * Dp**b) ** beta + E,
        "effective_data_shifted": lambda k, a, b, D0, B, beta, E: B / (Df + D0 + k * Df**a * Dp**b) ** beta + E,
        "effective_data_model": lambda k, a, b, B, beta, E: B / (Df + k * Df**a * M**b) ** beta + E,
        "distillation": lambda **q: _distillation(M, Dp, v["teacher_loss"], **q),
        "data_constrained": lambda **q: _data_constrained(M, Dp, v["samples_seen"], **q),
        "sparse": lambda a_S, b_S, c_S, b_N, a_D, b_D, c: (
            (a_S * (1 - v["sparsity"]) ** b_S + c_S) / M**b_N + (a_D / Dp) ** b_D + c
        ),
        "downstream_log": lambda A, alpha, beta: np.log(A * Dp**alpha) ** beta,
    }[name](**p)


def _distillation(M, Dp, T, A, alpha, B, beta, gamma, c0, c1, d1, f1):
    S = in_numpy("chinchilla_coupled", SUPERVISED, {"n_params": M, "n_pretrain": Dp})
    bend = (1 + (T / (S * d1)) ** (1 / f1)) ** (-c1 * f1)
    return T + T**-c0 * bend * (A / M**alpha + B / Dp**beta) ** gamma


def _data_constrained(M, U, D, E, A, alpha, B, beta, R_D, R_N):
    G = (alpha * A / (beta * B)) ** (1 / (alpha + beta))
    U_N = np.minimum(M, G * (U * G) ** (beta / alpha))
    seen = U + U * R_D * (1 - np.exp(-np.maximum(D / U - 1, 0) / R_D))
    used = U_N + U_N * R_N * (1 - np.exp(-(M / U_N - 1) / R_N))
    return E + A / used**alpha + B / seen**beta
