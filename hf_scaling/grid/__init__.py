"""What to run: grids of runs, single runs, and their ids by content."""

from hf_scaling.grid.expansion import WrittenRun
from hf_scaling.grid.grid import Grid
from hf_scaling.grid.spec import STAGES, PlannedRun, RunSpec, content_hash

__all__ = ["STAGES", "Grid", "PlannedRun", "RunSpec", "WrittenRun", "content_hash"]
