"""Scaling laws: predict, invert, differentiate and print, each from one declared formula."""

from hf_scaling.laws.catalogue import LAWS
from hf_scaling.laws.columns import COLUMNS
from hf_scaling.laws.formula import Evaluator
from hf_scaling.laws.law import Law
from hf_scaling.laws.listing import list_laws
from hf_scaling.laws.roles import Parameter

__all__ = ["COLUMNS", "LAWS", "Evaluator", "Law", "Parameter", "list_laws"]
