"""What a path on this machine holds."""

from pathlib import Path

from hf_scaling.errors import InputError


def kind_of(path: str | Path) -> str:
    """What is at `path`: "checkpoint", "law", "study" or "results".

    Raises:
        InputError: Nothing is there, or none of these.
    """
    path = Path(path)
    if path.is_file() and path.suffix in (".parquet", ".csv"):
        return "results"
    if not path.is_dir():
        raise InputError(f"{path}: no such folder and no .parquet or .csv file")
    if (path / "law.json").is_file():
        return "law"
    if (path / "grid.yaml").is_file() or (path / "runs").is_dir():
        return "study"
    if (path / "config.json").is_file() or any(path.glob("*.safetensors")) or (path / "run.yaml").is_file():
        return "checkpoint"
    if any(path.glob("*.parquet")) or any((path / "results").glob("*.parquet")):
        return "results"
    raise InputError(f"{path} holds no checkpoint, no law, no study and no results")
