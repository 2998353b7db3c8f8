"""Both arms' laws, fitted to the pairs and redrawn together."""

from dataclasses import dataclass, replace

import numpy as np

from hf_scaling.boundary.freedom import widening
from hf_scaling.boundary.pairs import Pairs
from hf_scaling.errors import InputError
from hf_scaling.fitting.bootstrap import draw
from hf_scaling.fitting.coordinates import coordinates_of
from hf_scaling.fitting.engine import Estimate, estimate
from hf_scaling.fitting.fit import scores
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
_ARMS = ("plain", "distilled")


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

    @property
    def name(self) -> str:
        """What was fitted, in words."""
        return f"{self.law.name} in each arm"

    @property
    def takes(self) -> tuple[str, ...]:
        """The other sizes that the boundary moves with."""
        return tuple(name for name in self.law.variables if name != self.along)

    @property
    def aicc(self) -> float:
        """Akaike's criterion of both arms together."""
        return sum(scores(each)["aicc"] for each in self.estimates.values())

    def log_ratio(self, x: np.ndarray, at: dict[str, float]) -> tuple[np.ndarray, np.ndarray]:
        """log(plain / distilled) of the laws (N,) and of their draws (B, N) at sizes x (N,) and the other sizes."""
        evaluator = self._evaluator(x, at)
        point = [np.log(evaluator.value(self.estimates[arm].theta[None])[0]) for arm in _ARMS]
        drawn = [np.log(evaluator.value(self.draws[arm])) for arm in _ARMS]
        ratio = point[0] - point[1]
        factor = widening([self.estimates[arm] for arm in _ARMS], [self._slopes(evaluator, arm) for arm in _ARMS])
        return ratio, ratio + factor * (drawn[0] - drawn[1] - ratio)

    def distilled(self, x: np.ndarray, at: dict[str, float]) -> np.ndarray:
        """(N,) the distilled arm's values."""
        return self._evaluator(x, at).value(self.estimates["distilled"].theta[None])[0]

    def _evaluator(self, x: np.ndarray, at: dict[str, float]):
        variables = {name: np.full(len(x), at[name]) for name in self.law.variables if name != self.along}
        return self.law.evaluator({**variables, self.along: x})

    def _slopes(self, evaluator, arm: str) -> np.ndarray:
        """(N, F) derivatives of the logarithm of the law by the fit's coordinates; zero for those on a bound."""
        found = self.estimates[arm]
        problem = replace(found.problem, evaluator=evaluator, target=np.zeros(1), root_weights=np.ones(1))
        _, jacobian = problem.residuals(found.u[None])
        return jacobian[0].T * ~found.held


@dataclass(frozen=True)
class ArmsBySize:
    """A law along n_pretrain for each measured n_params, where no joint law tells how they hang together.

    Attributes:
        n_params: (S,) the measured model sizes, ascending.
        arms: The fitted laws of each.
    """

    n_params: np.ndarray
    arms: tuple[Arms, ...]

    @property
    def name(self) -> str:
        """What was fitted, in words."""
        return f"{self.arms[0].law.name} in each arm for each of {len(self.arms)} model sizes"

    @property
    def takes(self) -> tuple[str, ...]:
        """The other sizes that the boundary moves with."""
        return ("n_params", *self.arms[0].takes)

    @property
    def aicc(self) -> float:
        """Akaike's criterion of all laws together."""
        return sum(arms.aicc for arms in self.arms)

    def log_ratio(self, x: np.ndarray, at: dict[str, float]) -> tuple[np.ndarray, np.ndarray]:
        """As `Arms.log_ratio`; between measured model sizes the logarithms are interpolated in log n_params."""
        shares, rest = self._shares(at)
        found = [(share, arms.log_ratio(x, rest)) for share, arms in shares]
        return sum(share * one[0] for share, one in found), sum(share * one[1] for share, one in found)

    def distilled(self, x: np.ndarray, at: dict[str, float]) -> np.ndarray:
        """(N,) the distilled arm's values."""
        shares, rest = self._shares(at)
        return np.exp(sum(share * np.log(arms.distilled(x, rest)) for share, arms in shares))

    def _shares(self, at: dict[str, float]) -> tuple[list[tuple[float, Arms]], dict[str, float]]:
        wanted, sizes = at["n_params"], self.n_params
        if not sizes[0] * (1 - 1e-9) <= wanted <= sizes[-1] * (1 + 1e-9):
            text = f"{sizes[0]:,.0f} to {sizes[-1]:,.0f}"
            raise InputError(f"n_params {wanted:,.0f} lies outside the measured {text}: no joint law fits these runs")
        above = int(np.clip(np.searchsorted(sizes, wanted), 1, len(sizes) - 1))
        share = np.clip(np.log(wanted / sizes[above - 1]) / np.log(sizes[above] / sizes[above - 1]), 0, 1)
        pairs = [(1 - share, self.arms[above - 1]), (share, self.arms[above])]
        rest = {name: value for name, value in at.items() if name != "n_params"}
        return [pair for pair in pairs if pair[0] > 1e-9], rest


def fit_arms(pairs: Pairs, x: dict[str, np.ndarray], x_name: str, bootstrap: int, seed: int) -> Arms | ArmsBySize:
    """Fit one law to each arm, with one paired bootstrap: a pair's two runs share their multiplier.

    Each pair is a cluster of its own, not each size: seeds differ by chance, and five to eight sizes are too few
    clusters to resample. Where n_params varies, the joint law is held against a law for each model size, and the
    better by Akaike's criterion is kept.

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
    joint = _fit(pairs, x, x_name, _law(others, x_name), bootstrap, seed)
    if "n_params" not in others:
        return joint
    by_size = _fit_by_size(pairs, x, x_name, _law(others[1:], x_name), bootstrap, seed)
    return by_size if by_size is not None and by_size.aicc < joint.aicc else joint


def _law(others: tuple[str, ...], x_name: str) -> Law:
    # FLOPs already hold n_params and n_pretrain, so no law of several sizes takes them.
    return LAWS[_LAWS[others] if x_name == "n_pretrain" else "power_law"]


def _fit_by_size(pairs, x, x_name, law: Law, bootstrap: int, seed: int) -> ArmsBySize | None:
    """A law for each model size; None where one of them has too few sizes along x to fix it."""
    sizes, arms = np.unique(pairs.n_params), []
    for number, size in enumerate(sizes):
        keep = pairs.n_params == size
        here = {arm: values[keep] for arm, values in x.items()}
        if len(np.unique(here["plain"])) <= len(law.parameters):
            return None
        # Other pairs, other multipliers.
        arms.append(_fit(pairs.where(keep), here, x_name, law, bootstrap, seed + number))
    return ArmsBySize(sizes, tuple(arms))


def _fit(pairs: Pairs, x: dict[str, np.ndarray], x_name: str, law: Law, bootstrap: int, seed: int) -> Arms:
    along = "x" if law.variables == ("x",) else "n_pretrain"
    if len(pairs) < len(law.parameters) + 1:
        needed = len(law.parameters) + 1
        raise InputError(f"{len(pairs)} pairs of runs cannot fix {law.name} in each arm: {needed} are needed at least")
    estimates, draws = {}, {}
    for arm in _ARMS:
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
