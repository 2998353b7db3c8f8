"""What to run: grids of runs, single runs, and run ids."""

from hf_scaling.grid.grid import Grid
from hf_scaling.grid.spec import STAGES, PlannedRun, RunSpec, WrittenRun, content_hash

__all__ = ["STAGES", "Grid", "PlannedRun", "RunSpec", "WrittenRun", "content_hash"]
