"""Which figures a part of the table gets."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from hf_scaling.report.answers import amounts, describe_boundary, describe_run
from hf_scaling.report.budgets import plan_line
from hf_scaling.report.figures import (
    Curve,
    Drawing,
    Points,
    curves_painter,
    difference_painter,
    frontier_painter,
    in_axis_unit,
    moving_boundary_painter,
    predictions_painter,
    residuals_painter,
    shared_limits,
)
from hf_scaling.report.findings import ArmLaw, PartFindings, varied_sizes
from hf_scaling.report.parts import Arm, Part, Request, levels, numbers, texts
from hf_scaling.text import (
    axis_label,
    format_amount,
    format_count,
    format_flops,
    format_interval,
    format_parameters,
    format_percent,
    format_span,
    format_tick,
    format_value,
    joined,
)

# More distinct sizes than this are grouped into bins.
_MOST_LEVELS = 12
_MOST_MODELS = 4
# Factor by which a curve extends beyond the measured sizes.
_BEYOND = 2.0
_POINTS = 60


@dataclass(frozen=True)
class Panels:
    """Figures that are shown side by side.

    Attributes:
        heading: Shown above them.
        text: What to see in them.
        drawings: The figures.
    """

    heading: str
    text: str
    drawings: tuple[Drawing, ...]


def panels_of(findings: PartFindings, number: int, request: Request) -> list[Panels]:
    """The figures of one part of the table.

    Args:
        findings: The part's findings.
        number: Number of the part, with which the names of its files begin.
        request: The arguments of the report.
    """
    sets = "-".join(findings.part.values[name] for name in ("upstream", "downstream") if name in findings.part.values)
    letters = "".join(c if c.isascii() and c.isalnum() else "-" for c in sets.lower())
    name = f"{number}-{'-'.join(filter(None, letters.split('-')))[:40].strip('-') or 'runs'}"
    axes = dict.fromkeys(axis for arm in findings.part.arms for axis in varied_sizes(arm, request.x))
    groups = [
        difference_panels(findings, name, request),
        *(curve_panels(findings, axis, name, request) for axis in axes),
        check_panels(findings, name, request),
        frontier_panels(findings, name),
    ]
    return [group for group in groups if group.drawings]


def run_names(arm: Arm, noun: str, targets: Sequence[str]) -> np.ndarray:
    """(N,) what each run of an arm is: model, arm, sizes and seed, its targets, and its id."""
    names = []
    for row in arm.rows.to_dict("records"):
        seed = (
            f", seed {row['seed']:g}"
            if isinstance(row.get("seed"), int | float) and row["seed"] == row["seed"]
            else ""
        )
        values = [
            f"{target} {format_value(target, float(row[target]))}"
            for target in targets
            if isinstance(row[target], int | float) and row[target] == row[target]
        ]
        run_id = f" · run {row['run_id']}" if isinstance(row.get("run_id"), str) else ""
        run = describe_run(row, arm.label if arm.kind else "", noun)
        names.append(f"{run}{seed}: {', '.join(values)}{run_id}".removeprefix(": "))
    return np.array(names, dtype=object)


def _labelled(column: str, noun: str) -> str:
    return f"{column}: {axis_label(column, noun)}"


def difference_panels(findings: PartFindings, name: str, request: Request) -> Panels:
    """For each target and distilled arm the difference with its boundary, and the boundary against the other sizes."""
    noun, several = findings.part.noun, len(findings.part.arms_of("distilled")) > 1
    drawings = []
    for i, of_arm in enumerate((one for one in findings.boundaries if one.boundary is not None), 1):
        boundary, target = of_arm.boundary, of_arm.target
        sizes = amounts(boundary.sizes, noun)
        marks = [
            f"{format_amount(boundary.x, row[boundary.x], noun)}: {target} plain minus distilled "
            f"{format_value(target, row['measured'])}, by the curve {format_value(target, row['difference'])} "
            f"({format_interval(target, row['low'], row['high'])})"
            for row in boundary.difference.to_dict("records")
            if np.isfinite(row["measured"])
        ]
        drawings.append(
            Drawing(
                f"{name}-{i}-difference-{target}",
                heading=f"Boundary by {target}{f', {of_arm.arm.label}' if several else ''}",
                title=f"Difference of {target}, plain minus distilled",
                caption=describe_boundary(boundary, target, noun) + (f" At {sizes}." if sizes else ""),
                x_label=_labelled(boundary.x, noun),
                y_label=f"plain minus distilled: {axis_label(target)}",
                paint=difference_painter(boundary, target),
                marks=(marks,),
            )
        )
        for size in boundary.sizes:
            crossings = [
                (value, at.n_pretrain, at.low, at.high)
                for column, value, at in of_arm.by_size
                if column == size and at.n_pretrain is not None
            ]
            if len(crossings) > 1:
                drawings.append(
                    Drawing(
                        f"{name}-{i}-boundary-{target}-{size}",
                        heading=f"Boundary by {target} against {size}",
                        title=f"Boundary by {target} against {size}",
                        caption=_moving_caption(size, crossings, noun),
                        x_label=_labelled(size, noun),
                        y_label=f"boundary: {axis_label('n_pretrain', noun)}",
                        paint=moving_boundary_painter(crossings),
                        marks=(
                            [
                                f"{format_amount(size, value, noun)}: {format_count(at)} ({format_span(*ends)})"
                                for value, at, *ends in crossings
                            ],
                        ),
                    )
                )
    text = (
        "Plain minus distilled at equal data: above zero distillation helps. Marks are mean paired differences of "
        f"runs; the line is a smooth curve through them, with its {format_percent(request.options.level)} band."
    )
    return Panels("Where distillation stops paying", text, tuple(drawings))


def _moving_caption(size: str, crossings: Sequence[tuple[float, float, float, float]], noun: str) -> str:
    """Whether the boundary moves with a size, and the sizes at which it is inside the measured range."""
    (first, start, _, start_high), (last, end, end_low, end_high) = crossings[0], crossings[-1]
    apart = end_low > start_high or end_high < crossings[0][2]
    moves = "moves" if apart else "does not move clearly: it is"
    return (
        f"The boundary {moves} from {format_count(start)} {noun} at {format_amount(size, first, noun)} to "
        f"{format_count(end)} at {format_amount(size, last, noun)}."
    )


@dataclass(frozen=True)
class Level:
    """One value of a column, or a bin of values.

    Attributes:
        column: The column; "" for all rows.
        low: Smallest value.
        high: Largest value.
        label: Text of a heading or legend.
        faint: Whether it is the smaller of two that are shown together.
    """

    column: str = ""
    low: float = 0.0
    high: float = np.inf
    label: str = ""
    faint: bool = False

    def contains(self, frame: pd.DataFrame) -> np.ndarray:
        """(N,) which rows are of this level."""
        if not self.column:
            return np.ones(len(frame), dtype=bool)
        values = numbers(frame, self.column)
        return (values >= self.low * (1 - 1e-9)) & (values <= self.high * (1 + 1e-9))


def curve_panels(findings: PartFindings, axis: str, name: str, request: Request) -> Panels:
    """A panel for each target and model size; those of a target share their axes."""
    drawings = []
    for target in request.targets:
        panels = {
            level: _series(findings, target, axis, level, request) for level in model_levels(findings.part, axis)
        }
        panels = {level: series for level, series in panels.items() if series}
        if not panels:
            continue
        limits = shared_limits([curve for series in panels.values() for curve in series])
        for i, (level, series) in enumerate(panels.items(), 1):
            unfitted = ", ".join(curve.label for curve in series if not len(curve.line_x))
            drawings.append(
                Drawing(
                    f"{name}-{target}-{axis}-{i}",
                    heading=level.label or findings.part.title,
                    title=f"{target} against {axis}" + (f", {level.label}" if level.label else ""),
                    caption=_curve_caption(series, target, axis, findings.part.noun)
                    + (f" Without a fitted law: {unfitted}." if unfitted else ""),
                    x_label=_labelled(axis, findings.part.noun),
                    y_label=_labelled(target, findings.part.noun),
                    paint=curves_painter(series, limits),
                    n_series=len(series) if len(series) > 1 else 0,
                    marks=tuple(curve.names for curve in series),
                )
            )
    band = f"{format_percent(request.options.level)} bands"
    text = f"Each mark is a run; lines are the fitted laws with {band}, dotted beyond the measured range."
    targets = " and ".join(request.targets)
    return Panels(f"{targets[:1].upper()}{targets[1:]} against {axis}", text, tuple(drawings))


def _curve_caption(series: Sequence[Curve], target: str, axis: str, noun: str) -> str:
    """From where to where the target goes in each series, at its smallest and largest size, as means of runs."""
    own = 0.01 if target == "error" else 1.0
    clauses = []
    for curve in [one for one in series if not one.faint] or series:
        low, high = curve.x.min(), curve.x.max()
        first, last = (format_value(target, own * float(curve.y[curve.x == end].mean())) for end in (low, high))
        name = curve.label if len(series) > 1 else target
        clauses.append(f"{name} goes from {first} to {last}" if low < high else f"{name} {first}")
    sizes = np.concatenate([curve.x for curve in series])
    low, high = format_count(sizes.min()), format_amount(axis, sizes.max(), noun)
    return f"From {low} to {high}: {joined(clauses)}."


def _series(findings: PartFindings, target: str, axis: str, model: Level, request: Request) -> list[Curve]:
    """Each arm at the smallest and the largest amount of the data that is not on the axis, with its law's curve.

    The curve extends a little beyond the runs; sizes that are neither on the axis nor a level are at the centre of
    their range.
    """
    series = []
    for number, law in enumerate(findings.laws_of(target)):
        frame = law.arm.rows
        if axis not in frame.columns:
            continue
        x, y = numbers(frame, axis), law.measured
        names = run_names(law.arm, findings.part.noun, request.targets)
        # A logarithmic axis can show nothing else.
        shown = np.isfinite(x) & np.isfinite(y) & (x > 0) & (y > 0) & model.contains(frame)
        for other in other_levels(law.arm, axis):
            keep = shown & other.contains(frame)
            if not keep.any():
                continue
            line = (np.empty(0),) * 4
            if law.fit is not None and axis in law.fit.columns.values():
                sizes = {axis: np.geomspace(x[keep].min(), x[keep].max() * _BEYOND, _POINTS)}
                for column in set(law.fit.columns.values()) - {axis}:
                    low, high = law.fit.data["ranges"][column]
                    ends = {level.column: (level.low, level.high) for level in (other, model)}
                    low, high = ends.get(column, (max(low, 1e-12), high))
                    sizes[column] = np.full(_POINTS, np.sqrt(low * high))
                band = law.fit.predict(sizes, level=request.options.level)
                curves = (in_axis_unit(target, band[name].to_numpy()) for name in ("value", "low", "high"))
                line = (sizes[axis], *curves)
            label = ", ".join(text for text in (law.arm.label, other.label) if text)
            runs = (x[keep], in_axis_unit(target, y[keep]))
            series.append(Curve(label, number, *runs, *line, faint=other.faint, names=tuple(names[keep])))
    return series


def model_levels(part: Part, axis: str) -> list[Level]:
    """The model sizes that get a panel each, or one level of all rows where sizes do not vary."""
    sizes = part.levels("n_params")
    if axis == "n_params" or len(sizes) < 2:
        models = texts(part.rows, "model")
        name = models[0] if len(models) == 1 else ""
        size = f"{format_parameters(sizes[0])} parameters" if len(sizes) == 1 else ""
        return [Level(label=", ".join(filter(None, [name, size])))]
    panels = []
    for low, high in _select_levels(sizes, _MOST_MODELS):
        level = Level(
            "n_params", low, high, f"{' to '.join(dict.fromkeys(map(format_parameters, (low, high))))} parameters"
        )
        models = texts(part.rows[level.contains(part.rows)], "model")
        if len(models) == 1 and low == high:
            level = replace(level, label=f"{models[0]}, {level.label}")
        panels.append(level)
    return panels


def other_levels(arm: Arm, axis: str) -> list[Level]:
    """The smallest and the largest amount of the data that is not on the axis; all rows where it does not vary."""
    other = {"n_pretrain": "n_finetune", "n_finetune": "n_pretrain"}.get(axis)
    sizes = levels(arm.rows, other) if other else np.empty(0)
    if len(sizes) < 2:
        return [Level()]
    what = "labels" if other == "n_finetune" else "upstream"
    return [
        Level(other, low, high, f"{' to '.join(dict.fromkeys(map(format_tick, (low, high))))} {what}", faint=i == 0)
        for i, (low, high) in enumerate(_select_levels(sizes, 2))
    ]


def _select_levels(sizes: np.ndarray, most: int) -> list[tuple[float, float]]:
    """Single sizes with the smallest and the largest among them, or bins where there are too many sizes."""
    if len(sizes) <= _MOST_LEVELS:
        at = np.unique(np.linspace(0, len(sizes) - 1, min(most, len(sizes))).round().astype(int))
        return [(float(sizes[i]), float(sizes[i])) for i in at]
    bins = np.array_split(sizes, 4)
    return [(float(part[0]), float(part[-1])) for part in (bins if most >= 4 else [bins[0], bins[-1]])]


def check_panels(findings: PartFindings, name: str, request: Request) -> Panels:
    """Predicted against measured values, and residuals, for each target."""
    drawings = []
    for target in request.targets:
        laws = [law for law in findings.laws_of(target) if law.fit is not None]
        if laws:
            drawings += _prediction_drawings(laws, name, findings.part)
            drawings += _residual_drawings(laws, name, findings.part)
    text = (
        "Filled marks are the fitted runs. Hollow marks are the largest scales, predicted by the best single law "
        "fitted without them: they show how far to trust an extrapolation."
    )
    return Panels("Do the laws hold?", text, tuple(drawings))


def _prediction_drawings(laws: Sequence[ArmLaw], name: str, part: Part) -> list[Drawing]:
    target = laws[0].target
    fitted = [_points(law, i, law.predicted(), law.measured, part.noun, target) for i, law in enumerate(laws)]
    # Logarithmic axes cannot show a target that is zero or less.
    if not all((series.y > 0).all() for series in fitted) or not any(len(series.x) for series in fitted):
        return []
    held_out = [
        Points(
            f"{law.arm.label}, held out",
            i,
            *(
                in_axis_unit(target, np.concatenate([getattr(fold, values) for fold in law.held_out]))
                for values in ("predicted", "measured")
            ),
            hollow=True,
            names=tuple(
                f"held out, {format_count(fold.factor)} times larger: predicted {format_value(target, predicted)}, "
                f"measured {format_value(target, measured)}"
                for fold in law.held_out
                for predicted, measured in zip(fold.predicted, fold.measured)
            ),
        )
        for i, law in enumerate(laws)
        if law.held_out
    ]
    # How far the held-out scales are from the diagonal.
    ratios = np.concatenate([np.empty(0), *(series.y / series.x for series in held_out)])
    ratios = ratios[np.isfinite(ratios) & (ratios > 0)]
    caption = "On the diagonal a prediction is right"
    if len(ratios):
        miss = format_percent(float(np.expm1(np.median(np.abs(np.log(ratios))))), 2)
        side = "above" if np.median(ratios) > 1 else "below"
        caption += f"; the median held-out run is {miss} off, mostly {side} it"
    elif not held_out:
        caption += "; there are too few sizes to hold out the largest"
    points, label = [*fitted, *held_out], _labelled(target, part.noun)
    return [
        Drawing(
            f"{name}-predicted-{target}",
            heading=f"Predicted and measured {target}",
            title=f"Predicted against measured {target}",
            caption=f"{caption}.",
            x_label=f"predicted {label}",
            y_label=f"measured {label}",
            paint=predictions_painter(points),
            n_series=len(points) if len(points) > 1 else 0,
            marks=tuple(series.names for series in points),
        )
    ]


def _residual_drawings(laws: Sequence[ArmLaw], name: str, part: Part) -> list[Drawing]:
    target, ranges = laws[0].target, laws[0].fit.data["ranges"]
    along = "n_pretrain" if "n_pretrain" in ranges else next(iter(ranges))
    points = [
        _points(
            law, i, numbers(law.arm.rows, along), 100 * (law.measured / law.predicted() - 1), part.noun, own=target
        )
        for i, law in enumerate(laws)
    ]
    values = np.concatenate([series.y[np.isfinite(series.y)] for series in points])
    if not len(values):
        return []
    half = format_percent(float(np.median(np.abs(values))) / 100, 2)
    return [
        Drawing(
            f"{name}-residuals-{target}",
            heading=f"Residuals of {target}",
            title=f"Residuals of {target}",
            caption=f"Half of the runs are within {half} of the law; a bend would show that its shape is wrong.",
            x_label=_labelled(along, part.noun),
            y_label="measured over predicted, per cent",
            paint=residuals_painter(points),
            n_series=len(points) if len(points) > 1 else 0,
            marks=tuple(series.names for series in points),
        )
    ]


def _points(
    law: ArmLaw, number: int, x: np.ndarray, y: np.ndarray, noun: str, target: str = "", own: str = ""
) -> Points:
    """The runs of an arm that a logarithmic horizontal axis can show, in the unit of `target` where it is given."""
    keep = np.isfinite(x) & np.isfinite(y) & (x > 0)
    names = tuple(run_names(law.arm, noun, [target or own])[keep])
    return Points(law.arm.label, number, in_axis_unit(target, x[keep]), in_axis_unit(target, y[keep]), names=names)


def frontier_panels(findings: PartFindings, name: str) -> Panels:
    """The best prediction for each budget, for each target."""
    drawings = []
    for target_plan in findings.plans:
        plan, target = target_plan.plan, target_plan.target
        if plan is None or len(plan.frontier) < 2 or not (plan.frontier["value"] > 0).all():
            continue
        table = plan.frontier.assign(**{c: in_axis_unit(target, plan.frontier[c]) for c in ("value", "low", "high")})
        inside = plan.frontier["extrapolation"] <= 0.01
        amount = format_count if target_plan.asked else format_flops
        mark = (plan.budget, in_axis_unit(target, plan.predicted["value"])) if target_plan.asked else None
        # What ten times the middle budget gains, and how much of the frontier is extrapolation.
        now = plan.frontier.iloc[len(plan.frontier) // 2]
        later = int(np.argmin(np.abs(np.log(plan.frontier["budget"] / (10 * now["budget"])))))
        then, outside = plan.frontier.iloc[later], int((plan.frontier["extrapolation"] > 0.01).sum())
        caption = (
            f"{amount(now['budget'])} is predicted to buy {target} {format_value(target, now['value'])}, "
            f"{amount(then['budget'])} {format_value(target, then['value'])}"
            + (f"; {outside} of {len(plan.frontier)} budgets are outside the measured sizes." if outside else ".")
        )
        drawings.append(
            Drawing(
                f"{name}-frontier-{target}",
                heading=f"Best {target} for a budget",
                title=f"Frontier of {target}",
                caption=caption,
                x_label="budget: unit of the costs" if target_plan.asked else "budget: FLOPs",
                y_label=f"{target}: {axis_label(target)}",
                paint=frontier_painter(table, mark),
                marks=(
                    [
                        plan_line(row, target, findings.part.noun, amount)
                        for row in plan.frontier[inside].to_dict("records")
                    ],
                ),
            )
        )
    text = "The best that each budget is predicted to buy, dotted outside the measured sizes."
    if not any(target_plan.asked for target_plan in findings.plans):
        text += " No budget was given, so budgets are training FLOPs, teachers included."
    return Panels("What a budget buys", text, tuple(drawings))
