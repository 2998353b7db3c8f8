"""A template of `model_cards/` and values to a README.

The templates stand beside the package in the repository; a wheel carries them as data files (`setup.cfg`), which pip
records in the package's metadata wherever it puts them.
"""

import re
import string
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from hf_scaling.errors import InputError
from hf_scaling.files import shipped_folder

#: How to cite the method and this project (CITATION.cff), as a card shows it.
CITATION = """```bibtex
@article{yang2025scaling,
  title = {Scaling Laws for Data-Efficient Visual Transfer Learning},
  author = {Yang and others},
  journal = {arXiv preprint arXiv:2504.13219},
  year = {2025}
}
@article{barnett2024empirical,
  title = {An Empirical Study of Scaling Laws for Transfer},
  author = {Barnett},
  journal = {arXiv preprint arXiv:2408.16947},
  year = {2024}
}
@software{hf_scaling,
  title = {hf_scaling: scaling laws of visual transfer learning and distillation},
  author = {{The hf_scaling maintainers}},
  license = {Apache-2.0}
}
```"""

# What stands between these is made anew with each push; what people write before or after it stays.
_BEGIN, _END = "<!-- made by hf_scaling, made anew with each push -->", "<!-- end of what hf_scaling made -->"
_HEAD = re.compile(r"\A---\r?\n(.*?\r?\n|)---\r?\n?(.*)\Z", re.DOTALL)
# Keys of a card's head in which people's own choice wins over ours.
_THEIRS = ("license", "license_name", "license_link", "pretty_name", "language")


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
    path = shipped_folder("model_cards") / f"{template}.md"
    if not path.is_file():
        raise InputError(f"no card template {template!r} in {path.parent}")
    text = path.read_text(encoding="utf-8")
    try:
        body = string.Template(text).substitute(values)
    except KeyError as error:
        raise InputError(f"the card {template!r} asks for {error}, which this run does not have") from None
    return with_head(metadata, body)


def read_card(text: str, where: str) -> tuple[dict[str, Any], str]:
    """The head and the body of a card that is not ours to trust.

    Args:
        text: The README.
        where: How a message calls it.

    Raises:
        InputError: The head is not plain YAML of keys and values.
    """
    found = _HEAD.match(text)
    if not found:
        return {}, text
    try:
        head = yaml.safe_load(found[1]) or {}
    except yaml.YAMLError as error:
        raise InputError(f"{where}: the head of README.md is not plain YAML: {' '.join(str(error).split())}") from None
    if not isinstance(head, dict):
        raise InputError(f"{where}: the head of README.md must hold keys and values")
    return head, found[2].lstrip("\n")


def renew_card(old: str, new: str, where: str) -> str:
    """A card rendered anew in the place of the one that a repository holds, with what people wrote into that one.

    Args:
        old: The README that is there; "" where there is none.
        new: The card as rendered.
        where: The repository, for messages.

    Returns:
        What was made anew between two comments, and round it what stood round them in the old card, or in `new` where
        there is no old one; of the head, keys that only the old one has, its license, name and language, and the tags
        of both.

    Raises:
        InputError: The old card's head is not plain YAML.
    """
    theirs, around = read_card(old, where)
    ours, body = read_card(new, where)
    tags = list(dict.fromkeys([*ours.get("tags", ()), *(theirs.get("tags") or ())]))
    head = {**theirs, **ours, **{key: theirs[key] for key in _THEIRS if key in theirs}} | (
        {"tags": tags} if tags else {}
    )
    # A card that was pulled and is pushed again brings the comments along.
    above, made, below = _parted(body) if _BEGIN in body else ("", body, "")
    if around.strip():
        above, _, below = _parted(around) if _BEGIN in around else ("", "", around)
    parts = [above.strip(), f"{_BEGIN}\n\n{made.strip()}\n\n{_END}", below.strip()]
    return with_head(head, "\n\n".join(part for part in parts if part) + "\n")


def with_head(metadata: Mapping[str, Any], body: str) -> str:
    """A card of a head that the Hub reads and a body."""
    head = yaml.safe_dump(dict(metadata), sort_keys=False, allow_unicode=True)
    return f"---\n{head}---\n\n{body}"


def markdown_table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A Markdown table; floats with four significant digits, None as a dash."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(_cell(each) for each in line) + " |" for line in lines)


def _parted(body: str) -> tuple[str, str, str]:
    """A card's body as what stands before what we made, what we made, and what stands after it."""
    before, _, rest = body.partition(_BEGIN)
    made, _, after = rest.partition(_END)
    return before, made, after


def _cell(value: Any) -> str:
    if value is None:
        return "–"
    # A name with a bar or a line break in it must not end its cell.
    return f"{value:.4g}" if isinstance(value, float) else " ".join(str(value).split("\n")).replace("|", "\\|")
