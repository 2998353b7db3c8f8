"""What a table cannot answer, and the runs that would."""

from dataclasses import dataclass, replace

import numpy as np

from hf_scaling.report.numbers import count
from hf_scaling.report.parts import Part

# Fewer amounts of data than this leave every law open (three fix a power law and a floor, a fourth tests it).
_ENOUGH = 4


@dataclass(frozen=True)
class Gap:
    """A question that the runs leave open.

    Attributes:
        code: For programs: no_distilled, no_plain, one_model_size, one_seed, few_sizes, few_labels, no_finetunes,
            few_checkpoints.
        question: The question.
        why: What is missing.
        runs: The runs that would answer it.
        place: The part of the table that lacks them.
    """

    code: str
    question: str
    why: str
    runs: str
    place: str = ""


def find_gaps(parts: list[Part]) -> list[Gap]:
    """The gaps of a table, those of the pre-training runs first; a gap of several parts is named once."""
    found: dict[str, Gap] = {}
    for part in parts:
        peers = [each for each in parts if each.stage == part.stage and each is not part]
        place = part.title if len(parts) > 1 else ""
        for gap in (gap for check in (_arms, _sizes, _models, _seeds) for gap in check(part)):
            # What another part of the stage answers is no gap of the study.
            if gap.code in ("no_distilled", "no_plain") and any(not _arms(peer) for peer in peers):
                continue
            found.setdefault(gap.code, replace(gap, place=place))
    found |= {gap.code: gap for gap in _stages(parts)}
    return list(found.values())


def _arms(part: Part) -> list[Gap]:
    question = "Where does distillation stop paying?"
    sizes = _listed(part.levels("n_pretrain")) or "the same amounts of data"
    if not part.arm("plain") and not part.arm("distilled"):
        why = "The table has no column `arm`, so these runs count as one arm."
        runs = (
            f"The same runs with a teacher, at {sizes}; name the two arms `plain` and `distilled` in a column `arm`."
        )
        return [Gap("no_distilled", question, why, runs)]
    if part.arm("plain") and part.arm("distilled"):
        return []
    has = "plain" if part.arm("plain") else "distilled"
    lacks = "distilled" if has == "plain" else "plain"
    how = "`{teacher: vit-30k, alpha: 0.5}`" if lacks == "distilled" else "`plain`"
    why = f"All runs are {has}."
    runs = f"The {lacks} runs at {sizes}, same models and seeds: add {how} to `arms` in the grid."
    return [Gap(f"no_{lacks}", question, why, runs)]


def _sizes(part: Part) -> list[Gap]:
    column = "n_finetune" if part.stage == "finetune" else "n_pretrain"
    sizes = part.levels(column)
    if len(sizes) >= _ENOUGH:
        return []
    what = f"labelled {part.noun}" if column == "n_finetune" else "data"
    question = f"What {'do' if what != 'data' else 'does'} more {what} do?"
    if not len(sizes):
        return [Gap("few_sizes", question, f"No run states its `{column}`.", f"Add the column `{column}`.")]
    amounts = "amount" if len(sizes) == 1 else "amounts"
    why = f"Only {len(sizes)} {amounts} of {what} measured ({_listed(sizes)}): too few to fix a curve and its floor."
    runs = f"`{column}` at {_listed(_more(sizes))} as well, everything else equal."
    return [Gap("few_labels" if column == "n_finetune" else "few_sizes", question, why, runs)]


def _more(sizes: np.ndarray) -> np.ndarray:
    """Enough further sizes, four times apart, beyond the largest."""
    return np.round(sizes[-1] * 4.0 ** np.arange(1, _ENOUGH - len(sizes) + 1))


def _models(part: Part) -> list[Gap]:
    sizes, question = part.levels("n_params"), "What does a larger model do?"
    if len(sizes) > 1:
        return []
    if not len(sizes):
        return [Gap("one_model_size", question, "The table has no column `n_params`.", "Add it, and vary it.")]
    why = f"Only one model size measured ({count(sizes[0])} parameters)."
    others = f"{count(sizes[0] / 2)} and {count(2 * sizes[0])} parameters"
    runs = f"The same amounts of data with two further models, about {others}."
    return [Gap("one_model_size", question, why, runs)]


def _seeds(part: Part) -> list[Gap]:
    if len(part.levels("seed")) > 1 or _repeats(part) > 0:
        return []
    sizes = part.levels("n_pretrain")
    where = f"at {_listed(sizes[[0, len(sizes) // 2, -1]])}" if len(sizes) > 2 else "at each size"
    why = "Every configuration was run once: noise is judged by how the runs scatter about the laws."
    runs = f"Two more seeds {where}."
    return [Gap("one_seed", "How much of a difference is chance?", why, runs)]


def _repeats(part: Part) -> int:
    """Rows that repeat another row's arm and sizes."""
    frame = part.rows.to_pandas()
    names = [n for n in ("arm", "distillation", "model", *_SIZES) if n in frame.columns]
    return int(frame.duplicated(names).sum()) if names else 0


_SIZES = ("n_params", "n_pretrain", "n_finetune", "image_size")


def _stages(parts: list[Part]) -> list[Gap]:
    tuned = [part for part in parts if part.stage == "finetune" or len(part.levels("n_finetune"))]
    noun = parts[0].noun
    question = f"How many labelled {noun} are worth how much pre-training?"
    if any(len(part.levels("n_pretrain")) >= 3 for part in tuned):
        return []
    if tuned:
        why = "The fine-tuned runs start from fewer than three amounts of pre-training."
        runs = f"Fine-tune checkpoints of at least three amounts of pre-training, each on the same labelled {noun}."
        return [Gap("few_checkpoints", question, why, runs)]
    sizes = np.unique(np.concatenate([part.levels("n_pretrain") for part in parts]))
    largest = f" of {_listed(sizes[-3:])} {noun}" if len(sizes) else ""
    why = "Nothing was fine-tuned, so neither the transfer gap nor a plan over labels can be had."
    runs = (
        f"Fine-tune the checkpoints{largest} on four amounts of labelled {noun}, 20 to 2,500: "
        "`downstream` and `n_finetune` in the grid."
    )
    return [Gap("no_finetunes", question, why, runs)]


def _listed(sizes: np.ndarray) -> str:
    texts = [count(size) for size in sizes]
    if len(texts) > 8:
        texts = [*texts[:3], "…", *texts[-2:]]
    return ", ".join(texts)
