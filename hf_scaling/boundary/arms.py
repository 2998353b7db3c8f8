"""Both arms' runs in pairs, and their laws, fitted to the pairs and redrawn together."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from hf_scaling.errors import InputError
from hf_scaling.fitting.bootstrap import draw, hat_basis, small_sample_factor, student_factor
from hf_scaling.fitting.estimate import Estimate, estimate
from hf_scaling.fitting.fit import FitOptions, scores
from hf_scaling.fitting.rows import CLUSTER, Columns, FitRows, RowFilter, name_clusters, scale_of
from hf_scaling.fitting.solver import coordinates_of
from hf_scaling.fitting.target import AS_IT_IS, TargetScale
from hf_scaling.laws import LAWS, Evaluator, Law
from hf_scaling.results.foreign import missing_arms
from hf_scaling.text import format_span, format_whole

if TYPE_CHECKING:
    from hf_scaling.fitting.rows import Table

ARMS = ("plain", "distilled")
# Columns in which the two runs of a pair agree, where the table has them.
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
# Columns that must hold one value over all pairs: a boundary depends on each of them.
_ONE_VALUE = ("task", "recipe", "upstream", "eval_split")
# Columns that must hold one value over the distilled rows, and how to select one. A teacher trained on the student's
# own images is a different run at every size; its own size identifies it.
_ONE_SETTING = {"distillation": "filter the table by distillation", "teacher_n_params": "choose one with teacher="}
# Added to the seed of the second arm's draws where pairs are clustered.
_OTHER_ARM = 1_000_003
# The law of each arm, by the sizes that the pairs vary beside n_pretrain.
_LAWS = {
    (): "power_law",
    ("n_params",): "chinchilla",
    ("n_finetune",): "transfer_gap",
    ("n_params", "n_finetune"): "transfer_gap_joint",
}


@dataclass(frozen=True)
class Pairs:
    """P pairs of runs, plain and distilled, equal in everything else.

    Attributes:
        n_pretrain: (P,) unique upstream images.
        n_params: (P,) parameters, or NaN where the table has no such column.
        n_finetune: (P,) labelled images, or NaN.
        plain: (P,) the target of the plain run.
        distilled: (P,) the target of the distilled run.
        flops: FLOPs of each arm (P,), `distilled_with_teacher` with the teacher's; empty where the table has none.
        n_unpaired: Number of rows without a partner.
        target: The column compared.
        notes: Findings about the rows.
        scale: How its values are fitted; `plain` and `distilled` are what is fitted, where less is better.
        cluster: (P,) a number for each set of pairs whose runs share their luck, such as those fine-tuned from one
            checkpoint; None where every pair is one of its own.
    """

    n_pretrain: np.ndarray
    n_params: np.ndarray
    n_finetune: np.ndarray
    plain: np.ndarray
    distilled: np.ndarray
    flops: dict[str, np.ndarray]
    n_unpaired: int
    target: str
    scale: TargetScale = AS_IT_IS
    notes: list[dict] = field(default_factory=list)
    cluster: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.n_pretrain)

    def where(self, keep: np.ndarray) -> "Pairs":
        """The pairs where `keep` (P,) is true."""
        names = ("n_pretrain", "n_params", "n_finetune", "plain", "distilled")
        flops = {name: values[keep] for name, values in self.flops.items()}
        cluster = None if self.cluster is None else _numbered(self.cluster[keep])
        return replace(self, **{name: getattr(self, name)[keep] for name in names}, flops=flops, cluster=cluster)


def _numbered(clusters: np.ndarray) -> np.ndarray | None:
    """The clusters (P,) as numbers from 0; None where every pair is one of its own, or all are of one."""
    number = np.unique(clusters, return_inverse=True)[1].reshape(-1)
    return number if 1 < number.max() + 1 < len(number) else None


def find_pairs(table: "Table", row_filter: RowFilter) -> Pairs:
    """Pair the runs of a table.

    Args:
        table: A ResultsTable, a DataFrame or a mapping of columns.
        row_filter: Its target is the column to compare. With a teacher only the distilled rows of that teacher are
            used, with a downstream set only the fine-tuned rows of that set; without one the pretrain rows are.

    Raises:
        InputError: A column or an arm is missing, a column that must hold one value holds several, no two rows pair
            up, or a value cannot be compared.
    """
    target = row_filter.target
    columns = _comparable_rows(name_clusters(Columns.of(table), row_filter.cluster), row_filter)
    shared = [name for name in _SHARED if name in columns.data]
    texts = [[str(value) for value in columns.data[name]] for name in shared]
    # Key to row for each arm; repeats of a key pair up in their order of appearance.
    places: dict[str, dict[tuple, int]] = {arm: {} for arm in ARMS}
    arms = columns.data["arm"].astype(str)
    for row, key in enumerate(zip(*texts)):
        of_arm, repeat = places.get(arms[row], {}), 0
        while (*key, repeat) in of_arm:
            repeat += 1
        of_arm[(*key, repeat)] = row
    both = [key for key in places["plain"] if key in places["distilled"]]
    if not both:
        raise InputError(f"no plain and distilled row are equal in {', '.join(shared)}: nothing to compare")
    plain, distilled = (np.array([places[arm][key] for key in both]) for arm in ARMS)
    values = columns.numbers(target)
    columns.finite(target)
    scale = scale_of(columns, row_filter)
    fitted = scale.to_fitted(values)
    for row in (*plain, *distilled):
        if not np.isfinite(fitted[row]) or fitted[row] <= 0:
            reason = "; a score that rises is compared where it is a rate (set bounds=)" if scale.rises else ""
            raise InputError(f"column {target!r}, row {columns.labels[row]}: {values[row]} cannot be compared{reason}")
    sizes = {
        name: columns.numbers(name)[plain] if name in columns.data else np.full(len(both), np.nan)
        for name in ("n_pretrain", "n_params", "n_finetune")
    }
    flops = {}
    if "train_flops" in columns.data:
        student = columns.numbers("train_flops")
        teacher = np.nan_to_num(columns.numbers("teacher_flops")) if "teacher_flops" in columns.data else 0 * student
        flops = {
            "plain": student[plain],
            "distilled": student[distilled],
            "distilled_with_teacher": (student + teacher)[distilled],
        }
    n_unpaired = len(columns) - 2 * len(both)
    return Pairs(
        **sizes,
        plain=fitted[plain],
        distilled=fitted[distilled],
        flops=flops,
        n_unpaired=n_unpaired,
        target=target,
        scale=scale,
        notes=columns.notes,
        cluster=None
        if CLUSTER not in columns.data
        else _numbered(
            np.array([f"{columns.data[CLUSTER][a]} {columns.data[CLUSTER][b]}" for a, b in zip(plain, distilled)])
        ),
    )


def _comparable_rows(columns: Columns, row_filter: RowFilter) -> Columns:
    """The rows of one stage and downstream set, the distilled ones of one teacher and one distillation setting."""
    if "arm" not in columns.data:
        raise missing_arms(columns.data, others=["n_pretrain"], target=row_filter.target)
    columns.require("n_pretrain", target=row_filter.target)
    if row_filter.downstream is not None:
        columns = columns.where_equal("downstream", row_filter.downstream)
    elif "pretrain" in columns.distinct("stage"):
        columns = columns.where_equal("stage", "pretrain")
    elif len(columns.distinct("downstream")) > 1:
        names = ", ".join(columns.distinct("downstream"))
        raise InputError(f"the rows hold more than one downstream: {names}; choose one with downstream=")
    for arm in ARMS:
        if not (columns.data["arm"].astype(str) == arm).any():
            raise missing_arms(columns.data, arm)
    if row_filter.teacher is not None:
        columns.require("teacher")
        is_other = (columns.data["arm"].astype(str) == "distilled") & (
            columns.data["teacher"].astype(str) != row_filter.teacher
        )
        columns = columns.where(~is_other, f"teacher={row_filter.teacher!r}")
        if not (columns.data["arm"].astype(str) == "distilled").any():
            raise InputError(f"no distilled row has teacher {row_filter.teacher!r}")
    is_distilled = columns.data["arm"].astype(str) == "distilled"
    plain, distilled = columns.where(~is_distilled, "arm='plain'"), columns.where(is_distilled, "arm='distilled'")
    for name in _ONE_VALUE:
        # Rows with a value that only one arm has find no partner anyway.
        values = [value for value in distilled.distinct(name) if value in plain.distinct(name)]
        if len(values) > 1:
            names = ", ".join(values)
            raise InputError(f"both arms hold rows of more than one {name}: {names}; filter the table by {name}")
    for name, remedy in _ONE_SETTING.items():
        values = distilled.distinct(name)
        if len(values) > 1:
            raise InputError(f"the distilled rows hold more than one {name}: {', '.join(values)}; {remedy}")
    return columns.without_doubles()


@dataclass(frozen=True)
class Arms:
    """The fitted laws of both arms with their shared bootstrap draws.

    Attributes:
        law: The law fitted to each arm.
        along: The law's variable along which the boundary is searched.
        estimates: plain and distilled.
        draws: plain and distilled parameters (B, P); draw b of both used the same multipliers for the same pair.
    """

    law: Law
    along: str
    estimates: dict[str, Estimate]
    draws: dict[str, np.ndarray]

    @property
    def description(self) -> str:
        """What was fitted, as part of a sentence."""
        return f"{self.law.name} in each arm"

    @property
    def sizes(self) -> tuple[str, ...]:
        """The other sizes on which the boundary depends."""
        return tuple(name for name in self.law.variables if name != self.along)

    @property
    def aicc(self) -> float:
        """Akaike's criterion of both arms together."""
        return sum(scores(fitted)["aicc"] for fitted in self.estimates.values())

    def log_ratio(self, x: np.ndarray, at: dict[str, float]) -> tuple[np.ndarray, np.ndarray]:
        """log(plain / distilled) of the laws (N,) and of their draws (B, N) at sizes x (N,) and the other sizes."""
        evaluator = self._evaluator(x, at)
        point = [np.log(evaluator.value(self.estimates[arm].theta[None])[0]) for arm in ARMS]
        drawn = [np.log(evaluator.value(self.draws[arm])) for arm in ARMS]
        ratio = point[0] - point[1]
        factor = widening([self.estimates[arm] for arm in ARMS], evaluator)
        return ratio, ratio + factor * (drawn[0] - drawn[1] - ratio)

    def distilled(self, x: np.ndarray, at: dict[str, float]) -> np.ndarray:
        """(N,) the distilled arm's values."""
        return self._evaluator(x, at).value(self.estimates["distilled"].theta[None])[0]

    def _evaluator(self, x: np.ndarray, at: dict[str, float]) -> Evaluator:
        return self.law.evaluator({**{name: np.full(len(x), at[name]) for name in self.sizes}, self.along: x})


def widening(estimates: Sequence[Estimate], evaluator: Evaluator) -> np.ndarray:
    """Factor on the spread of the draws of a difference of two laws, at N sizes.

    The draws are already scaled by Student's factor for the runs beyond a law's parameters. But a curve at one size
    depends on the few runs near it, so its spread is known less well: with the degrees of freedom of Bell and
    McCaffrey (2002), which match the variance of the robust variance estimate to a chi-square's.

    Args:
        estimates: The two arms' fits.
        evaluator: Their law at the N sizes.

    Returns:
        (N,) factors, at least 1.
    """
    if any(fitted.rows.cluster is not None for fitted in estimates):
        # Draws with the luck of clusters have their own degrees of freedom.
        return np.ones(1)
    mean = variance = np.zeros(1)
    for fitted in estimates:
        # (N, F) derivatives of the logarithm of the law by the fit's coordinates; zero for those on a bound.
        problem = replace(fitted.problem, evaluator=evaluator, target=np.zeros(1), root_weights=np.ones(1))
        gradient = problem.residuals(fitted.u[None])[1][0].T * ~fitted.held
        # The HC3 variance of each value is e' M e for unit errors e: add trace M and trace M squared.
        slopes = fitted.slopes()
        influence = gradient @ np.linalg.pinv(slopes.T @ slopes, rcond=1e-12, hermitian=True) @ slopes.T
        basis = hat_basis(slopes)
        rest = 1 - (basis**2).sum(axis=1)
        weights = (influence / np.maximum(rest, 0.05)) ** 2
        mean = mean + weights @ rest
        # w' (R * R) w with R = I - QQ', without a matrix of rows by rows.
        shared = np.einsum("ik,ni,il->nkl", basis, weights, basis, optimize=True)
        variance = variance + weights**2 @ (2 * rest - 1) + (shared**2).sum(axis=(1, 2))
    freedom = np.maximum(mean**2 / np.maximum(variance, 1e-300), 1.0)
    given = float(np.mean([small_sample_factor(fitted) for fitted in estimates]))
    return np.maximum(student_factor(freedom) / given, 1.0)


@dataclass(frozen=True)
class ArmsBySize:
    """A law along n_pretrain for each measured n_params, where no joint law describes how they depend on it.

    Attributes:
        n_params: (S,) the measured model sizes, ascending.
        arms: The fitted laws of each.
    """

    n_params: np.ndarray
    arms: tuple[Arms, ...]

    @property
    def description(self) -> str:
        """What was fitted, as part of a sentence."""
        return f"{self.arms[0].law.name} in each arm for each of {len(self.arms)} model sizes"

    @property
    def sizes(self) -> tuple[str, ...]:
        """The other sizes on which the boundary depends."""
        return ("n_params", *self.arms[0].sizes)

    @property
    def aicc(self) -> float:
        """Akaike's criterion of all laws together."""
        return sum(arms.aicc for arms in self.arms)

    def log_ratio(self, x: np.ndarray, at: dict[str, float]) -> tuple[np.ndarray, np.ndarray]:
        """As `Arms.log_ratio`; between measured model sizes the logarithms are interpolated in log n_params."""
        shares, rest = self._shares(at)
        ratios = [(share, arms.log_ratio(x, rest)) for share, arms in shares]
        point, drawn = (np.sum([share * ratio[part] for share, ratio in ratios], axis=0) for part in (0, 1))
        return point, drawn

    def distilled(self, x: np.ndarray, at: dict[str, float]) -> np.ndarray:
        """(N,) the distilled arm's values, interpolated likewise."""
        shares, rest = self._shares(at)
        return np.exp(np.sum([share * np.log(arms.distilled(x, rest)) for share, arms in shares], axis=0))

    def _shares(self, at: dict[str, float]) -> tuple[list[tuple[float, Arms]], dict[str, float]]:
        """The laws of the neighbouring model sizes with their shares, and the sizes other than n_params."""
        wanted, sizes = at["n_params"], self.n_params
        if not sizes[0] * (1 - 1e-9) <= wanted <= sizes[-1] * (1 + 1e-9):
            span = format_span(sizes[0], sizes[-1])
            raise InputError(
                f"n_params {format_whole(wanted)} is outside the measured {span}: no joint law fits these runs"
            )
        above = int(np.clip(np.searchsorted(sizes, wanted), 1, len(sizes) - 1))
        share = float(np.clip(np.log(wanted / sizes[above - 1]) / np.log(sizes[above] / sizes[above - 1]), 0, 1))
        pairs = [(1 - share, self.arms[above - 1]), (share, self.arms[above])]
        rest = {name: value for name, value in at.items() if name != "n_params"}
        return [pair for pair in pairs if pair[0] > 1e-9], rest


def fit_arms(pairs: Pairs, x: dict[str, np.ndarray], x_name: str, options: FitOptions) -> Arms | ArmsBySize:
    """Fit one law to each arm, with one paired bootstrap: a pair's two runs share their multiplier.

    Each pair is a cluster of its own, not each size: seeds differ by chance, and five to eight sizes are too few
    clusters to resample. Pairs fine-tuned from the same two checkpoints share their luck: refits are then of data with
    such luck, drawn for each arm alone. Where n_params varies, the joint law is compared with a law for each model
    size, and the better by Akaike's criterion is used.

    Args:
        pairs: The pairs.
        x: Each arm's sizes along which the boundary is searched.
        x_name: The column that they come from.
        options: How to fit and how many draws to take.

    Raises:
        InputError: There are fewer pairs than the law needs.
    """
    others = []
    for name in ("n_params", "n_finetune"):
        values = getattr(pairs, name)
        if len(np.unique(values[np.isfinite(values)])) > 1:
            others.append(name)
    # FLOPs already contain n_params and n_pretrain, so no law of several sizes takes them.
    by_images = x_name == "n_pretrain"
    joint = _fit(pairs, x, x_name, LAWS[_LAWS[tuple(others)] if by_images else "power_law"], options)
    if "n_params" not in others:
        return joint
    law = LAWS[_LAWS[tuple(others[1:])] if by_images else "power_law"]
    n_params, arms = np.unique(pairs.n_params), []
    for number, size in enumerate(n_params):
        keep = pairs.n_params == size
        own_x = {arm: values[keep] for arm, values in x.items()}
        if len(np.unique(own_x["plain"])) <= len(law.parameters):
            return joint
        # Different pairs have different multipliers.
        own_options = replace(options, seed=options.seed + number)
        arms.append(_fit(pairs.where(keep), own_x, x_name, law, own_options))
    by_size = ArmsBySize(n_params, tuple(arms))
    return by_size if by_size.aicc < joint.aicc else joint


def _fit(pairs: Pairs, x: dict[str, np.ndarray], x_name: str, law: Law, options: FitOptions) -> Arms:
    needed = len(law.parameters) + 1
    if len(pairs) < needed:
        raise InputError(f"{len(pairs)} pairs of runs are too few for {law.name} in each arm: it needs {needed}")
    along = "x" if law.variables == ("x",) else "n_pretrain"
    estimates, draws, numbers = {}, {}, np.arange(len(pairs))
    for arm in ARMS:
        variables = {name: x[arm] if name == along else getattr(pairs, name) for name in law.variables}
        rows = FitRows(
            columns={name: x_name if name == along else name for name in variables},
            variables=variables,
            target_name=pairs.target,
            target=getattr(pairs, arm),
            weights=None,
            n_eval=None,
            configuration=numbers,
            labels=[str(number) for number in numbers],
            scale=pairs.scale,
            cluster=pairs.cluster,
            cluster_name="pair of runs",
        )
        estimates[arm] = estimate(rows, law, coordinates_of(law), options.make_objective(), options.seed)
        # Clusters' luck is drawn for each arm: the checkpoints of the two arms are different runs.
        own = options.seed if pairs.cluster is None or arm == ARMS[0] else options.seed + _OTHER_ARM
        drawn = draw(estimates[arm], options.bootstrap, seed=own)
        draws[arm] = estimates[arm].problem.coordinates.to_theta(drawn.u)
    return Arms(law, along, estimates, draws)
