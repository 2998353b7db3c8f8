"""How many images and labels there are: planning never asks for more than the sources of a study have."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hf_scaling.fitting.columns import note
from hf_scaling.results.sources import NAME, read_sources
from hf_scaling.scores.agreement import NAME as SCORES
from hf_scaling.text import listing

#: Size -> the column of its source.
SOURCE_OF = {"n_pretrain": "upstream", "n_finetune": "downstream"}
#: A folder with one of these is that of a study: its grid, what its sources have, the scores of its checkpoints.
_OF_A_STUDY = ("grid.yaml", NAME, SCORES)


@dataclass(frozen=True)
class Available:
    """What there is of each size.

    Attributes:
        most: Size -> the most that its sources have; a size of which there is any number, or that the user limits,
            has no entry.
        source: Size -> name of the source that has no more.
        unknown: Sizes of which nothing is known.
    """

    most: dict[str, float]
    source: dict[str, str]
    unknown: tuple[str, ...]

    def notes(self, columns: Iterable[str] = tuple(SOURCE_OF)) -> list[dict[str, Any]]:
        """Note `sizes_not_limited` where nothing is known of one of some sizes."""
        unknown = [column for column in self.unknown if column in columns]
        if not unknown:
            return []
        text = f"without the {NAME} of a study folder it is not known how many images there are: "
        text += f"{listing(unknown)} may exceed what exists; at_most= (--at-most) limits them"
        return [note("sizes_not_limited", "info", text)]


def study_of(*given: Any) -> Path | None:
    """The first of some arguments that is the folder of a study, or a file in one."""
    for path in (Path(place) for place in given if isinstance(place, str | Path)):
        for folder in (path, path.parent):
            if any((folder / name).is_file() for name in _OF_A_STUDY):
                return folder
    return None


def available_sizes(
    study: Path | None, columns: Iterable[str], names: Mapping[str, Iterable[str]], at_most: Iterable[str]
) -> Available:
    """Look up what the sources of a study have.

    Args:
        study: The folder; None where the results are not a study's.
        columns: Sizes that are planned.
        names: `upstream` and `downstream` to the names of the sources.
        at_most: Sizes that the user limits: these limits win.

    Raises:
        InputError: sources.json is damaged.
    """
    sources = {} if study is None else read_sources(study)
    most: dict[str, float] = {}
    limiting: dict[str, str] = {}
    unknown = []
    for column in columns:
        if column not in SOURCE_OF or column in at_most:
            continue
        own = [name for name in names.get(SOURCE_OF[column], ()) if name in sources]
        if not own:
            unknown.append(column)
        for name in own:
            count = sources[name].get("train")
            if count is not None and count < most.get(column, float("inf")):
                most[column], limiting[column] = float(count), name
    return Available(most, limiting, tuple(unknown))
