"""Both arms' laws, fitted to the pairs and redrawn together."""

from dataclasses import dataclass, replace

import numpy as np

from hf_scaling.errors import InputError
from hf_scaling.fitting.bootstrap import draw, hat, small_sample_factor, student_factor
from hf_scaling.fitting.engine import Estimate, estimate
from hf_scaling.fitting.fit import FitOptions, scores
from hf_scaling.fitting.rows import Columns, FitRows, RowFilter
from hf_scaling.fitting.solver import coordinates_of
from hf_scaling.laws import LAWS, Law


def widening(estimates: list[Estimate], gradients: list[np.ndarray]) -> np.ndarray:
    """Factor on the spread of the draws of a difference of two laws, at N sizes.

    The draws are already scaled by Student's factor for the runs that a law leaves to spare. But a curve at one size
    leans on the few runs near it, so its spread is known worse than that: by the degrees of freedom of Bell and
    McCaffrey (2002), which match the variance of the robust variance estimate to a chi-square's.

    Args:
        estimates: The two arms' fits.
        gradients: For each arm (N, F), the slopes of the logarithm of its law at the N sizes.

    Returns:
        (N,) factors, at least 1.
    """
    mean = variance = 0.0
    for fitted, gradient in zip(estimates, gradients):
        expected, square = _moments(fitted, gradient)
        mean, variance = mean + expected, variance + square
    freedom = np.maximum(mean**2 / np.maximum(variance, 1e-300), 1.0)
    given = float(np.mean([small_sample_factor(estimate) for estimate in estimates]))
    return np.maximum(student_factor(freedom) / given, 1.0)


def _moments(estimate: Estimate, gradient: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Trace of M and of M squared (N,), where the HC3 variance of each value is e' M e for unit errors e."""
    slopes = estimate.slopes()
    influence = gradient @ np.linalg.pinv(slopes.T @ slopes, rcond=1e-12, hermitian=True) @ slopes.T
    rest = np.eye(len(slopes)) - hat(slopes)
    weights = (influence / np.maximum(np.diag(rest), 0.05)) ** 2
    return weights @ np.diag(rest), np.einsum("ni,ij,nj->n", weights, rest**2, weights)


# What two runs of a pair share, where the table has it.
_SHARED = (
    "n_pretrain",
    "n_params",
    "n_finetune",
    "seed",
    "model",
    "downstream",
    "stage",
    "recipe",
    "upstream",
    "task",
    "eval_split",
)
# What must be one value over all pairs: a boundary depends on each of them.
_ONE_VALUE = ("task", "recipe", "upstream", "eval_split")
_FLOPS = ("train_flops", "teacher_flops")


@dataclass(frozen=True)
class Pairs:
    """P pairs of runs, plain and distilled, equal in everything else.

    Attributes:
        n_pretrain: (P,) unique upstream images.
        n_params: (P,) parameters, or NaN where the table has no such column.
        n_finetune: (P,) labelled images, or NaN.
        plain: (P,) the target of the plain run.
        distilled: (P,) the target of the distilled run.
        flops: Of each arm (P,), the teacher's counted and not, by name; empty where the table has none.
        n_unpaired: Rows that found no partner.
        target: The column compared.
    """

    n_pretrain: np.ndarray
    n_params: np.ndarray
    n_finetune: np.ndarray
    plain: np.ndarray
    distilled: np.ndarray
    flops: dict[str, np.ndarray]
    n_unpaired: int
    target: str

    def __len__(self) -> int:
        return len(self.n_pretrain)

    def where(self, keep: np.ndarray) -> "Pairs":
        """The pairs where `keep` holds."""
        flops = {name: values[keep] for name, values in self.flops.items()}
        sizes = (self.n_pretrain[keep], self.n_params[keep], self.n_finetune[keep])
        return Pairs(*sizes, self.plain[keep], self.distilled[keep], flops, self.n_unpaired, self.target)


def find_pairs(table, row_filter: RowFilter) -> Pairs:
    """Pair the runs of a table.

    Args:
        table: A ResultsTable, a DataFrame or a mapping of columns.
        row_filter: Its target is the column to compare. With a teacher only the distilled rows of that teacher are
            used, with a downstream set only the fine-tuned rows of that set; without one the pretrain rows are.

    Raises:
        InputError: A column is missing, an arm is, several distillation settings are mixed, or no two rows pair up.
    """
    columns, target = _chosen_rows(Columns.of(table), row_filter), row_filter.target
    arms = columns.data["arm"].astype(str)
    keys = _keys(columns)
    found = {arm: _by_key(columns, keys, arms == arm) for arm in ("plain", "distilled")}
    both = [key for key in found["plain"] if key in found["distilled"]]
    if not both:
        raise InputError(f"no plain and distilled row are equal in {', '.join(_present(columns))}: nothing to compare")
    rows = {arm: np.array([found[arm][key] for key in both]) for arm in found}
    values = columns.numbers(target)
    for arm in rows:
        for row in rows[arm]:
            if not np.isfinite(values[row]) or values[row] <= 0:
                raise InputError(f"column {target!r}, row {columns.labels[row]}: {values[row]} cannot be compared")
    return Pairs(
        *(_size(columns, name, rows["plain"]) for name in ("n_pretrain", "n_params", "n_finetune")),
        values[rows["plain"]],
        values[rows["distilled"]],
        _flops(columns, rows),
        len(columns) - 2 * len(both),
        target,
    )


def _chosen_rows(columns: Columns, row_filter: RowFilter) -> Columns:
    downstream = row_filter.downstream
    for name in ("arm", "n_pretrain", row_filter.target):
        columns.require(name)
    if downstream is not None:
        columns.require("downstream")
        columns = columns.where(columns.data["downstream"].astype(str) == downstream, f"downstream={downstream!r}")
    elif "pretrain" in columns.distinct("stage"):
        columns = columns.where(columns.data["stage"].astype(str) == "pretrain", "stage 'pretrain'")
    elif len(columns.distinct("downstream")) > 1:
        names = ", ".join(columns.distinct("downstream"))
        raise InputError(f"the rows hold more than one downstream: {names}; choose one with downstream=")
    arms = columns.data["arm"].astype(str)
    for arm in ("plain", "distilled"):
        if not (arms == arm).any():
            raise InputError(f"the table has no row with arm {arm!r}: a boundary needs both arms")
    return _one_setting(columns, row_filter.teacher)


def _one_setting(columns: Columns, teacher: str | None) -> Columns:
    """The plain rows with the distilled rows of one teacher and one distillation setting."""
    distilled = columns.data["arm"].astype(str) == "distilled"
    if teacher is not None:
        columns.require("teacher")
        keep = ~distilled | (columns.data["teacher"].astype(str) == teacher)
        columns = columns.where(keep, f"teacher={teacher!r}")
        distilled = columns.data["arm"].astype(str) == "distilled"
        if not distilled.any():
            raise InputError(f"no distilled row has teacher {teacher!r}")
    for name in _ONE_VALUE:
        values = _shared_values(columns, name, distilled)
        if len(values) > 1:
            raise InputError(f"both arms hold rows of more than one {name}: {', '.join(values)}; keep the rows of one")
    taught = columns.where(distilled, "arm 'distilled'")
    # A teacher trained on the student's own images is another run at every size; its size says which teacher it is.
    for name, way in (("distillation", "keep the rows of one"), ("teacher_n_params", "choose one with teacher=")):
        values = taught.distinct(name)
        if len(values) > 1:
            raise InputError(f"the distilled rows hold more than one {name}: {', '.join(values)}; {way}")
    return columns


def _shared_values(columns: Columns, name: str, distilled: np.ndarray) -> list[str]:
    """The values of a column that rows of both arms have: the others find no partner anyway."""
    plain = columns.where(~distilled, "arm 'plain'").distinct(name)
    taught = columns.where(distilled, "arm 'distilled'").distinct(name)
    return [value for value in taught if value in plain]


def _present(columns: Columns) -> list[str]:
    return [name for name in _SHARED if name in columns.data]


def _keys(columns: Columns) -> list[tuple]:
    names = _present(columns)
    return [tuple(str(columns.data[name][row]) for name in names) for row in range(len(columns))]


def _by_key(columns: Columns, keys: list[tuple], keep: np.ndarray) -> dict[tuple, int]:
    """Key to row for one arm; a repeated key pairs by its order of appearance."""
    found: dict[tuple, int] = {}
    for row in np.flatnonzero(keep):
        repeat = 0
        while (*keys[row], repeat) in found:
            repeat += 1
        found[(*keys[row], repeat)] = int(row)
    return found


def _size(columns: Columns, name: str, rows: np.ndarray) -> np.ndarray:
    return columns.numbers(name)[rows] if name in columns.data else np.full(len(rows), np.nan)


def _flops(columns: Columns, rows: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    if "train_flops" not in columns.data:
        return {}
    student = columns.numbers("train_flops")
    teacher = np.nan_to_num(columns.numbers("teacher_flops")) if "teacher_flops" in columns.data else 0 * student
    return {
        "plain": student[rows["plain"]],
        "distilled": student[rows["distilled"]],
        "distilled_with_teacher": (student + teacher)[rows["distilled"]],
    }


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


def fit_arms(pairs: Pairs, x: dict[str, np.ndarray], x_name: str, options: FitOptions) -> Arms | ArmsBySize:
    """Fit one law to each arm, with one paired bootstrap: a pair's two runs share their multiplier.

    Each pair is a cluster of its own, not each size: seeds differ by chance, and five to eight sizes are too few
    clusters to resample. Where n_params varies, the joint law is held against a law for each model size, and the
    better by Akaike's criterion is kept.

    Args:
        pairs: The pairs.
        x: Each arm's sizes along which the boundary is looked for.
        x_name: The column they come from.
        options: How to fit and how many draws to take.

    Raises:
        InputError: There are fewer pairs than the law has parameters.
    """
    others = tuple(name for name in ("n_params", "n_finetune") if _varies(getattr(pairs, name)))
    joint = _fit(pairs, x, x_name, _law(others, x_name), options)
    if "n_params" not in others:
        return joint
    by_size = _fit_by_size(pairs, x, x_name, _law(others[1:], x_name), options)
    return by_size if by_size is not None and by_size.aicc < joint.aicc else joint


def _law(others: tuple[str, ...], x_name: str) -> Law:
    # FLOPs already hold n_params and n_pretrain, so no law of several sizes takes them.
    return LAWS[_LAWS[others] if x_name == "n_pretrain" else "power_law"]


def _fit_by_size(pairs, x, x_name, law: Law, options: FitOptions) -> ArmsBySize | None:
    """A law for each model size; None where one of them has too few sizes along x to fix it."""
    sizes, arms = np.unique(pairs.n_params), []
    for number, size in enumerate(sizes):
        keep = pairs.n_params == size
        here = {arm: values[keep] for arm, values in x.items()}
        if len(np.unique(here["plain"])) <= len(law.parameters):
            return None
        # Other pairs, other multipliers.
        other_draws = replace(options, seed=options.seed + number)
        arms.append(_fit(pairs.where(keep), here, x_name, law, other_draws))
    return ArmsBySize(sizes, tuple(arms))


def _fit(pairs: Pairs, x: dict[str, np.ndarray], x_name: str, law: Law, options: FitOptions) -> Arms:
    along = "x" if law.variables == ("x",) else "n_pretrain"
    if len(pairs) < len(law.parameters) + 1:
        needed = len(law.parameters) + 1
        raise InputError(f"{len(pairs)} pairs of runs cannot fix {law.name} in each arm: {needed} are needed at least")
    estimates, draws = {}, {}
    for arm in _ARMS:
        variables = {name: getattr(pairs, name) for name in law.variables if name != along}
        rows = _rows(pairs, {**variables, along: x[arm]}, getattr(pairs, arm), {along: x_name})
        estimates[arm] = estimate(rows, law, coordinates_of(law), options.make_objective(), options.seed)
        drawn = draw(estimates[arm], options.bootstrap, seed=options.seed)
        draws[arm] = estimates[arm].problem.coordinates.to_theta(drawn.u)
    return Arms(law, along, estimates, draws)


def _varies(values: np.ndarray) -> bool:
    return len(np.unique(values[np.isfinite(values)])) > 1


def _rows(pairs: Pairs, variables: dict[str, np.ndarray], target: np.ndarray, columns: dict[str, str]) -> FitRows:
    number = np.arange(len(target))
    columns = {name: columns.get(name, name) for name in variables}
    return FitRows(columns, variables, pairs.target, target, None, None, number, [str(i) for i in number])
