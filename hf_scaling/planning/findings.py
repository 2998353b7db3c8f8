"""What a plan's reader should know beside the plan, as graded notes (docs/planning.md)."""

import numpy as np

from hf_scaling.fitting.rows import note
from hf_scaling.planning.costs import compute_of
from hf_scaling.planning.uncertainty import CLEAR_SHARE

# Up to this factor outside the measured sizes a warning will do.
_FAR = 10.0


def findings(answers: dict, best: str | None, arms, doubt, settings: dict) -> list[dict]:
    """All notes of a plan.

    Args:
        answers: Arm to its problem and its best sizes.
        best: The arm chosen.
        arms: The arms' table.
        doubt: What the draws say.
        settings: epochs, table and level of the plan.
    """
    problem, sizes = answers[best]
    notes = _out_of_range(problem, sizes) + _passes(problem, sizes, settings)
    notes += _law_notes(problem.fit) + _arm_notes(answers, best, arms) + _doubt_notes(doubt, settings["level"])
    for arm, (each, _) in answers.items():
        of_arm = f"{arm}: " if len(answers) > 1 else ""
        notes += [{**n, "text": of_arm + n["text"]} for n in (*each.costs.notes, *each.notes)]
    return notes


def _out_of_range(problem, sizes: dict[str, float]) -> list[dict]:
    notes = []
    for name, (low, high) in problem.fit.data["ranges"].items():
        factor = sizes[name] / high if sizes[name] > high else low / sizes[name] if 0 < sizes[name] < low else 1.0
        if factor <= 1.0:
            continue
        side = f"{factor:.3g} times the largest measured ({high:,.10g})"
        if sizes[name] < low:
            side = f"{factor:.3g} times smaller than the smallest measured ({low:,.10g})"
        text = f"{name} {sizes[name]:,.10g} is {side}: measure nearer to it before spending"
        notes.append(note("out_of_range", "error" if factor > _FAR else "warn", text))
    return notes


def _passes(problem, sizes: dict[str, float], settings: dict) -> list[dict]:
    """Say where the passes over the images are not those that the law was fitted to."""
    samples = compute_of(problem.fit, settings["table"]).get("pretrain", {}).get("samples", [])
    training, size = problem.costs.pretraining, sizes["n_pretrain"]
    if training is None or not len(samples) or not size > 0:
        return []
    measured = np.array(samples)[:, 1] / np.array(samples)[:, 0]
    asked = float(training.samples(np.array([size]))[0] / size)
    if settings["epochs"] is not None and not 0.99 * measured.min() <= asked <= 1.01 * measured.max():
        text = (
            f"epochs {asked:g} was not measured ({measured.min():.3g} to {measured.max():.3g} passes): the law knows "
            "nothing of it"
        )
        return [note("passes_not_measured", "warn", text)]
    largest = samples[-1][0]
    if settings["epochs"] is None and size > largest:
        passes = f"{measured[-1]:.3g}"
        text = f"beyond {largest:,.10g} images as many passes are counted as there, {passes}; epochs= says otherwise"
        return [note("passes_carried_on", "info", text)]
    return []


def _law_notes(fit) -> list[dict]:
    notes = []
    if fit.status != "ok":
        text = f"the law's own verdict is {fit.status}: read this plan as one possibility (docs/fitting.md)"
        notes.append(note("law_in_doubt", "warn", text))
    if not any(len(each.draws) for each in (fit, *fit.members)):
        notes.append(note("no_draws", "warn", "the fit holds no bootstrap draws: nothing says how sure this is"))
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
    if doubt.verdict in (None, "clear"):
        return []
    spans = "; ".join(f"{name} {_count(low)} to {_count(high)}" for name, (low, high) in doubt.intervals.items())
    lost = f"in {level:.0%} of the draws this allocation is at most {doubt.regret:.1%} worse than the draw's own best"
    if doubt.verdict == "hardly_matters":
        return [note("flat_optimum", "info", f"{lost}, which lies at {spans or 'the same sizes'}")]
    text = f"{lost}, which lies at {spans or 'the same sizes'}: run what suggest_runs names first"
    return [note("allocation_open", "warn", text)]


def _count(value: float) -> str:
    return f"{value:,.0f}" if value < 1e7 else f"{value:.3g}"
