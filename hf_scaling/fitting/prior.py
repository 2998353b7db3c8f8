"""A prior of exponents from published curves, for tables that do not determine their own.

The numbers are medians of this project's fits to published measurements (docs/fitting.md names the command). Exponents
differ between sources far more than within one, so the prior is wide: it keeps an exponent that the rows do not
determine from running to its bound in the refits behind the intervals, and does little else.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from hf_scaling.errors import InputError
from hf_scaling.fitting.columns import note
from hf_scaling.fitting.estimate import Estimate
from hf_scaling.fitting.solver import Problem, minimise
from hf_scaling.laws import Law
from hf_scaling.text import listing

#: Where the numbers come from.
SOURCES = {
    "few_shot": "Alabdulmohsin et al. 2022, few-shot error of ViT, BiT and Mixer (36 curves)",
    "fine_tuning": "Lin et al. 2024, fine-tuning loss of 30 language models (60 curves)",
    "chinchilla": "Hoffmann et al. 2022, Figure 4, as read by Besiroglu et al. 2024 (240 runs)",
    "distillation": "Busbridge et al. 2025, language models without a teacher (published parameters)",
}
# Law to exponent to source to the median of its fits and the standard deviation of their logarithms.
_PUBLISHED: dict[str, dict[str, dict[str, tuple[float, float]]]] = {
    "power_law": {"a": {"few_shot": (0.57, 0.66), "fine_tuning": (0.073, 0.42)}},
    "shifted_power_law": {"a": {"few_shot": (0.90, 0.57), "fine_tuning": (0.083, 0.46)}},
    "rectified": {"beta": {"fine_tuning": (0.19, 0.5)}},
    "chinchilla": {"alpha": {"chinchilla": (0.347, 0.04)}, "beta": {"chinchilla": (0.367, 0.05)}},
    "chinchilla_coupled": {"alpha": {"distillation": (0.408, 0.05)}, "beta": {"distillation": (0.431, 0.05)}},
}
# Least standard deviation of the logarithms between sources: two of them are too few to estimate it.
_BETWEEN = 1.0
# Least relative noise of a row, where the rows are weighed against the prior.
_LEAST_NOISE = 0.01


def published_prior(law: str, without: Iterable[str] = ()) -> dict[str, tuple[float, float]]:
    """The published prior of a law's exponents: name to median and standard deviation of the logarithm.

    Args:
        law: Its name; a law without published exponents has an empty prior.
        without: Sources to leave out, keys of `SOURCES`: a judgement on curves of a source needs a prior without it.
    """
    prior = {}
    for name, sources in _PUBLISHED.get(law, {}).items():
        kept = [value for source, value in sources.items() if source not in set(without)]
        if kept:
            logs = np.log([median for median, _ in kept])
            between = max(float(np.std(logs, ddof=1)) if len(kept) > 1 else 0.0, _BETWEEN)
            within = float(np.mean([deviation**2 for _, deviation in kept]))
            prior[name] = float(np.exp(logs.mean())), float(np.sqrt(between**2 + within))
    return prior


def checked_prior(
    prior: "str | Mapping[str, tuple[float, float]] | None",
) -> "str | dict[str, tuple[float, float]] | None":
    """The prior of `fit_law`, checked.

    Raises:
        InputError: It is neither "published", None nor a mapping of exponents to (median, standard deviation of its
            logarithm), both positive.
    """
    if prior is None or (isinstance(prior, str) and prior == "published"):
        return prior
    if not isinstance(prior, Mapping):
        text = "choose 'published', None or exponents with (median, standard deviation of the logarithm)"
        raise InputError(f"prior {prior!r} is unknown: {text}")
    checked = {}
    for name, value in prior.items():
        try:
            median, deviation = map(float, value)
        except (TypeError, ValueError):
            median = deviation = np.nan
        if not (0 < median < np.inf and 0 < deviation < np.inf):
            raise InputError(
                f"prior of {name}: give a positive median and a positive standard deviation, not {value!r}"
            )
        checked[str(name)] = median, deviation
    return checked


@dataclass(frozen=True)
class PriorProblem(Problem):
    """A fit with a normal prior on the logarithms of some exponents, as further residuals.

    Attributes:
        places: (K,) the coordinates.
        medians: (K,) logarithms of the prior's medians, or (B, K) one for each member of the batch.
        pull: (K,) the noise of a row of weight 1 over the prior's standard deviation.
    """

    places: np.ndarray = field(default_factory=lambda: np.empty(0, dtype=int))
    medians: np.ndarray = field(default_factory=lambda: np.empty(0))
    pull: np.ndarray = field(default_factory=lambda: np.empty(0))

    def residuals(self, u: np.ndarray, members: np.ndarray | slice = slice(None)) -> tuple[np.ndarray, np.ndarray]:
        """The rows' residuals and derivatives, then the prior's."""
        residual, jacobian = super().residuals(u, members)
        own = u[:, self.places]
        with np.errstate(all="ignore"):
            logs = np.where(self.coordinates.is_log[self.places], own, np.log(np.maximum(own, 1e-12)))
            slopes = np.where(self.coordinates.is_log[self.places], 1.0, 1 / np.maximum(own, 1e-12))
        medians = self.medians if self.medians.ndim == 1 else self.medians[members]
        further = np.zeros((len(u), u.shape[1], len(self.places)))
        further[:, self.places, np.arange(len(self.places))] = slopes * self.pull
        return (
            np.concatenate([residual, (logs - medians) * self.pull], axis=1),
            np.concatenate([jacobian, further], axis=2),
        )

    def drawn(self, generator: np.random.Generator, count: int) -> "PriorProblem":
        """The problem with medians drawn from the prior, a set for each of `count` members: refits then spread as the
        posterior does."""
        noise = generator.standard_normal((count, len(self.places)))
        return replace(self, medians=self.medians + noise * self.deviations)

    @property
    def deviations(self) -> np.ndarray:
        """(K,) the prior's standard deviations, on the scale of logarithms."""
        deviations: np.ndarray = self.noise / self.pull
        return deviations

    noise: float = 1.0


def with_prior(estimate: Estimate, prior: "str | Mapping[str, tuple[float, float]]") -> tuple[Estimate, list[dict]]:
    """The estimate with a prior on its exponents, and the note `prior`; unchanged where the prior has none of them.

    The published prior does not move the solution; only refits use it. Judged on the curves of a source by a prior
    without it, the published exponents made predictions worse and intervals better.
    """
    law, problem, coordinates = estimate.law, estimate.problem, estimate.problem.coordinates
    named = published_prior(law.name) if isinstance(prior, str) else prior
    named = {name: value for name, value in named.items() if name in coordinates.names}
    if not named or not problem.objective.is_log:
        return estimate, []
    noise = max(estimate.scale, _LEAST_NOISE)
    further = PriorProblem(
        **{name: getattr(problem, name) for name in Problem.__dataclass_fields__},
        places=np.array([coordinates.names.index(name) for name in named]),
        medians=np.log([median for median, _ in named.values()]),
        pull=noise / np.array([deviation for _, deviation in named.values()]),
        noise=noise,
    )
    listed = listing(
        [f"{name} near {median:.3g}, within a factor of {np.exp(d):.2g}" for name, (median, d) in named.items()]
    )
    if isinstance(prior, str):
        text = f"these runs do not determine all exponents; intervals use the prior of published curves: {listed}"
        return replace(estimate, problem=further), [note("prior", "info", f"{text}; prior=None leaves it out")]
    starts = [estimate.u, *([] if estimate.other_mode is None else [estimate.other_mode])]
    middle = estimate.u.copy()
    middle[further.places] = np.exp(further.medians)
    starts.append(np.clip(middle, coordinates.low, coordinates.high))
    solved = minimise(further, np.stack(starts), iterations=200, tolerance=1e-12)
    best = int(np.argmin(solved.cost))
    text = f"these runs do not determine all exponents; the prior is used: {listed}"
    return replace(
        estimate,
        problem=further,
        u=solved.u[best],
        cost=float(solved.cost[best]),
        converged=bool(solved.converged[best]),
    ), [note("prior", "info", text)]


def check_names(prior: object, law: Law) -> None:
    """Raise InputError where a given prior names something that is not an exponent of the law."""
    if not isinstance(prior, Mapping):
        return
    exponents = [p.name for p in law.parameters if p.kind == "exponent"]
    for name in prior:
        if name not in exponents:
            raise InputError(f"prior: {name!r} is not an exponent of {law.name}: choose {', '.join(exponents)}")
