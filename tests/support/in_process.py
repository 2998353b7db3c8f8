"""Plans of grids by this process, which has torch loaded: a process for each plan takes seconds to start."""

import contextlib
import json

from hf_scaling.grid import resolver
from hf_scaling.runner.plans import plan_runs
from hf_scaling.study import look


class Here(contextlib.nullcontext):
    """What answers in place of a `Process`; arguments and answer go through JSON, as between processes."""

    def __init__(self, *_):
        super().__init__(self)

    def ask(self, name, **arguments):
        assert name == "plan"
        return json.loads(json.dumps(plan_runs(**json.loads(json.dumps(arguments)))))


def plan_here(monkeypatch):
    """Plan grids, and what a study looks at, in this process."""
    for module in (resolver, look):
        monkeypatch.setattr(module, "Process", Here)
