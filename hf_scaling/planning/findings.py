"""What a plan's reader should know beside the plan, as graded notes (docs/planning.md)."""

import numpy as np

from hf_scaling.fitting.rows import note
from hf_scaling.planning.costs import compute_of
from hf_scaling.planning.curves import LogCurve
from hf_scaling.planning.uncertainty import CLEAR_SHARE

# Up to this factor outside the measured sizes a warning will do.
_FAR = 10.0
# Sizes are rounded to whole ones: that is not outside.
_INSIDE = 1.001
# Passes over the images count as those measured up to this factor.
_SAME_PASSES = 1.25


def findings(answers: dict, best: str | None, arms, doubt, settings: dict) -> list[dict]:
    """All notes of a plan.

    Args:
        answers: Arm to its problem and its best sizes.
        best: The arm chosen.
        arms: The arms' table.
        doubt: What the draws say.
        settings: n_params, table and level of the plan.
    """
    problem, sizes = answers[best]
    notes = _out_of_range(problem, sizes) + _largest_model(problem, sizes, settings)
    notes += _limits(problem, sizes) + _passes(problem, sizes, settings)
    notes += _law_notes(problem.fit) + _arm_notes(answers, best, arms) + _doubt_notes(doubt, settings["level"])
    for arm, (each, _) in answers.items():
        of_arm = f"{arm}: " if len(answers) > 1 else ""
        notes += [{**n, "text": of_arm + n["text"]} for n in (*each.costs.notes, *each.notes)]
    return notes


def _out_of_range(problem, sizes: dict[str, float]) -> list[dict]:
    notes = []
    for name, (low, high) in problem.fit.data["ranges"].items():
        factor = sizes[name] / high if sizes[name] > high else low / sizes[name] if 0 < sizes[name] < low else 1.0
        if factor <= _INSIDE:
            continue
        side = f"{factor:.3g} times the largest measured ({high:,.10g})"
        if sizes[name] < low:
            side = f"{factor:.3g} times smaller than the smallest measured ({low:,.10g})"
        text = f"{name} {sizes[name]:,.10g} is {side}: measure nearer to it before spending"
        notes.append(note("out_of_range", "error" if factor > _FAR else "warn", text))
    return notes


def _largest_model(problem, sizes: dict[str, float], settings: dict) -> list[dict]:
    """Say that a larger model may be better still, where only the measured ones were looked at."""
    looked = "n_params" in problem.fit.columns.values() and settings["n_params"] is None
    if not looked or sizes["n_params"] < max(problem.n_params) / _INSIDE:
        return []
    text = "the largest model measured is the best of those measured: n_params='any' looks beyond"
    return [note("largest_model", "info", text)]


def _limits(problem, sizes: dict[str, float]) -> list[dict]:
    """Say where a size would go on growing, were there more of it."""
    held = [name for name in problem.bought if sizes[name] >= problem.ends[name][1] / _INSIDE]
    text = "{} {:,.10g} is the most that may be bought: the marginal values say what more of it would bring"
    return [note("limit_reached", "info", text.format(name, sizes[name])) for name in held]


def _passes(problem, sizes: dict[str, float], settings: dict) -> list[dict]:
    """Say where the passes over the images are not those that the law was fitted to."""
    samples = compute_of(problem.fit, settings["table"]).get("pretrain", {}).get("samples", [])
    training, size = problem.costs.pretraining, sizes["n_pretrain"]
    if training is None or not len(samples) or not size > 0:
        return []
    at, largest = np.array([size]), samples[-1][0]
    passes = float(LogCurve(samples, below="first")(at)[0] / size)
    asked = float(training.samples(at)[0] / size)
    if abs(np.log(asked / passes)) > np.log(_SAME_PASSES):
        own = f"the runs' own {passes:.3g}"
        text = f"{asked:.3g} passes over {size:,.10g} images are not {own}: the law knows nothing of them"
        return [note("passes_not_measured", "warn", text)]
    if size > largest:
        text = (
            f"beyond {largest:,.10g} images as many passes are counted as there, {passes:.3g}; epochs= says otherwise"
        )
        return [note("passes_carried_on", "info", text)]
    return []


def _law_notes(fit) -> list[dict]:
    notes = []
    if fit.status != "ok":
        text = f"the law's own verdict is {fit.status}: read this plan as one possibility (docs/fitting.md)"
        notes.append(note("law_in_doubt", "warn", text))
    return notes


def _arm_notes(answers: dict, best: str | None, arms) -> list[dict]:
    if len(answers) < 2:
        return []
    ahead = float(arms.set_index("arm")["p_better"][best])
    notes = []
    if ahead < CLEAR_SHARE:
        text = f"{best} is ahead in {100 * ahead:.0f} % of the draws only: the arms cannot be told apart here"
        notes.append(note("arms_open", "warn", text))
    if not _paired([problem.fit for problem, _ in answers.values()]):
        text = "the arms' rows differ in their sizes, so their draws are not paired: p_better is rough"
        notes.append(note("arms_unpaired", "info", text))
    return notes


def _paired(fits) -> bool:
    """Whether draw b of each fit used the same multipliers for the same configurations."""
    settings = ("seed", "bootstrap", "method")
    found = [(*(fit.settings[name] for name in settings), fit.scores["n_configurations"], _spans(fit)) for fit in fits]
    return all(each == found[0] for each in found)


def _spans(fit) -> dict[str, tuple]:
    return {name: (*fit.data["ranges"][name], fit.data["levels"][name]) for name in fit.data["ranges"]}


def _doubt_notes(doubt, level: float) -> list[dict]:
    if doubt.verdict is None:
        return [note("no_draws", "warn", "the fit holds no usable bootstrap draws: nothing says how sure this is")]
    if doubt.verdict == "clear":
        return []
    spans = "; ".join(f"{name} {_count(low)} to {_count(high)}" for name, (low, high) in doubt.intervals.items())
    lost = f"in {level:.0%} of the draws this allocation is at most {doubt.regret:.1%} worse than the draw's own best"
    if doubt.verdict == "hardly_matters":
        return [note("flat_optimum", "info", f"{lost}, which lies at {spans or 'the same sizes'}")]
    text = f"{lost}, which lies at {spans or 'the same sizes'}: run what suggest_runs names first"
    return [note("allocation_open", "warn", text)]


def _count(value: float) -> str:
    return f"{value:,.0f}" if value < 1e7 else f"{value:.3g}"
