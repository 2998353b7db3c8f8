"""The allocation of a budget that a law predicts to be best.

Every candidate spends the whole budget. For one model size the candidates are a line: a share of the budget goes to
pre-training and buys the most images that it can, the rest goes to labels. The line is scanned in the logit of the
share, so that shares of a millionth are seen as well as halves, and the scan is repeated around the best point found,
finer each time. Where every model size may be chosen, the sizes are scanned and refined in the same way around it.
Nothing is random and nothing needs derivatives, so steps in a training rule and kinks in a law do no harm.
"""

import numpy as np

from hf_scaling.planning.problem import Problem

# The logit of the share that goes to pre-training: from a hundred-millionth to all but that.
_LARGEST_LOGIT = 18.0
_SCAN, _FINER, _ROUNDS = 49, 9, 6
_MODELS, _FINER_MODELS, _MODEL_ROUNDS = 31, 7, 7
# Halvings of the logarithm of a size until it is known to ten digits.
_HALVINGS = 40


def solve(problem: Problem, budget: float) -> dict[str, float] | None:
    """The best sizes for a budget: n_params, n_pretrain, n_finetune (NaN where unknown); None where it buys no run."""
    if not problem.any_n_params:
        return _best(problem, *_profile(problem, budget, problem.n_params))
    centre, reach = np.log(problem.n_params).mean(), np.ptp(np.log(problem.n_params)) / 2
    best, count = None, _MODELS
    for _ in range(1 + _MODEL_ROUNDS):
        inside = np.clip(centre + reach * np.linspace(-1, 1, count), *np.log(problem.n_params))
        found = _best(problem, *_profile(problem, budget, np.exp(inside)), best)
        if found is None:
            return None
        best, centre = found, np.log(found["n_params"])
        reach, count = 3 * reach / (count - 1), _FINER_MODELS
    return best


def candidates(problem: Problem, budget: float, n_params: np.ndarray, logits: np.ndarray) -> dict[str, np.ndarray]:
    """Sizes that spend the budget, for model sizes (K,) and logits of the share for pre-training (J,).

    Returns:
        n_params, n_pretrain, n_finetune, each (K * J,), and (K,) more without any pre-training where the law is
        defined there; NaN where the budget does not reach so far.
    """
    line = _line(problem, budget, n_params, np.broadcast_to(logits, (len(n_params), len(logits))))
    if not problem.zero:
        return line
    none = _without_pretraining(problem, budget, n_params)
    return {name: np.concatenate([line[name], none[name]]) for name in line}


def _line(problem: Problem, budget: float, n_params: np.ndarray, logits: np.ndarray) -> dict[str, np.ndarray]:
    """Sizes (K * J,) for model sizes (K,) and their own logits (K, J)."""
    models = np.repeat(n_params, logits.shape[1])
    upstream, labelled = (np.full(len(models), problem.ends[name][0]) for name in ("n_pretrain", "n_finetune"))
    if problem.bought == ("n_pretrain",):
        return spend_the_rest(problem, budget, models, labelled)
    if "n_pretrain" in problem.bought:
        upstream = _most(problem, "n_pretrain", models, budget / (1 + np.exp(-logits.ravel())))
    if "n_finetune" in problem.bought:
        labelled = _most(problem, "n_finetune", models, budget - _paid(problem, "n_pretrain", models, upstream))
    return _affordable(problem, budget, {"n_params": models, "n_pretrain": upstream, "n_finetune": labelled})


def _without_pretraining(problem: Problem, budget: float, n_params: np.ndarray) -> dict[str, np.ndarray]:
    """Sizes (K,) with the whole budget spent on fine-tuning."""
    labelled = np.full(len(n_params), problem.ends["n_finetune"][0])
    if "n_finetune" in problem.bought:
        labelled = _most(problem, "n_finetune", n_params, budget)
    sizes = {"n_params": n_params, "n_pretrain": np.zeros(len(n_params)), "n_finetune": labelled}
    return _affordable(problem, budget, sizes)


def spend_the_rest(problem: Problem, budget: float, models: np.ndarray, labelled: np.ndarray) -> dict[str, np.ndarray]:
    """Sizes (N,) with n_finetune given and the rest spent on pre-training; all NaN where the budget is too small."""
    upstream = _most(problem, "n_pretrain", models, budget - _paid(problem, "n_finetune", models, labelled))
    return _affordable(problem, budget, {"n_params": models, "n_pretrain": upstream, "n_finetune": labelled})


def _affordable(problem: Problem, budget: float, sizes: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The candidates, all NaN where they cost more than the budget or lack a size that it buys."""
    lost = problem.costs.total(sizes) > budget * (1 + 1e-9)
    for name in problem.bought:
        lost |= np.isnan(sizes[name])
    return {name: np.where(lost, np.nan, values) for name, values in sizes.items()}


def _paid(problem: Problem, name: str, models: np.ndarray, size: np.ndarray) -> np.ndarray:
    """What one stage costs at sizes (N,); a size that is not known is not paid for."""
    return np.where(np.isnan(size), 0.0, problem.costs.stage(name, models)(np.nan_to_num(size)))


def _most(problem: Problem, name: str, models: np.ndarray, budget) -> np.ndarray:
    """The most of one size (N,) that a budget (N,) pays for; NaN where not even the least."""
    price, ends = problem.costs.stage(name, models), problem.ends[name]
    below, above = (np.full(len(models), np.log(end)) for end in ends)
    reached, everything = (price(np.full(len(models), end)) <= budget * (1 + 1e-12) for end in ends)
    for _ in range(_HALVINGS):
        middle = (below + above) / 2
        pays = price(np.exp(middle)) <= budget
        below, above = np.where(pays, middle, below), np.where(pays, above, middle)
    return np.where(reached, np.where(everything, ends[1], np.exp(below)), np.nan)


def _profile(problem: Problem, budget: float, n_params: np.ndarray) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """The best sizes of each model size and what is predicted there, each (K,)."""
    rounds, count = (1 + _ROUNDS, _SCAN) if len(problem.bought) > 1 else (1, 1)
    centre, reach, rows = np.zeros(len(n_params)), _LARGEST_LOGIT, np.arange(len(n_params))
    for _ in range(rounds):
        logits = centre[:, None] + reach * np.linspace(-1, 1, count)
        sizes = _line(problem, budget, n_params, np.clip(logits, -2 * _LARGEST_LOGIT, 2 * _LARGEST_LOGIT))
        values = problem.predict(sizes).reshape(logits.shape)
        place = values.argmin(axis=1)
        centre, reach, count = logits[rows, place], 3 * reach / max(count - 1, 1), _FINER
    values = values[rows, place]
    sizes = {name: column.reshape(logits.shape)[rows, place] for name, column in sizes.items()}
    if not problem.zero:
        return sizes, values
    none = _without_pretraining(problem, budget, n_params)
    better = problem.predict(none) < values
    return {n: np.where(better, none[n], sizes[n]) for n in sizes}, np.where(better, problem.predict(none), values)


def _best(problem: Problem, sizes: dict[str, np.ndarray], values: np.ndarray, before=None) -> dict[str, float] | None:
    """The best of several candidates, or what was the best before where none is better."""
    place = int(np.argmin(values))
    if not np.isfinite(values[place]):
        return before
    found = {name: float(column[place]) for name, column in sizes.items()}
    if before is None:
        return found
    earlier = problem.predict({name: np.array([value]) for name, value in before.items()})[0]
    return before if earlier <= values[place] else found
