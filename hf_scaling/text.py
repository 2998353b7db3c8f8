"""Formatting of everything that a person reads: numbers, units, column names, lists, suggestions for misspelt names.

    format_count(12_800)                   "12,800"
    format_amount("n_pretrain", 12_800)    "12,800 upstream images"
    format_amount("n_params", 28_000)      "28k parameters"
    format_flops(1.3e12)                   "1.3 TFLOP"
    format_value("error", 0.058)           "5.8 %"
    axis_label("n_pretrain")               "unique upstream images"
    did_you_mean("chinchila", LAWS)        "; did you mean chinchilla?"

A value that is missing or not a number is written as `MISSING` throughout. Percent has a space: 95 %.
"""

import difflib
import math
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

#: What is written for None and NaN.
MISSING = "–"
_NO_BREAK = "\N{NO-BREAK SPACE}"
_SUFFIXES = ((1e12, "T"), (1e9, "B"), (1e6, "M"))
_FLOP_UNITS = ((1e24, "Y"), (1e21, "Z"), (1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


@dataclass(frozen=True)
class Column:
    """Meaning and unit of one column of a results table, or of one variable of a law.

    Attributes:
        meaning: One line for cards and docs, unit included.
        unit: Unit in a listing of laws; "" where the column is not a number.
        axis: Label of a figure's axis; "images" is replaced by what the rows count.
        amount: Words that follow a number in a sentence: "12,800 upstream images"; "" for the column's own name.
        symbol: LaTeX symbol of the law variable; "" where no law uses it.
        falls: True where smaller is better, False where larger is better, None where neither is.
        low: Smallest value at which the inverse of a law is searched.
        high: Largest value at which the inverse of a law is searched.
    """

    meaning: str
    unit: str = ""
    axis: str = ""
    amount: str = ""
    symbol: str = ""
    falls: bool | None = None
    low: float = 1e-9
    high: float = 1e45


#: Every known column, in the order of the results table, then the variables that only laws have.
COLUMNS = {
    "run_id": Column("16 hexadecimal digits: the hash of everything that changes the weights; unique in a table"),
    "study": Column("name of the study; usually null, since a run is the same whichever study requested it"),
    "task": Column("kind of problem: image_classification or causal_lm"),
    "stage": Column("pretrain or finetune"),
    "arm": Column("plain or distilled; for a fine-tuned run, the arm of its checkpoint"),
    "distillation": Column("kind, alpha, temperature and schedule; null for plain"),
    "recipe": Column("hash of the hyperparameters as they are written, shared by all sizes and both arms"),
    "model": Column("name of the student"),
    "n_params": Column(
        "parameters of the student, counted in the built model",
        "parameters, counted",
        "parameters",
        "parameters",
        symbol="M",
    ),
    "n_pretrain": Column(
        "unique upstream images (or tokens)",
        "unique upstream images (or tokens)",
        "unique upstream images",
        "upstream images",
        symbol="D_p",
    ),
    "n_finetune": Column(
        "unique labelled downstream images (or tokens); 0 = none",
        "unique labelled downstream images (or tokens)",
        "labelled downstream images",
        "labelled images",
        symbol="D_f",
    ),
    "image_size": Column("pixels a side", "pixels a side", "pixels a side", "pixels a side", symbol="r"),
    "teacher": Column("run_id or Hub id of the teacher; null for plain"),
    "teacher_n_params": Column(
        "parameters of the teacher", "parameters of the teacher, counted", amount="teacher parameters", symbol="M_T"
    ),
    "teacher_n_pretrain": Column(
        "unique images (or tokens) the teacher was trained on",
        "unique upstream images (or tokens) of the teacher",
        symbol="D_T",
    ),
    "teacher_loss": Column(
        "the teacher's cross-entropy on the same evaluation images, nats",
        "nats",
        "the teacher's cross-entropy, nats",
        symbol="L_T",
        falls=True,
        low=1e-6,
        high=1e6,
    ),
    "teacher_error": Column("the teacher's top-1 error rate on the same images, 0 to 1", "0 to 1", falls=True),
    "agreement": Column("share of the evaluation images on which student and teacher predict the same class"),
    "parent": Column("run_id or Hub id of the checkpoint that was fine-tuned"),
    "seed": Column("seed of the initial weights, the subset, the order and the augmentation"),
    "upstream": Column("data set of the pre-training"),
    "classes": Column(
        "JSON list: the upstream classes used, for a fine-tuned run its checkpoint's; null where all were"
    ),
    "downstream": Column("data set of the fine-tuning; null in pretrain"),
    "eval_split": Column("split on which error and loss were measured, once, at the end"),
    "n_eval": Column("number of images (or tokens) in it"),
    "error": Column(
        "top-1 error rate over the evaluation split, 0 to 1",
        "top-1 error rate, 0 to 1",
        "top-1 error, per cent",
        falls=True,
    ),
    "loss": Column(
        "cross-entropy in nats per image (or token), mean over the evaluation split",
        "cross-entropy, nats",
        "cross-entropy, nats",
        falls=True,
    ),
    "class_errors": Column("JSON: downstream class -> its error rate, 0 to 1; null where class_errors was not set"),
    "samples_seen": Column(
        "training images (or tokens): steps times batch, repeats counted",
        "images (or tokens) seen in training, repeats counted",
        "images seen, repeats counted",
        "images seen",
        symbol="D",
    ),
    "train_flops": Column(
        "floating-point operations of the student's training, forward and backward",
        "floating-point operations of the student, forward and backward",
        "FLOPs",
        "FLOPs",
        symbol="C",
    ),
    "teacher_flops": Column(
        "floating-point operations of the teacher's forward passes; its own training is counted in its own row",
        "floating-point operations of the teacher",
        "FLOPs",
        "FLOPs of the teacher",
        symbol="C_T",
    ),
    "seconds": Column("training time, seconds", "seconds of training", "seconds", "seconds", symbol="t"),
    "device": Column("device it was trained on"),
    "precision": Column("fp32, tf32, bf16 or fp16"),
    "versions": Column("JSON: versions of hf_scaling and the libraries"),
    "schema_version": Column("version of this list of columns"),
    "created_at": Column("end of the run, UTC"),
    "x": Column("any column", "the unit of the column that x is mapped to", symbol="x"),
    "sparsity": Column(
        "share of weights that are zero",
        "share of weights that are zero, at least 0 and below 1",
        "share of weights that are zero",
        symbol="S",
        low=1e-9,
        high=1 - 1e-12,
    ),
}

#: The columns that laws may use as variables, in the order of `Law.variables`.
VARIABLES = (
    "n_params",
    "n_pretrain",
    "n_finetune",
    "x",
    "samples_seen",
    "train_flops",
    "teacher_flops",
    "teacher_loss",
    "teacher_n_params",
    "teacher_n_pretrain",
    "image_size",
    "seconds",
    "sparsity",
)


def axis_label(column: str, noun: str = "images") -> str:
    """Label of a figure's axis.

    Args:
        column: A key of `COLUMNS`; another name is its own label.
        noun: What the rows count: images or tokens.
    """
    known = COLUMNS.get(column)
    return (known.axis or known.unit or column).replace("images", noun) if known else column


def amount_name(column: str, noun: str = "images") -> str:
    """Words that follow an amount: "upstream images" for n_pretrain; a column without such words is its own name.

    Args:
        column: A key of `COLUMNS`, or any other name.
        noun: What the rows count: images or tokens.
    """
    known = COLUMNS.get(column)
    return known.amount.replace("images", noun) if known and known.amount else column


def unit_of(column: str) -> str:
    """Unit of a column in a listing; "unit of the table" for columns that `COLUMNS` does not have."""
    known = COLUMNS.get(column)
    return known.unit if known and known.unit else "unit of the table"


def format_count(value: float | None) -> str:
    """A size with three significant digits, or whole where four hold it: 813, 11,250, 12,800, 1.8M, 2.1e+18."""
    if value is None or value != value:
        return MISSING
    if not math.isfinite(value):
        return "infinitely many"
    if abs(value) < 100 or abs(value) >= 1e15:
        return f"{value:.3g}"
    # Measured sizes are such whole numbers: 11,250 images are not 11,200.
    is_short = value == float(f"{value:.4g}") and value == round(value)
    rounded = float(f"{value:.4g}" if is_short else f"{value:.3g}")
    for size, suffix in _SUFFIXES:
        if rounded >= size:
            return f"{rounded / size:.3g}{suffix}"
    return f"{rounded:,.0f}"


def format_whole(value: float | None) -> str:
    """A count with all its digits below ten million, with three significant digits above: 1,234,567, 1.23e+07."""
    if value is None or value != value:
        return MISSING
    return f"{value:,.0f}" if value < 1e7 else f"{value:.3g}"


def format_span(low: float, high: float) -> str:
    """The smallest and the largest of some sizes: "250 to 64,000", or "250" where they are equal."""
    return format_count(low) if low == high else f"{format_count(low)} to {format_count(high)}"


def format_tick(value: float) -> str:
    """A size on an axis: 250, 2k, 1M, 1e18."""
    if value >= 1e15:
        return f"{value:.0e}".replace("e+", "e")
    for size, suffix in (*_SUFFIXES, (1e3, "k")):
        if value >= size:
            # 11.25k, but 124k for 124,321.
            is_short = value == float(f"{value:.4g}")
            return f"{value / size:{'.4g' if is_short else '.3g'}}{suffix}"
    return f"{value:.3g}"


def format_parameters(value: float) -> str:
    """A number of parameters: 28k, 2.63M, 813; as people name models."""
    return MISSING if value != value else format_tick(float(f"{value:.3g}"))


def format_flops(value: float) -> str:
    """An amount of computation: 1.3 TFLOP, 24 EFLOP, 500 FLOP; a count of operations, not a rate."""
    if value is None or value != value:
        return MISSING
    if not math.isfinite(value):
        return "infinitely many FLOP"
    rounded = float(f"{value:.3g}")
    for size, prefix in _FLOP_UNITS:
        if rounded >= size:
            return f"{rounded / size:.3g} {prefix}FLOP"
    return f"{rounded:.3g} FLOP"


def format_amount(column: str, value: float, noun: str = "images") -> str:
    """An amount with its name: "12,800 upstream images", "117k parameters", "1.3 TFLOP".

    Args:
        column: A key of `COLUMNS`, or any other name.
        value: How much.
        noun: What the rows count: images or tokens.
    """
    if column in ("train_flops", "teacher_flops"):
        return format_flops(value) + ("" if column == "train_flops" else " of the teacher")
    parameters = column in ("n_params", "teacher_n_params")
    return f"{format_parameters(value) if parameters else format_count(value)} {amount_name(column, noun)}"


def format_value(target: str, value: float) -> str:
    """A value of a target: an error in per cent, anything else with three significant digits."""
    if not math.isfinite(value):
        return MISSING
    shown = 100 * value if target == "error" else value
    number = f"{float(f'{shown:.3g}'):,.0f}" if 1e3 <= abs(shown) < 1e7 else f"{shown:.3g}"
    return f"{number} %" if target == "error" else number


def format_interval(target: str, low: float, high: float) -> str:
    """An interval of a target: 3.8 to 10 %."""
    if not (math.isfinite(low) and math.isfinite(high)):
        return "no interval"
    return f"{format_value(target, low).removesuffix(' %')} to {format_value(target, high)}"


def format_number(value: float, digits: int = 4) -> str:
    """A parameter or another plain number: 0.3478, 1.2e+05; "0" for one that is practically 0 (below 1e-30)."""
    return "0" if abs(value) < 1e-30 else f"{value:.{digits}g}"


def format_percent(share: float, digits: int | None = None) -> str:
    """A share in per cent: 95 %, 99.9 %, 40 %.

    Args:
        share: 1 is 100 %.
        digits: Significant digits; by default whole per cent, and three digits above 90 %.
    """
    if digits is not None:
        return f"{float(f'{100 * share:.{digits}g}'):,g} %"
    return f"{100 * share:.3g} %" if share > 0.9 else f"{100 * share:.0f} %"


def format_bytes(n_bytes: float) -> str:
    """A size on disk: 512 bytes, 1.2 kB, 3.4 MB, 22.0 GB."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if n_bytes >= factor:
            return f"{n_bytes / factor:,.1f} {unit}"
    return f"{n_bytes:.0f} bytes"


def format_duration(seconds: float) -> str:
    """A time: 45 seconds, 3.5 minutes, 12.0 hours, 4.2 days; "unknown" for NaN."""
    if math.isnan(seconds):
        return "unknown"
    for unit, length in (("days", 86_400.0), ("hours", 3_600.0), ("minutes", 60.0)):
        if seconds >= 2 * length:
            return f"{seconds / length:,.1f} {unit}"
    return f"{seconds:.0f} seconds"


def listing(items: Iterable[object], most: int = 8) -> str:
    """Items with commas, the first `most` of them: "a, b, c and 4 more"."""
    texts = [str(item) for item in items]
    rest = len(texts) - most
    return ", ".join(texts[:most]) + (f" and {rest} more" if rest > 0 else "")


def joined(items: Iterable[object], most: int = 6) -> str:
    """Items of a sentence: "a", "a and b", "a, b and c"; beyond `most` items "a, b and 3 more"."""
    texts = [str(item) for item in items]
    if len(texts) > most:
        texts = [*texts[: most - 1], f"{len(texts) - most + 1} more"]
    return texts[0] if len(texts) == 1 else f"{', '.join(texts[:-1])} and {texts[-1]}" if texts else ""


def text_table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a table with right-aligned columns, indented by two spaces."""
    widths = [max(map(len, column)) for column in zip(heads, *rows)]
    return ["  " + "  ".join(cell.rjust(w) for cell, w in zip(row, widths)).rstrip() for row in [heads, *rows]]


def wrap(text: str, indent: str = "", hanging: str | None = None, width: int = 110) -> list[str]:
    """Lines of a paragraph for a terminal; a number and its per cent sign stay on one line.

    Args:
        text: The paragraph.
        indent: Put before the first line.
        hanging: Put before the other lines; by default `indent`.
        width: Characters a line.
    """
    lines = textwrap.wrap(
        no_break_percent(text),
        width,
        initial_indent=indent,
        subsequent_indent=indent if hanging is None else hanging,
        break_on_hyphens=False,
    )
    return [line.replace(_NO_BREAK, " ") for line in lines]


def no_break_percent(text: str) -> str:
    """The text with a no-break space before each per cent sign."""
    return text.replace(" %", f"{_NO_BREAK}%")


def sentence(text: str) -> str:
    """The text with a capital and a full stop; a name at its start (n_params, or before a colon) stays as it is."""
    first = text.split(" ")[0]
    text = text if "_" in first or first.endswith(":") else text[:1].upper() + text[1:]
    return text if text.endswith(".") else f"{text}."


def did_you_mean(name: object, known: Iterable[str], n: int = 1, cutoff: float = 0.5) -> str:
    """The end of an error about an unknown name: "; did you mean chinchilla?", or "" where no known name is similar.

    Args:
        name: The name that was given.
        known: The names that exist.
        n: The most names to suggest.
        cutoff: Least similarity, 0 to 1, as in `difflib.get_close_matches`.
    """
    near = difflib.get_close_matches(str(name), list(known), n=n, cutoff=cutoff)
    return f"; did you mean {' or '.join(near)}?" if near else ""


def one_line(text: object) -> str:
    """The text with every run of white space replaced by one space."""
    return " ".join(str(text).split())
