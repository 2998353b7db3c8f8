"""Tables of other people: CSV dialects, sizes such as "1.3B", and columns and arms under other names.

parse_size("1.3B")                                  1300000000.0
similar_columns(["n_params"], ["params", "bleu"])   {"n_params": "params"}
apply_names(frame, {"n_params": "params (M)*1e6"}, {"plain": "baseline", "distilled": "KD"})
missing_columns(frame, ["n_params"], "loss")        a ColumnsError with the arguments that name the columns
"""

import csv
import difflib
import gzip
import io
import itertools
import math
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from hf_scaling.errors import InputError
from hf_scaling.files import decode_text
from hf_scaling.text import did_you_mean, listing

if TYPE_CHECKING:
    import pandas as pd

    #: A table as columns.
    Data = pd.DataFrame | Mapping[str, np.ndarray]

#: The arms of a results table.
ARMS = ("plain", "distilled")
#: Suffixes of the files that `read_delimited` reads.
DELIMITED = (".csv", ".tsv", ".csv.gz", ".tsv.gz")

# Our column -> names that others give it, the usual ones first, as `_words` joins them: without case, spaces, "num".
_OTHER_NAMES = {
    "n_params": (
        "params parameters param modelparams modelparameters modelsize trainableparams trainableparameters weights "
        "nonembeddingparams nonembeddingparameters nonembparams sizemodel n m size"
    ),
    "n_pretrain": (
        "pretrain pretraining tokens traintokens trainingtokens pretraintokens pretrainingtokens datasetsize datasize "
        "trainsize trainingsize trainsetsize trainingsetsize trainingdatasize pretrainsize pretrainingsize "
        "pretrainimages pretrainingimages pretrainsamples pretrainingsamples pretrainexamples images trainimages "
        "trainingimages samples trainsamples trainingsamples examples trainexamples trainingexamples upstreamsize "
        "upstreamimages upstreamsamples sourcesize sourcesamples sourceimages datapoints trainpoints d dp data"
    ),
    "n_finetune": (
        "finetune finetuning finetunesize finetuningsize finetunesamples finetuningsamples finetuneexamples "
        "finetuningexamples finetuneimages finetuningimages finetunetokens finetuningtokens ftsize ftsamples "
        "ftexamples ftimages fttokens ft shots shot kshot labels labelled labeled labelledimages labeledimages "
        "labelledsamples labeledsamples labelledexamples labeledexamples downstreamsize downstreamimages "
        "downstreamsamples downstreamexamples targetsize targetsamples targetimages transfersize df"
    ),
    "samples_seen": (
        "samplesseen seensamples imagesseen seenimages examplesseen seenexamples tokensseen seentokens "
        "inputtokensseen consumedtokens consumedsamples trainglobalsamples"
    ),
    "train_flops": "flops flop trainflops trainingflops compute traincompute trainingcompute flos c",
    "loss": (
        "valloss validloss validationloss evalloss testloss devloss heldoutloss lossval lossvalidation losseval "
        "losstest nll valnll testnll evalnll crossentropy valcrossentropy testcrossentropy ce celoss xent "
        "crossentropyloss losses l trainloss trainingloss losstrain"
    ),
    "error": (
        "err errorrate testerror testerr valerror valerr evalerror validationerror top1error top1err top1errorrate "
        "errortop1 classificationerror misclassificationrate errors valerrorrate testerrorrate"
    ),
    "accuracy": (
        "acc valacc testacc evalacc validationacc valaccuracy testaccuracy evalaccuracy validationaccuracy "
        "devaccuracy top1 top1acc top1accuracy accuracytop1 acctop1 acc1 acctest accval accuracytest accuracyval"
    ),
    "arm": (
        "arms method mode kd distilled distill distillation distillationmode variant setting condition approach "
        "technique training trainingmode strategy group"
    ),
    "seed": "randomseed rngseed",
    "run": "runid runname trial trialid experiment experimentname",
    "model": "modelname arch architecture backbone",
    "upstream": "upstreamdataset pretraindataset pretrainingdataset sourcedataset source",
    "downstream": "downstreamdataset targetdataset downstreamtask",
}
OTHER_NAMES: dict[str, list[str]] = {ours: names.split() for ours, names in _OTHER_NAMES.items()}
#: Columns whose text is read as a size: "1.3B", "12k", "1,024".
SIZES = (
    "n_params",
    "n_pretrain",
    "n_finetune",
    "samples_seen",
    "train_flops",
    "teacher_flops",
    "teacher_n_params",
    "teacher_n_pretrain",
    "n_eval",
)
#: Columns that are targets.
TARGETS = ("loss", "error", "accuracy")
# Values of a column of teachers that say that there is none.
_NO_TEACHER = ("none", "no", "0", "false", "-", "off", "no teacher")
# Words that change nothing about what a column holds.
_FILLERS = frozenset(
    ("num", "number", "of", "total", "count", "the", "final", "best", "mean", "avg", "average", "unique", "nr", "in")
)
_UNITS = {
    **dict.fromkeys(("k", "thousand", "thousands"), 1e3),
    **dict.fromkeys(("m", "mn", "mio", "million", "millions"), 1e6),
    **dict.fromkeys(("b", "bn", "g", "billion", "billions"), 1e9),
    **dict.fromkeys(("t", "tn", "trillion", "trillions"), 1e12),
}
_SIZE = re.compile(
    r"[~≈]?\s*(?P<number>[+-]?(?:\d{1,3}(?:[,_'’\u202f\u00a0 ]\d{3})+(?:\.\d+)?|\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?)"
    r"[\s_-]*(?P<unit>[A-Za-z]*)\s*[A-Za-z-]*",
)
_NOUNS = frozenset(
    ("params", "param", "parameters", "tokens", "token", "images", "image", "samples", "examples", "shots", "flops")
)
_NO_VALUE = frozenset(("", "-", "–", "—", "?", "na", "n/a", "nan", "none", "null"))
_THOUSANDS = re.compile(r"[+-]?[1-9]\d{0,2}(,\d{3})+")
_DECIMAL_COMMA = re.compile(r"[+-]?\d+(,\d+)?([eE][+-]?\d+)?")
# Points that may separate thousands, as in German: 1.000 and 1.000.000, not 0.500 or 1000.000.
_POINTS = re.compile(r"[+-]?[1-9]\d{0,2}(\.\d{3})+")
_DELIMITERS = (",", ";", "\t", "|")


# --- Files


def read_delimited(content: bytes, name: str) -> tuple[bytes, str]:
    """The content of a delimited text file as clean CSV.

    It is unpacked (gzip), decoded (UTF-8, or UTF-16 by its mark, else Windows-1252), its delimiter is recognised, and
    spaces around the column names are removed.

    Args:
        content: Of the file.
        name: What messages call it.

    Returns:
        UTF-8 bytes, and the delimiter.

    Raises:
        InputError: A damaged gzip file, or two columns of one name.
    """
    if content[:4] == b"PK\x03\x04":
        raise InputError(f"{name}: this is a spreadsheet or a zip archive, not text: save the table as CSV")
    if content[:2] == b"\x1f\x8b":
        try:
            content = gzip.decompress(content)
        except (OSError, EOFError) as error:
            raise InputError(f"{name}: not readable as gzip: {error}") from None
    text = decode_text(content)
    lines = text[:200_000].splitlines()
    try:
        delimiter = _delimiter_of([line for line in lines[:30] if line.strip()])
        if delimiter == " ":
            text = "\n".join("\t".join(line.split()) for line in text.splitlines())
            delimiter = "\t"
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True)
        header = next((row for row in reader if any(cell.strip() for cell in row)), [])
        n_header_lines = reader.line_num
        rest = list(itertools.islice((row for row in reader if row), 20))
    except csv.Error as error:
        raise InputError(f"{name}: not readable as a table of text: {error}") from None
    names = [" ".join(cell.split()) or f"column {number}" for number, cell in enumerate(header, 1)]
    if header and len(rest) > 1 and all(len(row) == len(rest[-1]) > len(header) for row in rest[-2:]):
        advice = "give each column a name" if len(header) > 1 else "delete the lines above the names of the columns"
        raise InputError(
            f"{name}: the first line, {listing(header)!r}, has {len(header)} columns and the rows below have "
            f"{len(rest[-1])}: {advice}"
        )
    check_distinct(names, name)
    if not names:
        return text.encode(), delimiter
    written = io.StringIO()
    csv.writer(written, delimiter=delimiter, lineterminator="\n").writerow(names)
    body = text.splitlines(keepends=True)[n_header_lines:]
    return (written.getvalue() + "".join(body)).encode(), delimiter


def _delimiter_of(lines: Sequence[str]) -> str:
    """The delimiter of the first lines of a file: that which splits them into equally many fields; " " for spaces."""
    best, best_score = ",", (0.0, 1)
    for delimiter in _DELIMITERS:
        counts = [len(row) for row in csv.reader(lines, delimiter=delimiter, skipinitialspace=True)]
        if counts and counts[0] > 1:
            score = (sum(count == counts[0] for count in counts) / len(counts), counts[0])
            best, best_score = (delimiter, score) if score > best_score else (best, best_score)
    if best_score[1] == 1 and len(lines) > 1:
        counts = [len(line.split()) for line in lines]
        return " " if counts[0] > 1 and len(set(counts)) == 1 else best
    return best


def check_distinct(names: Sequence[str], where: str) -> None:
    """Raise InputError where several columns have one name.

    Args:
        names: The column names.
        where: What the message calls the table.
    """
    repeated = [name for name in dict.fromkeys(names) if list(names).count(name) > 1]
    if repeated:
        places = "; ".join(
            f"{name!r} (columns {', '.join(str(at) for at, other in enumerate(names, 1) if other == name)})"
            for name in repeated
        )
        raise InputError(f"{where}: several columns have one name: {places}; rename or delete all but one of each")


# --- Numbers


def parse_size(text: object) -> float:
    """A size that a person wrote: "1.3B", "368M", "12k", "1,024", "5 million tokens"; NaN for other text.

    k, M, B or G, and T are powers of a thousand, in upper or lower case.
    """
    try:
        return float(text)  # type: ignore[arg-type]  # text that is not a number raises
    except (TypeError, ValueError):
        pass
    match = _SIZE.fullmatch(str(text).strip())
    if not match:
        return math.nan
    number, unit = float(re.sub(r"[,_'’\u202f\u00a0 ]", "", match["number"])), match["unit"].lower()
    if not unit or unit in _NOUNS:
        return number
    return number * _UNITS.get(unit, math.nan)


def as_numbers(
    values: Sequence[object] | np.ndarray,
    column: str,
    decimal_comma: bool = False,
    scale: float = 1.0,
    thousands_point: bool = False,
) -> np.ndarray | None:
    """The values of a text column as floats, where all that are given are numbers; None where they are not.

    "5.8 %" is 0.058, but no size: a share of the data is not a number of images.

    Args:
        values: (N,) the column.
        column: Its name: a column of sizes may hold "1.3B" or "1,024".
        decimal_comma: Whether "0,35" may be 0.35: in a file whose delimiter is not a comma.
        scale: Factor of the numbers.
        thousands_point: Whether "1.000" is a thousand in a column of sizes: in a file with decimal commas.

    Raises:
        InputError: A column of sizes whose values may be either, "1.000" and "30.000".
    """
    texts = ["" if value is None or value != value else str(value).strip() for value in values]
    given = [text for text in texts if text.lower() not in _NO_VALUE]
    is_size = column_meaning(column) in SIZES
    has_unit = is_size and not is_size_column(column)
    if decimal_comma and given and any("," in text for text in given):
        thousands = is_size and all(_THOUSANDS.fullmatch(text) for text in given if "," in text)
        if not thousands and all(_DECIMAL_COMMA.fullmatch(text) for text in given):
            texts = [text.replace(",", ".") for text in texts]
            given = [text.replace(",", ".") for text in given]
    if is_size and not has_unit and given and all(_POINTS.fullmatch(text) for text in given if "." in text):
        pointed = [text for text in given if "." in text]
        if any(text.count(".") > 1 for text in pointed) or (pointed and thousands_point):
            texts, given = [text.replace(".", "") for text in texts], [text.replace(".", "") for text in given]
        elif len(set(pointed)) > 1 and len(pointed) == len(given) and all(text.endswith(".000") for text in given):
            raise InputError(
                f"column {column!r}: {given[0]!r} may be {given[0][:-4]} or {given[0].replace('.', ',')}: write it "
                "without the point"
            )
    read = parse_size if is_size else _plain_number
    if column in SIZES and any(text.endswith("%") for text in given):
        return None
    if given and all(text.endswith("%") for text in given):
        return as_numbers([text.removesuffix("%") for text in texts], column, decimal_comma, 0.01 * scale)
    if not given or any(math.isnan(read(text)) for text in given):
        return None
    return scale * np.array([math.nan if text.lower() in _NO_VALUE else read(text) for text in texts])


def is_size_column(name: str) -> bool:
    """Whether a column's name, ours or a usual other one, is that of a size without a unit of its own."""
    meaning = column_meaning(name)
    return meaning in SIZES and (name == meaning or _rank(meaning, name)[1] == 1)


def _plain_number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


# --- Names


def similar_columns(wanted: Iterable[str], available: Iterable[str]) -> dict[str, str]:
    """Our columns that a table seems to have under another name.

    Args:
        wanted: Our columns that it lacks.
        available: The names of its columns.

    Returns:
        Our column -> THEIRS of a `--map`: the name, or "NAME*1e6" where the name ends with the unit millions. No
        column is used twice.
    """
    left = list(map(str, available))
    found: dict[str, str] = {}
    for ours in sorted(wanted, key=lambda name: name not in OTHER_NAMES):
        scored = [(rank, name, factor) for name in left for rank, factor in [_rank(ours, name)] if rank is not None]
        if not scored:
            # Not train_loss for train_flops.
            unknown = [name for name in left if column_meaning(name) == name and name not in OTHER_NAMES]
            near = difflib.get_close_matches(ours, unknown, n=1, cutoff=0.75) if len(ours) > 3 else []
            scored = [(0, name, 1.0) for name in near]
        if scored:
            _, name, factor = min(scored, key=lambda item: item[0])
            found[ours] = name if factor == 1 else f"{name}*{factor:.0e}".replace("e+0", "e").replace("e+", "e")
            left.remove(name)
    return found


def _rank(ours: str, name: str) -> tuple[int | None, float]:
    """How usual a name is for one of our columns (0 is best, None is another column), and the factor of its unit."""
    factor = 1.0
    for inside in re.findall(r"[(\[]\s*(?:in\s+)?([A-Za-z]+)[^)\]]*[)\]]", name):
        factor = _UNITS.get(inside.lower(), factor)
    bare = re.sub(r"[(\[][^)\]]*[)\]]", " ", name)
    bare = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", bare)
    every = [word.lower() for word in re.findall(r"[A-Za-z0-9]+", bare)]
    if len(every) > 1 and every[-1] in _UNITS:
        factor = _UNITS[every.pop()]
    words = [word for word in every if word not in _FILLERS]
    # n_images, but not N alone.
    words = words[1:] if len(words) > 1 and words[0] in ("n", "x") else words or every
    joined, own = "".join(words), ours.removeprefix("n_").replace("_", "")
    if joined in (own, ours.replace("_", "")):
        return 0, factor
    if not joined:
        return None, factor
    others = OTHER_NAMES.get(ours, ())
    for candidate in (joined, joined.removeprefix("n") if len(joined) > 2 else joined):
        if candidate in others:
            return 1 + others.index(candidate), factor
    return None, factor


def column_meaning(name: str) -> str:
    """Our column of this name; the name itself where there is none."""
    if name in SIZES or name in OTHER_NAMES:
        return name
    ranks = {ours: rank for ours in (*OTHER_NAMES, *SIZES) if (rank := _rank(ours, name)[0]) is not None}
    return min(ranks, key=lambda ours: ranks[ours]) if ranks else name


def apply_names(
    frame: "pd.DataFrame", map: Mapping[str, str] | None = None, arm_names: Mapping[str, Any] | None = None
) -> "pd.DataFrame":
    """A table with its columns and arms under our names.

    Args:
        frame: The table.
        map: Our column -> theirs: a column's name, or "NAME*1e6" or "1-NAME" of a column of numbers.
        arm_names: plain and distilled -> the value, or list of values, that the column arm has for it.

    Raises:
        InputError: A column, an arm or a value of the column arm that does not exist.
    """
    check_distinct([str(name) for name in frame.columns], "the table")
    named = {ours: _column_of(frame, ours, theirs) for ours, theirs in (map or {}).items()}
    used = {name for theirs in (map or {}).values() for name in [_source(frame, theirs)[0]]}
    frame = frame.drop(columns=[name for name in {*named, *used} if name in frame.columns]).assign(**named)
    if not arm_names:
        return frame
    if unknown := sorted(set(arm_names) - set(ARMS)):
        raise InputError(f"arm_names {unknown[0]!r}: an arm is plain or distilled")
    if "arm" not in frame.columns:
        raise InputError(
            f"arm_names: the table has no column 'arm'; map it: map arm=NAME, of {listing(frame.columns)}"
        )
    texts, names = arm_texts(frame["arm"].to_numpy()), {}
    for arm, values in arm_names.items():
        for value in [values] if isinstance(values, str) or not isinstance(values, Collection) else values:
            if str(value) not in texts:
                has = listing(dict.fromkeys(texts))
                raise InputError(f"arm_names {arm}={value}: the column 'arm' has no such value; it has {has}")
            names[str(value)] = arm
    return frame.assign(arm=np.array([names.get(text, text) if text else None for text in texts], dtype=object))


def _source(frame: "pd.DataFrame", theirs: str) -> tuple[str, float, bool]:
    """The column, the factor and whether it is subtracted from 1, of THEIRS in a `--map`."""
    if theirs in frame.columns:
        return theirs, 1.0, False
    if match := re.fullmatch(r"1\s*-\s*(.+)", theirs):
        return match[1].strip(), 1.0, True
    if match := re.fullmatch(r"(.+?)\s*\*\s*([\d.eE+-]+)", theirs):
        factor = _plain_number(match[2])
        return (theirs, 1.0, False) if math.isnan(factor) else (match[1].strip(), factor, False)
    return theirs, 1.0, False


def _column_of(frame: "pd.DataFrame", ours: str, theirs: str) -> "pd.Series":
    name, factor, inverted = _source(frame, theirs)
    if name not in frame.columns:
        names = [str(column) for column in frame.columns]
        raise InputError(
            f"map {ours}={theirs}: the table has no column {name!r}{did_you_mean(name, names)}; "
            f"its columns: {listing(names, 20)}"
        )
    values = frame[name]
    if values.dtype == object or str(values.dtype).startswith("str"):
        numbers = as_numbers(values.to_numpy(), ours if ours in SIZES else name)
        values = values if numbers is None else values.to_frame().assign(**{name: numbers})[name]
    if factor == 1 and not inverted:
        return values
    try:
        return 1 - values.astype(float) if inverted else values.astype(float) * factor
    except (TypeError, ValueError):
        raise InputError(f"map {ours}={theirs}: column {name!r} holds values that are not numbers") from None


def arm_texts(values: Sequence[object] | np.ndarray) -> list[str]:
    """The values of a column as text, 1.0 as 1; "" for a missing one."""
    return [
        ""
        if value is None or value != value
        else str(int(value))
        if isinstance(value, float | np.floating) and value.is_integer()
        else str(value).strip()
        for value in values
    ]


# --- Arms and headings


def column_names(table: "Data") -> list[Any]:
    """The names of a table's columns."""
    return list(table.columns) if hasattr(table, "columns") else list(table)


def wide_headings(names: Sequence[str]) -> list[str]:
    """The columns of a wide table that are sizes ("1000", "loss_10k", "1B tokens"); empty for a long table.

    At least three columns whose names are equal but for one number each.
    """
    return list(max(wide_groups(names).values(), key=len, default={}).values())


def wide_groups(names: Sequence[str]) -> dict[str, dict[float, str]]:
    """Words of the headings -> size -> column, of the groups of at least three headings with the same sizes."""
    groups: dict[str, dict[float, str]] = {}
    for name in names:
        if parts := split_heading(name):
            groups.setdefault(parts[0], {})[parts[1]] = name
    largest = max(groups.values(), key=len, default={})
    return {stem: group for stem, group in groups.items() if len(largest) >= 3 and set(group) == set(largest)}


def split_heading(name: str) -> tuple[str, float] | None:
    """The words around the number of a heading, and the number: ("loss", 10000.0) of "loss_10k"; None without one."""
    text = str(name).strip()
    for match in re.finditer(r"(?<![\d.])(\d[\d,_.]*(?:[eE][+-]?\d+)?\s?[kKmMbBgGtT]?)(?![A-Za-z0-9])", text):
        size = parse_size(match[1].strip("_,. "))
        if size >= 0:
            stem = f"{text[: match.start()]} {text[match.end() :]}"
            return " ".join(re.findall(r"[A-Za-z]+", stem)).lower(), size
    return None


def arm_columns(names: Sequence[str]) -> dict[str, dict[str, str]]:
    """What is measured -> arm -> column, of a table with a column an arm: loss_plain and loss_KD, or baseline and KD.

    "" where the columns name nothing but the arms; empty for other tables.
    """
    if "arm" in names:
        return {}
    found: dict[str, dict[str, list[str]]] = {}
    for name in names:
        words = re.findall(r"[A-Za-z]+|[0-9]+", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name))
        for at in sorted({0, len(words) - 1} if words else set()):
            arm = _arm_of(words[at])
            stem = "_".join(word.lower() for number, word in enumerate(words) if number != at)
            if arm and re.fullmatch("[A-Za-z]+", words[at]) and (not stem or column_meaning(stem) in TARGETS):
                found.setdefault(stem, {}).setdefault(arm, []).append(name)
    return {
        stem: {arm: columns[0] for arm, columns in arms.items()}
        for stem, arms in found.items()
        if set(arms) == set(ARMS) and all(len(columns) == 1 for columns in arms.values())
    }


def propose_arms(table: "Data") -> tuple[str, dict[str, str]] | None:
    """The column that seems to hold the arms under other names, and plain and distilled -> its value.

    The column is `arm`, one with a usual other name, or the only one of two values of which one names distillation.
    """
    names = [str(name) for name in column_names(table)]
    usual = ["arm"] if "arm" in names else [name for name in names if _rank("arm", name)[0] is not None]
    for name in [*usual, *(name for name in names if name not in usual and "arm" not in names)]:
        values = list(dict.fromkeys(filter(None, arm_texts(np.asarray(table[name])))))
        if len(values) < 2 or (name not in usual and len(values) > 2) or len(values) > 12:
            continue
        none = next((value for value in values if value.lower() in _NO_TEACHER), None)
        if name.lower() == "teacher" and len(values) == 2 and none:
            return name, {"plain": none, "distilled": next(value for value in values if value != none)}
        kinds = {value: _arm_of(value) for value in values}
        plain = [value for value, kind in kinds.items() if kind == "plain"]
        distilled = [value for value, kind in kinds.items() if kind == "distilled"]
        if name != "arm" and not plain + distilled:
            continue
        if name not in usual and not any(re.search(r"kd|distil|teacher", value, re.I) for value in values):
            continue
        plain = plain or [value for value in values if value not in distilled]
        distilled = distilled or [value for value in values if value not in plain[:1]]
        if not plain or not distilled:
            continue
        return name, {"plain": plain[0], "distilled": distilled[0]}
    return None


def _arm_of(value: str) -> str | None:
    """The arm that a value names; None where it names neither."""
    text = value.lower().strip()
    if text in ("0", "false", "no", "none", "off", "-") or re.match(r"(no|non|not|w/o|without)\b|(no|non)[_-]", text):
        return "plain"
    if text in ("1", "true", "yes", "on") or re.search(r"kd|distil|teacher|taught|hint|fitnet|dkd|crd", text):
        return "distilled"
    words = r"base|plain|vanilla|scratch|student|control|standard|normal|supervised|original|regular|\bce\b|default"
    return "plain" if re.search(words, text) else None
