"""The distillation boundary: where the distilled and the plain arm cross."""

from hf_scaling.boundary.find import Boundary, find_boundary

__all__ = ["Boundary", "find_boundary"]
