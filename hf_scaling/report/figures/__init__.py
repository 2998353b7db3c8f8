"""The figures of a report: each function takes data and returns a `Drawing`."""

from hf_scaling.report.figures.canvas import DARK, LIGHT, PAGE, Drawing

__all__ = ["DARK", "LIGHT", "PAGE", "Drawing"]
