"""Studies without noise: every law's truth on a full grid, and the sizes far beyond it."""

import numpy as np
from law_truths import SUPERVISED, TRUTHS, law_of, ranges

import hf_scaling as hs

# Points an axis: 64 sizes of one variable, 8 x 8, 6 x 6 x 6.
_POINTS = {1: 64, 2: 8, 3: 6}
# Only sizes grow tenfold: a share ends at one, and a teacher far worse than its student teaches nothing.
_NOT_SIZES = ("sparsity", "teacher_loss")


def grid(name, points=None):
    """The full grid of a law's variables, as columns of a table."""
    axes = [_axis(v, *span, points or _POINTS[len(ranges(name))]) for v, span in ranges(name).items()]
    grids = np.meshgrid(*axes, indexing="ij")
    return {("n_pretrain" if v == "x" else v): g.ravel() for v, g in zip(ranges(name), grids)}


def far(name, times=10.0):
    """One row: every size at ten times its largest, shares and teachers' losses at their smallest."""
    return {
        ("n_pretrain" if v == "x" else v): np.array([low if v in _NOT_SIZES else high * times])
        for v, (low, high) in ranges(name).items()
    }


def truth(name, columns):
    """The planted law's values at columns of a table."""
    law = law_of(name)
    return law.predict(TRUTHS[name], {v: columns["n_pretrain" if v == "x" else v] for v in law.variables})


def study(name, noise=0.0, seed=0, points=None, seeds=1):
    """A table of the planted law with log-normal noise, `seeds` rows a configuration."""
    columns = {column: np.repeat(values, seeds) for column, values in grid(name, points).items()}
    values = truth(name, columns)
    return {**columns, "loss": values * np.exp(noise * np.random.default_rng(seed).standard_normal(len(values)))}


def fit(name, table, **settings):
    """`fit_law` with what the law needs beside the table."""
    supervised = SUPERVISED if hs.LAWS[name].unbound else None
    return hs.fit_law(table, name, supervised=supervised, **{"bootstrap": 0, **settings})


def _axis(variable, low, high, points):
    return (np.linspace if variable in _NOT_SIZES else np.geomspace)(low, high, points)
