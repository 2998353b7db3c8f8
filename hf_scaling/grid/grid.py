"""`Grid`: a study as a person writes it down, read, checked and expanded to runs."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hf_scaling.errors import InputError
from hf_scaling.files import read_yaml, shipped_folder
from hf_scaling.grid import resolver
from hf_scaling.grid.expansion import WrittenRun, expand
from hf_scaling.grid.schema import check
from hf_scaling.grid.spec import PlannedRun, RunSpec


@dataclass(frozen=True)
class Grid:
    """Models, amounts of data, arms, downstream sets and seeds: every combination is a run.

    Attributes:
        name: What the study is called: the file's name without its ending.
        content: The grid's keys and values as they are written (docs/runner.md lists them).
        runs: The runs that follow, each once and after those it needs: teachers before students, pretraining before
            fine-tuning.
    """

    name: str
    content: Mapping[str, Any]
    runs: tuple[WrittenRun, ...]

    @classmethod
    def load(cls, path: str | Path) -> "Grid":
        """Read a grid from a YAML file.

        Args:
            path: The file; or the name of a shipped grid (`demo`), where no such file exists.

        Raises:
            InputError: Not readable, or what `from_dict` refuses; the line begins with the path.
        """
        path = Path(path)
        shipped = shipped_folder("recipes") / "grids" / f"{path.name}.yaml"
        if not path.is_file() and len(path.parts) == 1 and shipped.is_file():
            path = shipped
        try:
            return cls.from_dict(read_yaml(path, "grid"), path.stem)
        except InputError as error:
            raise InputError(str(error) if str(error).startswith(f"{path}: ") else f"{path}: {error}") from None

    @classmethod
    def from_dict(cls, content: Mapping[str, Any], name: str = "grid") -> "Grid":
        """A grid from its keys and values.

        Raises:
            InputError: Unknown keys (the nearest known is named), empty lists, values of the wrong kind, overrides
                that choose nothing. Fields of the recipes and sizes beyond the source are checked by `plan`.
        """
        return cls(name, dict(content), expand(check(content)))

    def plan(self, fill: bool = False, guess: bool = False) -> tuple[PlannedRun, ...]:
        """Its runs with their ids and costs, each once and after those it needs.

        An id needs the sources' fingerprints and the rule as the training half resolves it, so a process of its own
        is asked, which loads torch if nobody asked the same before. No model is trained and no picture is read
        unless `fill` is given, or the source is one of the embedded two.

        Args:
            fill: Fill the sources' caches first, so that every size is checked against its source.
            guess: Where a source or checkpoint cannot be reached, go on with guessed sizes and say so in the runs'
                `provisional`.

        Raises:
            InputError: A field that the recipe does not know, a model or source that does not exist, a size beyond
                its source.
        """
        return resolver.plan(self.runs, fill, guess)

    def specs(self) -> list[RunSpec]:
        """The specifications of its runs, as `plan` finds them."""
        return [each.spec for each in self.plan()]

    def __len__(self) -> int:
        return len(self.runs)

    def __hash__(self) -> int:
        return hash((self.name, self.runs))
