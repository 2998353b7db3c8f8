"""Both arms' laws, fitted to the pairs and redrawn together."""

from dataclasses import dataclass

import numpy as np

from hf_scaling.boundary.pairs import Pairs
from hf_scaling.errors import InputError
from hf_scaling.fitting.bootstrap import draw
from hf_scaling.fitting.coordinates import coordinates_of
from hf_scaling.fitting.engine import Estimate, estimate
from hf_scaling.fitting.objectives import make_objective
from hf_scaling.fitting.rows import FitRows
from hf_scaling.laws import LAWS, Law

# The law of each arm, by the sizes that the pairs vary beside n_pretrain.
_LAWS = {
    (): "power_law",
    ("n_params",): "chinchilla",
    ("n_finetune",): "transfer_gap",
    ("n_params", "n_finetune"): "transfer_gap_joint",
}


@dataclass(frozen=True)
class Arms:
    """The fitted laws of both arms with their shared bootstrap draws.

    Attributes:
        law: The law fitted to each arm.
        along: The law's variable that the boundary is looked for along.
        estimates: plain and distilled.
        draws: plain and distilled parameters (B, P); draw b of both used the same multipliers for the same pair.
    """

    law: Law
    along: str
    estimates: dict[str, Estimate]
    draws: dict[str, np.ndarray]

    def log_ratio(self, x: np.ndarray, at: dict[str, float]) -> tuple[np.ndarray, np.ndarray]:
        """log(plain / distilled) of the laws (N,) and of their draws (B, N) at sizes x (N,) and the other sizes."""
        variables = {name: np.full(len(x), at[name]) for name in self.law.variables if name != self.along}
        evaluator = self.law.evaluator({**variables, self.along: x})
        point = [np.log(evaluator.value(self.estimates[arm].theta[None])[0]) for arm in ("plain", "distilled")]
        drawn = [np.log(evaluator.value(self.draws[arm])) for arm in ("plain", "distilled")]
        return point[0] - point[1], drawn[0] - drawn[1]

    def distilled(self, x: np.ndarray, at: dict[str, float]) -> np.ndarray:
        """(N,) the distilled arm's values."""
        variables = {name: np.full(len(x), at[name]) for name in self.law.variables if name != self.along}
        evaluator = self.law.evaluator({**variables, self.along: x})
        return evaluator.value(self.estimates["distilled"].theta[None])[0]


def fit_arms(pairs: Pairs, x: dict[str, np.ndarray], x_name: str, bootstrap: int, seed: int) -> Arms:
    """Fit one law to each arm, with one paired bootstrap: a pair's two runs share their multiplier.

    Each pair is a cluster of its own, not each size: seeds differ by chance, and five to eight sizes are too few
    clusters to resample.

    Args:
        pairs: The pairs.
        x: Each arm's sizes along which the boundary is looked for.
        x_name: The column they come from.
        bootstrap: How many draws.
        seed: Of the draws.

    Raises:
        InputError: There are fewer pairs than the law has parameters.
    """
    others = tuple(name for name in ("n_params", "n_finetune") if _varies(getattr(pairs, name)))
    law = LAWS[_LAWS[others] if x_name == "n_pretrain" else "power_law"]
    along = "x" if law.variables == ("x",) else "n_pretrain"
    if len(pairs) < len(law.parameters) + 1:
        needed = len(law.parameters) + 1
        raise InputError(f"{len(pairs)} pairs of runs cannot fix {law.name} in each arm: {needed} are needed at least")
    estimates, draws = {}, {}
    for arm in ("plain", "distilled"):
        variables = {name: getattr(pairs, name) for name in law.variables if name != along}
        rows = _rows(pairs, {**variables, along: x[arm]}, getattr(pairs, arm), {along: x_name})
        estimates[arm] = estimate(rows, law, coordinates_of(law), make_objective("log_huber", None), seed)
        drawn = draw(estimates[arm], bootstrap, seed=seed)
        draws[arm] = estimates[arm].problem.coordinates.to_theta(drawn.u)
    return Arms(law, along, estimates, draws)


def _varies(values: np.ndarray) -> bool:
    return len(np.unique(values[np.isfinite(values)])) > 1


def _rows(pairs: Pairs, variables: dict[str, np.ndarray], target: np.ndarray, columns: dict[str, str]) -> FitRows:
    number = np.arange(len(target))
    columns = {name: columns.get(name, name) for name in variables}
    return FitRows(columns, variables, pairs.target, target, None, None, number, [str(i) for i in number])
