"""The distillation boundary: the number of pre-training images at which the plain arm overtakes the distilled one."""

from hf_scaling.boundary.find import Boundary, find_boundary

__all__ = ["Boundary", "find_boundary"]
