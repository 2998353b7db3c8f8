"""Scaling laws: predict, invert, differentiate and print, each from one declared formula."""

from hf_scaling.laws.catalogue import LAWS, list_laws
from hf_scaling.laws.evaluator import Evaluator
from hf_scaling.laws.law import Law, Parameter
from hf_scaling.text import COLUMNS

__all__ = ["COLUMNS", "LAWS", "Evaluator", "Law", "Parameter", "list_laws"]
