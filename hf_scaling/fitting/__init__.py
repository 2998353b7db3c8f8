"""From a table to a fitted law: rows, starts, solver, bootstrap, verdicts, and the choice among laws."""

from hf_scaling.fitting.fit import fit_law
from hf_scaling.fitting.law_fit import LawFit
from hf_scaling.fitting.selection import Ranking, compare_laws

__all__ = ["LawFit", "Ranking", "compare_laws", "fit_law"]
