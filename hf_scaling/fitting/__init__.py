"""From a table to a fitted law: rows, estimate, bootstrap, diagnostics, and the selection among laws."""

from hf_scaling.fitting.fit import FitOptions, fit_law
from hf_scaling.fitting.law_fit import LawFit
from hf_scaling.fitting.rows import RowFilter
from hf_scaling.fitting.selection import Ranking, compare_laws

__all__ = ["FitOptions", "LawFit", "Ranking", "RowFilter", "compare_laws", "fit_law"]
