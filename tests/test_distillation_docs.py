"""The example in docs/distillation.md runs as it is shown."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[1] / "docs" / "distillation.md"


@pytest.mark.slow
def test_the_example_runs(tmp_path):
    example = re.search(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL).group(1)
    done = subprocess.run([sys.executable, "-c", example], cwd=tmp_path, capture_output=True, text=True, check=True)
    losses = dict(re.findall(r"^(teacher|plain|distilled) +([\d.]+)$", done.stdout, re.MULTILINE))
    assert losses.keys() == {"teacher", "plain", "distilled"}
    assert float(losses["teacher"]) < float(losses["distilled"])
