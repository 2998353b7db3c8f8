"""From a grid to a complete results table, on this machine or on Ray.

The runner itself loads no torch: runs are planned and trained in other processes.
"""

from hf_scaling.runner.loop import run_grid

__all__ = ["run_grid"]
