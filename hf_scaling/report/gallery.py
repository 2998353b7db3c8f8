"""Which figures a part of the table gets, and what each shows."""

from dataclasses import dataclass

import numpy as np

from hf_scaling.report.answers import say_boundary
from hf_scaling.report.figures import (
    Curve,
    Drawing,
    Points,
    curves,
    difference,
    frontier,
    moving_boundary,
    predicted_against_measured,
    residuals,
    shared_limits,
    shown,
)
from hf_scaling.report.findings import ArmLaw, Crossing, PartFindings, varied_sizes
from hf_scaling.report.parts import Arm, Asked, Part, levels
from hf_scaling.text import axis_label, format_count, format_percent, format_tick

# More distinct sizes than this are no levels: they are cut into bins.
_MOST_LEVELS = 12
_MOST_MODELS = 4
# How far beyond the measured sizes a line is drawn.
_BEYOND = 2.0
_POINTS = 60


@dataclass(frozen=True)
class Level:
    """One value of a column, or a bin of them.

    Attributes:
        column: The column; "" for all rows.
        low: Rows from here on.
        high: Rows up to here.
        label: For a heading or a legend.
        first: Whether it is the lower of two that are shown together.
    """

    column: str = ""
    low: float = 0.0
    high: float = np.inf
    label: str = ""
    first: bool = False

    @property
    def centre(self) -> float:
        """The value that the law is drawn at."""
        return float(np.sqrt(self.low * self.high))

    def keeps(self, frame) -> np.ndarray:
        """(N,) which rows are of this level."""
        if not self.column:
            return np.ones(len(frame), dtype=bool)
        values = _numbers(frame, self.column)
        return (values >= self.low * (1 - 1e-9)) & (values <= self.high * (1 + 1e-9))


def model_levels(part: Part, axis: str) -> list[Level]:
    """The model sizes that get a panel each, at most four, or one level of all rows where sizes do not vary."""
    sizes = part.levels("n_params")
    if axis == "n_params" or len(sizes) < 2:
        return [Level(label=_only_model(part))]
    return [Level("n_params", low, high, _model_label(part, low, high)) for low, high in _chosen(sizes, _MOST_MODELS)]


def outer_levels(arm: Arm, axis: str) -> list[Level]:
    """The smallest and the largest amount of the data that is not on the axis; all rows where none varies."""
    other = {"n_pretrain": "n_finetune", "n_finetune": "n_pretrain"}.get(axis)
    sizes = levels(arm.rows.to_pandas(), other) if other else np.empty(0)
    if len(sizes) < 2:
        return [Level()]
    what = "labels" if other == "n_finetune" else "upstream"
    groups = []
    for i, (low, high) in enumerate(_chosen(sizes, 2)):
        span = " to ".join(dict.fromkeys((format_tick(low), format_tick(high))))
        groups.append(Level(other, low, high, f"{span} {what}", first=i == 0))
    return groups


def runs_at(law: ArmLaw, axis: str, *at: Level) -> tuple[np.ndarray, np.ndarray]:
    """(N,), (N,) sizes and targets of an arm's runs at given levels, those that a logarithmic axis can show."""
    frame = law.arm.rows.to_pandas()
    if axis not in frame.columns:
        return np.empty(0), np.empty(0)
    x, y = _numbers(frame, axis), law.measured
    keep = np.isfinite(x) & np.isfinite(y) & (x > 0) & (y > 0)
    for level in at:
        keep &= level.keeps(frame)
    return x[keep], shown(law.target, y[keep])


def line_of(law: ArmLaw, axis: str, model: Level, held: Level, level: float) -> tuple[np.ndarray, ...]:
    """Sizes, fitted values, low and high along an axis, a little beyond the runs; empty where no law is fitted."""
    empty = (np.empty(0),) * 4
    if law.fit is None or axis not in law.fit.columns.values():
        return empty
    x, _ = runs_at(law, axis, model, held)
    sizes = {axis: np.geomspace(x.min(), x.max() * _BEYOND, _POINTS)}
    for column in set(law.fit.columns.values()) - {axis}:
        at = next((each for each in (model, held) if each.column == column), None)
        low, high = law.fit.data["ranges"][column]
        sizes[column] = np.full(_POINTS, at.centre if at else np.sqrt(max(low, 1e-12) * high))
    band = law.fit.predict(sizes, level=level)
    return sizes[axis], *(shown(law.target, band[name].to_numpy()) for name in ("value", "low", "high"))


def _chosen(sizes: np.ndarray, most: int) -> list[tuple[float, float]]:
    """At most so many single sizes, the outer ones among them; bins where there are too many to be levels."""
    if len(sizes) <= _MOST_LEVELS:
        at = np.unique(np.linspace(0, len(sizes) - 1, min(most, len(sizes))).round().astype(int))
        return [(float(sizes[i]), float(sizes[i])) for i in at]
    bins = np.array_split(sizes, 4)
    bins = bins if most >= 4 else [bins[0], bins[-1]]
    return [(float(each[0]), float(each[-1])) for each in bins]


def _model_label(part: Part, low: float, high: float) -> str:
    names = _names(part, Level("n_params", low, high))
    if len(names) == 1 and low == high:
        return f"{names[0]}, {format_count(low)} parameters"
    return f"{_span(low, high)} parameters"


def _only_model(part: Part) -> str:
    names, sizes = _names(part, Level()), part.levels("n_params")
    if len(names) != 1:
        return f"{format_count(sizes[0])} parameters" if len(sizes) == 1 else ""
    return f"{names[0]}, {format_count(sizes[0])} parameters" if len(sizes) == 1 else names[0]


def _names(part: Part, level: Level) -> list[str]:
    frame = part.rows.to_pandas()
    if "model" not in frame.columns:
        return []
    return sorted({str(name) for name in frame["model"][level.keeps(frame)].dropna()})


def _span(low: float, high: float) -> str:
    return format_count(low) if low == high else f"{format_count(low)} to {format_count(high)}"


def _numbers(frame, column: str) -> np.ndarray:
    import pandas as pd

    return pd.to_numeric(frame[column], errors="coerce").to_numpy(dtype=float, na_value=np.nan)


@dataclass(frozen=True)
class Panels:
    """Figures that stand side by side.

    Attributes:
        heading: Over them.
        text: What to see in them.
        drawings: The figures.
    """

    heading: str
    text: str
    drawings: tuple[Drawing, ...]


def panels_of(found: PartFindings, number: int, asked: Asked) -> list[Panels]:
    """The figures of one part of the table; `number` tells its files from those of other parts."""
    name = f"{number}-{_slug(found.part)}"
    groups = [_difference_panels(found, name, asked)]
    axes = dict.fromkeys(axis for arm in found.part.arms for axis in varied_sizes(arm, asked))
    groups += [_curve_panels(found, axis, name, asked) for axis in axes]
    groups += [_check_panels(found, name, asked), _frontier_panels(found, name)]
    return [group for group in groups if group.drawings]


def _curve_panels(found: PartFindings, axis: str, name: str, asked: Asked) -> Panels:
    drawings = [each for target in asked.targets for each in _curves_along(found, target, axis, name, asked)]
    band = f"{format_percent(asked.level)} bands"
    text = f"Each mark is a run; lines are the fitted laws with {band}, dotted beyond the measured range."
    what = " and ".join(asked.targets)
    return Panels(f"{what[:1].upper()}{what[1:]} against {axis}", text, tuple(drawings))


def _curves_along(found: PartFindings, target: str, axis: str, name: str, asked: Asked) -> list[Drawing]:
    """A panel for each model size, on the same axes."""
    panels = {level: _series(found, target, axis, level, asked) for level in model_levels(found.part, axis)}
    panels = {level: series for level, series in panels.items() if series}
    if not panels:
        return []
    limits = shared_limits([curve for series in panels.values() for curve in series])
    labels = (_labelled(axis, found.part.noun), _labelled(target, found.part.noun))
    return [
        curves(
            f"{name}-{target}-{axis}-{i}",
            level.label or found.part.title,
            series,
            *labels,
            limits,
            title=f"{target} against {axis}{f', {level.label}' if level.label else ''}",
            caption=_curve_caption(series),
        )
        for i, (level, series) in enumerate(panels.items(), 1)
    ]


def _series(found: PartFindings, target: str, axis: str, level: Level, asked: Asked) -> list[Curve]:
    """Each arm at the smallest and the largest amount of the other data."""
    series = []
    for number, law in enumerate(found.law(target)):
        for held in outer_levels(law.arm, axis):
            x, y = runs_at(law, axis, level, held)
            if not len(x):
                continue
            line = line_of(law, axis, level, held, asked.level)
            label = ", ".join(text for text in (law.arm.label, held.label) if text)
            series.append(Curve(label, number, x, y, *line, reach=(x.min(), x.max()), faint=held.first))
    return series


def _curve_caption(series: list[Curve]) -> str:
    unfitted = [curve.label for curve in series if not len(curve.line_x)]
    return f"Without a fitted law: {', '.join(unfitted)}." if unfitted else ""


def _difference_panels(found: PartFindings, name: str, asked: Asked) -> Panels:
    drawings = []
    for number, crossing in enumerate(each for each in found.crossings if each.boundary is not None):
        drawings += _crossing_drawings(crossing, f"{name}-{number + 1}", found)
    text = (
        "Plain minus distilled at equal images: above zero the teacher helps. Marks are mean paired differences of "
        f"runs, the line and its {format_percent(asked.level)} band come from the two arms' laws."
    )
    return Panels("Where distillation stops paying", text, tuple(drawings))


def _crossing_drawings(crossing: Crossing, name: str, found: PartFindings) -> list[Drawing]:
    part, target, boundary = found.part, crossing.target, crossing.boundary
    sizes = ", ".join(f"{format_count(value)} {axis_label(size, part.noun)}" for size, value in boundary.sizes.items())
    ways = len(part.arm("distilled")) > 1
    caption = say_boundary(boundary, target, part.noun) + (f" Said of {sizes}." if sizes else "")
    drawings = [
        difference(
            f"{name}-difference-{target}",
            f"Boundary by {target}" + (f", {crossing.arm.label}" if ways else ""),
            boundary,
            target,
            part.noun,
            title=f"Difference of {target}, plain minus distilled",
            caption=caption,
        )
    ]
    for size in boundary.sizes:
        at = [(value, b.n_pretrain, b.low, b.high) for n, value, b in crossing.by_size if n == size]
        at = [each for each in at if each[1] is not None]
        if len(at) > 1:
            drawings.append(
                moving_boundary(
                    f"{name}-boundary-{target}-{size}",
                    f"Boundary by {target} against {size}",
                    at,
                    _labelled(size, part.noun),
                    f"boundary: {axis_label('n_pretrain', part.noun)}",
                    title=f"Boundary by {target} against {size}",
                    caption=f"The boundary at each {size} at which it lies inside the measured range.",
                )
            )
    return drawings


def _check_panels(found: PartFindings, name: str, asked: Asked) -> Panels:
    drawings = []
    for target in asked.targets:
        laws = [law for law in found.law(target) if law.fit is not None]
        if laws:
            drawings += _checks(laws, target, name, found.part.noun)
    text = (
        "Filled marks are the fitted runs. Hollow ones are the largest scales, predicted by the best single law, "
        "fitted without them: they show what an extrapolation is worth here."
    )
    return Panels("Do the laws hold?", text, tuple(drawings))


def _checks(laws: list[ArmLaw], target: str, name: str, noun: str) -> list[Drawing]:
    points = [
        _fitted(law, i, shown(target, law.predicted()), shown(target, law.measured)) for i, law in enumerate(laws)
    ]
    held = [
        Points(f"{law.arm.label}, held out", i, _joined(law, "predicted"), _joined(law, "measured"), hollow=True)
        for i, law in enumerate(laws)
        if law.held_out
    ]
    along = next(iter(laws[0].fit.data["ranges"]))
    along = "n_pretrain" if "n_pretrain" in laws[0].fit.data["ranges"] else along
    left = [
        _fitted(law, i, _column(law, along), 100 * (law.measured / law.predicted() - 1)) for i, law in enumerate(laws)
    ]
    drawings = []
    # Logarithmic axes have no place for a target that may be zero or less.
    if all((each.y > 0).all() for each in points) and any(len(each.x) for each in points):
        caption = "On the diagonal a prediction is right." if held else "Too few sizes to hold the largest out."
        drawings.append(
            predicted_against_measured(
                f"{name}-predicted-{target}",
                f"Predicted and measured {target}",
                [*points, *held],
                _labelled(target, noun),
                title=f"Predicted against measured {target}",
                caption=caption,
            )
        )
    if any(np.isfinite(each.y).any() for each in left):
        drawings.append(
            residuals(
                f"{name}-residuals-{target}",
                f"Residuals of {target}",
                left,
                _labelled(along, noun),
                "measured over predicted, per cent",
                title=f"Residuals of {target}",
                caption="Scatter about zero is noise; a bend says that the law's shape is wrong.",
            )
        )
    return drawings


def _fitted(law: ArmLaw, number: int, x: np.ndarray, y: np.ndarray) -> Points:
    usable = np.isfinite(x) & np.isfinite(y) & (x > 0)
    return Points(law.arm.label, number, x[usable], y[usable])


def _joined(law: ArmLaw, what: str) -> np.ndarray:
    return shown(law.target, np.concatenate([getattr(each, what) for each in law.held_out]))


def _column(law: ArmLaw, column: str) -> np.ndarray:
    return law.arm.rows.to_pandas()[column].to_numpy(dtype=float, na_value=np.nan)


def _frontier_panels(found: PartFindings, name: str) -> Panels:
    drawings, asked = [], any(each.asked for each in found.spending)
    for spending in found.spending:
        if spending.plan is None or len(spending.plan.frontier) < 2 or not (spending.plan.frontier["value"] > 0).all():
            continue
        plan, target = spending.plan, spending.target
        chosen = (plan.budget, shown(target, plan.predicted["value"])) if spending.asked else None
        table = plan.frontier.assign(**{c: shown(target, plan.frontier[c]) for c in ("value", "low", "high")})
        drawings.append(
            frontier(
                f"{name}-frontier-{target}",
                f"Best {target} for a budget",
                table,
                chosen,
                (
                    "budget: FLOPs" if not spending.asked else "budget: unit of the costs",
                    f"{target}: {axis_label(target)}",
                ),
                title=f"Frontier of {target}",
                caption=_frontier_caption(plan),
            )
        )
    text = "The best that each budget is predicted to buy; dotted where it lies outside the measured sizes."
    if not asked:
        text += " No budget was given, so budgets are training FLOPs, teachers counted."
    return Panels("What a budget buys", text, tuple(drawings))


def _frontier_caption(plan) -> str:
    beyond = plan.frontier["extrapolation"].to_numpy()
    outside = int((beyond > 0.01).sum())
    return f"{outside} of {len(beyond)} budgets lie outside the measured sizes." if outside else ""


def _labelled(column: str, noun: str) -> str:
    return f"{column}: {axis_label(column, noun)}"


def _slug(part: Part) -> str:
    """The data sets of a part, as a file may be called."""
    text = "-".join(part.choice[name] for name in ("upstream", "downstream") if name in part.choice)
    kept = "".join(c if c.isascii() and c.isalnum() else "-" for c in text.lower())
    return "-".join(piece for piece in kept.split("-") if piece)[:40].strip("-") or "runs"
