"""All laws as text: what `hf-scaling laws` prints, and the table part of docs/laws.md."""

import math
import textwrap
from collections.abc import Iterable

from hf_scaling.laws.catalogue import LAWS
from hf_scaling.laws.columns import COLUMNS
from hf_scaling.laws.law import Law
from hf_scaling.laws.roles import Parameter


def list_laws(names: Iterable[str] = (), width: int = 100) -> str:
    """Name, summary, formula, variables and paper of the named laws, of all without names.

    Args:
        names: Which laws.
        width: Columns of the terminal.

    Raises:
        InputError: There is no law of that name.
    """
    return "\n\n".join(_entry(LAWS[name], width) for name in (tuple(names) or LAWS)) + "\n"


def markdown() -> str:
    """Every law as a section of docs/laws.md."""
    return "\n".join(_section(law) for law in LAWS.values())


def _entry(law: Law, width: int) -> str:
    fields = {"formula": law.formula, "variables": ", ".join(law.variables), "paper": law.paper}
    lines = [law.name, *textwrap.wrap(law.summary, width, initial_indent="  ", subsequent_indent="  ")]
    for field, text in fields.items():
        lines += textwrap.wrap(f"{field:<10} {text}", width, initial_indent="  ", subsequent_indent=" " * 13)
    return "\n".join(lines)


def _section(law: Law) -> str:
    parts = [f"### `{law.name}`", "", law.summary, "", f"$$ {law.latex} $$", "", f"    {law.formula}", ""]
    parts += [f"- Variables: {'; '.join(_variable(name) for name in law.variables)}."]
    if law.unbound:
        parts += [f"- Needs `{law.unbound[0]}`, from `supervised=`: a fit of `chinchilla_coupled` or its parameters."]
    parts += [f"- Linear once the others are fixed: {', '.join(f'`{n}`' for n in law.linear) or 'none'}."]
    parts += [f"- Paper: {law.paper}.", "", "| parameter | kind | bounds |", "|---|---|---|"]
    return "\n".join([*parts, *map(_row, law.parameters), ""])


def _variable(name: str) -> str:
    return f"`{name}` (${COLUMNS[name].symbol}$), {COLUMNS[name].unit}"


def _row(parameter: Parameter) -> str:
    unit = f", in the units of `{parameter.variable}`" if parameter.variable else ""
    high = f"to {parameter.high:g}" if math.isfinite(parameter.high) else "or more"
    return f"| `{parameter.name}` | {parameter.kind}{unit} | {parameter.low:g} {high} |"
