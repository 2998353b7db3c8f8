"""The findings as plain values, with the names of the Python API: what `--json` prints."""

from typing import Any

import numpy as np

from hf_scaling.boundary import Boundary
from hf_scaling.fitting import LawFit
from hf_scaling.report.crossing import Crossing
from hf_scaling.report.findings import Findings, PartFindings
from hf_scaling.report.following import Following
from hf_scaling.report.laws import ArmLaw
from hf_scaling.report.spending import Spending
from hf_scaling.report.transfer import Transfer
from hf_scaling.report.words import answers


def content_of(findings: Findings) -> dict[str, Any]:
    """Dicts, lists, numbers, text and None."""
    return _plain(
        {
            "title": findings.title,
            "n_rows": findings.n_rows,
            "answers": [
                {"code": answer.code, "question": answer.question, "statements": list(map(vars, answer.statements))}
                for answer in answers(findings)
            ],
            "gaps": list(map(vars, findings.gaps)),
            "parts": list(map(_part, findings.parts)),
            "left_out": findings.left_out,
            "facts": findings.facts,
        }
    )


def _part(found: PartFindings) -> dict:
    return {
        "title": found.part.title,
        "stage": found.part.stage,
        **found.part.choice,
        "n_rows": len(found.part.rows),
        "laws": list(map(_law, found.laws)),
        "boundaries": list(map(_crossing, found.crossings)),
        "transfer_gaps": list(map(_transfer, found.transfers)),
        "plans": list(map(_spending, found.spending)),
        "next_runs": None if found.following is None else _following(found.following),
    }


def _law(law: ArmLaw) -> dict:
    return {
        "target": law.target,
        "arm": law.arm.label,
        "best": law.best,
        "fit": None if law.fit is None else _fit(law.fit),
        "ranking": None if law.ranking is None else law.ranking.table.to_dict("records"),
        "forecasts": law.forecasts,
        "problem": law.problem or None,
    }


def _fit(fit: LawFit) -> dict:
    names = ("law", "status", "params", "intervals", "scores", "notes", "weights", "settings")
    return {name: getattr(fit, name) for name in names}


def _crossing(crossing: Crossing) -> dict:
    by_size = [{name: value, **_boundary(boundary)} for name, value, boundary in crossing.by_size]
    return {
        "target": crossing.target,
        "arm": crossing.arm.label,
        "boundary": _boundary(crossing.boundary),
        "by_size": by_size,
        "compute_matched": _boundary(crossing.compute),
        "problem": crossing.problem or None,
    }


def _boundary(boundary: Boundary | None) -> dict | None:
    if boundary is None:
        return None
    names = ("status", "n_pretrain", "low", "high", "crossings", "law_free", "sizes", "notes", "x", "level")
    found = {name: getattr(boundary, name) for name in names}
    return found | {"difference": boundary.difference.to_dict("records")}


def _transfer(transfer: Transfer) -> dict:
    gaps = transfer.gaps
    tables = {} if gaps is None else {name: getattr(gaps, name).to_dict("records") for name in ("table", "worth")}
    notes = [] if gaps is None else gaps.notes
    names = {"target": transfer.target, "arm": transfer.arm.label, "problem": transfer.problem or None}
    return names | tables | {"notes": notes}


def _spending(spending: Spending) -> dict:
    plan, names = (
        spending.plan,
        ("allocation", "predicted", "intervals", "verdict", "cost", "budget", "costs", "notes"),
    )
    found = {} if plan is None else {name: getattr(plan, name) for name in names}
    found |= {} if plan is None else {"frontier": plan.frontier.to_dict("records")}
    return {"target": spending.target, "asked": spending.asked, "problem": spending.problem or None, **found}


def _following(following: Following) -> dict:
    names = ("target", "quantity", "budget")
    runs = following.runs
    found = {name: getattr(following, name) for name in names} | {"problem": following.problem or None}
    return found | {"runs": None if runs is None else runs.to_dict("records")}


def _plain(value: Any) -> Any:
    """Numbers of numpy, dates and missing values as Python's own."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [_plain(item) for item in value]
    if isinstance(value, np.generic):
        return _plain(value.item())
    if value is None or isinstance(value, str | bool | int | float):
        return value
    return None if value != value or str(value) in ("<NA>", "NaT") else str(value)
