"""What a study's rows say, worked out before it is pushed: report.html, and the laws that it rests on."""

import re
import shutil
from pathlib import Path

from hf_scaling.results import ResultsTable

REPORT = "report.html"
# Laws that stand under laws/ with this prefix are the report's; others are the user's own.
_PREFIX = "law-"
_LONGEST_LAW = 35  # of the 96 characters that the Hub takes, beside the study's name


def are_outdated(folder: Path) -> bool:
    """Whether a study has no report or no law, or rows that are newer than its report."""
    report = folder / REPORT
    newest = max((each.stat().st_mtime for each in (folder / "results").glob("*.parquet")), default=0.0)
    return not report.is_file() or report.stat().st_mtime < newest or not any(folder.glob("laws/*/law.json"))


def refresh(folder: Path) -> None:
    """Write a study's report, and the law of each part, target and arm in it under laws/law-NAME.

    Raises:
        InputError: The rows cannot be used.
    """
    from hf_scaling.report import write_report

    findings = write_report(ResultsTable.load(folder), folder / REPORT)
    for old in folder.glob(f"laws/{_PREFIX}*"):
        shutil.rmtree(old)
    named: dict[str, int] = {}
    for part in findings.parts:
        for law in part.laws:
            if law.fit is not None:
                name = _law_name(law.target, law.arm.label, part.part.title)
                named[name] = named.get(name, 0) + 1
                number = f"-{named[name]}" if named[name] > 1 else ""
                law.fit.save_pretrained(folder / "laws" / f"{name}{number}")


def _law_name(*words: str) -> str:
    """Words as a name that the Hub takes: law-loss-plain-glyphs-digits; what is too long ends with a whole word."""
    name = _PREFIX.rstrip("-")
    for word in re.findall(r"[a-z0-9]+", " ".join(words).lower().replace(", then ", " ")):
        if len(name) + 1 + len(word) > _LONGEST_LAW - len("-99"):
            break
        name = f"{name}-{word}"
    return name
