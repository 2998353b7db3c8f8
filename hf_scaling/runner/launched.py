"""A process of a run that needs several: accelerate launch --module hf_scaling.runner.launched STUDY RUN."""

import json
import sys

from hf_scaling.errors import InputError, RunError
from hf_scaling.grid import PlannedRun
from hf_scaling.runner.performing import make_run
from hf_scaling.runner.study_folder import Study


def main() -> int:
    """Make this process's part of the run."""
    study, run = sys.argv[1:3]
    try:
        make_run(Study(study), PlannedRun.from_dict(json.loads(run)))
    except (InputError, RunError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
