"""A template of `model_cards/` and values to a README.

The templates stand beside the package in the repository; a wheel carries them as data files (`setup.cfg`), which pip
records in the package's metadata wherever it puts them.
"""

import importlib.metadata
import string
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from hf_scaling.errors import InputError

_IN_REPOSITORY = Path(__file__).resolve().parent.parent / "model_cards"


def render_card(template: str, values: Mapping[str, Any], metadata: Mapping[str, Any]) -> str:
    """Fill a card template.

    Args:
        template: Its name in `model_cards/`, without .md; `${name}` in it stands for `values["name"]`.
        values: What the template asks for; all of it must be there.
        metadata: The YAML head that the Hub reads.

    Returns:
        The README's text.

    Raises:
        InputError: No such template, or a value that it asks for is missing.
    """
    text = _template_path(template).read_text(encoding="utf-8")
    try:
        body = string.Template(text).substitute(values)
    except KeyError as error:
        raise InputError(f"the card {template!r} asks for {error}, which this run does not have") from None
    head = yaml.safe_dump(dict(metadata), sort_keys=False, allow_unicode=True)
    return f"---\n{head}---\n\n{body}"


def markdown_table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A Markdown table; floats with four significant digits, None as a dash."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(_cell(each) for each in line) + " |" for line in lines)


def _cell(value: Any) -> str:
    if value is None:
        return "–"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _template_path(template: str) -> Path:
    path = _IN_REPOSITORY / f"{template}.md"
    if path.is_file():
        return path
    for installed in importlib.metadata.files("hf_scaling") or ():
        if installed.parts[-2:] == ("model_cards", f"{template}.md"):
            return Path(installed.locate())
    raise InputError(f"no card template {template!r} in {_IN_REPOSITORY} or in the installed package")
