"""Gaps of a study: the runs that a table lacks for an answer."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from hf_scaling.report.parts import (
    Part,
    texts,
)
from hf_scaling.results.foreign import propose_arms, similar_columns
from hf_scaling.text import format_count, format_parameters, format_span, listing

# Fewer amounts of data leave every law undetermined: three fix a power law and its floor, a fourth tests it.
_ENOUGH_SIZES = 4


@dataclass(frozen=True)
class Gap:
    """A question that the runs cannot answer.

    Attributes:
        code: no_distilled, no_plain, one_model_size, one_seed, few_sizes, few_labels, no_finetunes or few_checkpoints.
        question: The question.
        why: What is missing.
        runs: The runs that would answer it.
        place: Title of the part that lacks them; "" where the table has one part.
    """

    code: str
    question: str
    why: str
    runs: str
    place: str = ""


def find_gaps(parts: Sequence[Part]) -> list[Gap]:
    """The gaps of a table, those of the pre-training runs first; a gap of several parts is listed once."""
    checks: tuple[Callable[[Part], Gap | None], ...] = (missing_arm, missing_sizes, missing_models, missing_seeds)
    gaps: dict[str, Gap] = {}
    for part in parts:
        peers = [peer for peer in parts if peer.stage == part.stage and peer is not part]
        for gap in filter(None, (check(part) for check in checks)):
            # A question that another part of the stage answers is not open.
            if gap.code in ("no_distilled", "no_plain") and not all(missing_arm(peer) for peer in peers):
                continue
            gaps.setdefault(gap.code, replace(gap, place=part.title if len(parts) > 1 else ""))
    missing = missing_stage(parts)
    return [*gaps.values(), missing] if missing else list(gaps.values())


def missing_arm(part: Part) -> Gap | None:
    """no_distilled or no_plain, where a part has runs of one arm alone."""
    question = "Where does distillation stop paying?"
    sizes = _list_sizes(part.levels("n_pretrain")) or "the same amounts of data"
    if part.arms_of("plain") and part.arms_of("distilled"):
        return None
    if not part.arms_of("plain") and not part.arms_of("distilled"):
        proposal = propose_arms(part.rows)
        if proposal or texts(part.rows, "arm"):
            column, names = proposal or ("arm", {})
            why = f"The arms are called {listing(texts(part.rows, column))} in the column `{column}`."
            # Written as the command line takes it.
            mapped = f"--map arm={column} " if column != "arm" else ""
            flag = f"--arm-names {','.join(f'{arm}={name}' for arm, name in names.items())}"
            runs = f"Say which is which: `{mapped}{flag if names else '--arm-names plain=NAME,distilled=NAME'}`."
            return Gap("no_distilled", question, why, runs)
        why = "The table has no column `arm`, so all runs count as one arm."
        runs = f"The same runs with a teacher, at {sizes}; name the arms `plain` and `distilled` in a column `arm`."
        return Gap("no_distilled", question, why, runs)
    has, lacks = ("plain", "distilled") if part.arms_of("plain") else ("distilled", "plain")
    teacher = "MODEL" if part.noun == "tokens" else "vit-30k"
    entry = f"{{teacher: {teacher}, alpha: 0.5}}" if lacks == "distilled" else "plain"
    runs = f"The {lacks} runs at {sizes}, with the same models and seeds: add `{entry}` to `arms` in the grid."
    return Gap(f"no_{lacks}", question, f"All runs are {has}.", runs)


def missing_sizes(part: Part) -> Gap | None:
    """few_sizes or few_labels, where a part has too few amounts of data for a law."""
    column, code, what, question = (
        ("n_finetune", "few_labels", f"labelled {part.noun}", f"What do more labelled {part.noun} gain?")
        if part.stage == "finetune"
        else ("n_pretrain", "few_sizes", "data", "What does more data gain?")
    )
    sizes = part.levels(column)
    if len(sizes) >= _ENOUGH_SIZES:
        return None
    if not len(sizes):
        return Gap(code, question, f"No run states its `{column}`.", _add_column(part, column))
    amounts = "amount" if len(sizes) == 1 else "amounts"
    why = (
        f"Only {len(sizes)} {amounts} of {what} measured ({_list_sizes(sizes)}): too few to fit a curve and its floor."
    )
    further = np.round(sizes[-1] * 4.0 ** np.arange(1, _ENOUGH_SIZES - len(sizes) + 1))
    return Gap(code, question, why, f"`{column}` at {_list_sizes(further)} as well, everything else equal.")


def missing_models(part: Part) -> Gap | None:
    """one_model_size, where n_params does not vary."""
    sizes, question = part.levels("n_params"), "What does a larger model gain?"
    if len(sizes) > 1:
        return None
    if not len(sizes):
        return Gap("one_model_size", question, "The table has no column `n_params`.", _add_column(part, "n_params"))
    why = f"Only one model size measured ({format_parameters(sizes[0])} parameters)."
    others = f"{format_parameters(sizes[0] / 2)} and {format_parameters(2 * sizes[0])} parameters"
    return Gap("one_model_size", question, why, f"The same amounts of data with two more models, about {others}.")


def _add_column(part: Part, column: str) -> str:
    """How to add a column: by its other name where the table seems to have it."""
    if near := similar_columns([column], part.rows.columns):
        return f"`--map {column}={near[column]}`, if your column `{near[column]}` holds it."
    return f"Add the column `{column}`, and vary it."


def missing_seeds(part: Part) -> Gap | None:
    """one_seed, where no configuration was repeated."""
    names = ("arm", "distillation", "model", "n_params", "n_pretrain", "n_finetune", "image_size")
    names = [name for name in names if name in part.rows.columns]
    if len(part.levels("seed")) > 1 or (names and part.rows.duplicated(names).any()):
        return None
    sizes = part.levels("n_pretrain")
    where = f"at {_list_sizes(sizes[[0, len(sizes) // 2, -1]])}" if len(sizes) > 2 else "at each size"
    why = "Every configuration was run once: noise is estimated from the scatter of the runs about the laws."
    return Gap("one_seed", "How much of a difference is chance?", why, f"Two more seeds {where}.")


def missing_stage(parts: Sequence[Part]) -> Gap | None:
    """no_finetunes or few_checkpoints, where no part shows what pre-training is worth."""
    noun = parts[0].noun
    question = f"How many labelled {noun} is pre-training worth?"
    tuned = [part for part in parts if part.stage == "finetune" or len(part.levels("n_finetune"))]
    if any(len(part.levels("n_pretrain")) >= 3 for part in tuned):
        return None
    if tuned:
        why = "The fine-tuned runs start from fewer than three amounts of pre-training."
        runs = f"Fine-tune checkpoints of at least three amounts of pre-training, each on the same labelled {noun}."
        return Gap("few_checkpoints", question, why, runs)
    sizes = np.unique(np.concatenate([part.levels("n_pretrain") for part in parts]))
    largest = f" of {_list_sizes(sizes[-3:])} {noun}" if len(sizes) else ""
    why = "Nothing was fine-tuned, so there is neither a transfer gap nor a plan over labels."
    runs = (
        f"Fine-tune the checkpoints{largest} on four amounts of labelled {noun}, 20 to 2,500: "
        "`downstream` and `n_finetune` in the grid."
    )
    return Gap("no_finetunes", question, why, runs)


def _list_sizes(sizes: np.ndarray) -> str:
    """Sizes with commas; the number and the range of more than eight."""
    if len(sizes) > 8:
        return f"{len(sizes)} sizes from {format_span(sizes[0], sizes[-1])}"
    return ", ".join(map(format_count, sizes))
