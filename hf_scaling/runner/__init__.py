"""A grid to a full results table, on this machine or on Ray.

The runner itself loads no torch: runs are resolved and made in processes of their own.
"""

from hf_scaling.runner.loop import run_grid

__all__ = ["run_grid"]
