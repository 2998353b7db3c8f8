"""The report of a study as a static Space."""

from pathlib import Path

from hf_scaling import cards, transport
from hf_scaling.results import ResultsTable

_REPORT = "report.html"


def push_report(
    folder: Path, dataset: str, repo_id: str, private: bool | None = None, dry_run: bool = False
) -> transport.Commit | transport.Planned | str:
    """Push a study's report.html, made first where it is absent or older than the results.

    Args:
        folder: The study.
        dataset: The data set that holds its results on the Hub.
        repo_id: The Space.
        private: Whether a Space that is made now is private.
        dry_run: Write nothing, neither there nor here, and say what would be written.

    Raises:
        InputError: No right to write.
        PushError: Offline, or the Hub kept failing.
    """
    table = ResultsTable.load(folder)
    if _is_outdated(folder):
        if dry_run:
            return f"would be written to the Space {repo_id}: the report, made from {len(table)} rows first"
        from hf_scaling.report import write_report

        write_report(table, folder / _REPORT)
    content = {"index.html": (folder / _REPORT).read_bytes(), "README.md": _card(dataset, len(table)).encode()}

    def prepare(base: transport.RemoteFolder) -> list:
        from huggingface_hub import CommitOperationAdd

        return [CommitOperationAdd(name, each) for name, each in content.items()]

    return transport.commit(repo_id, "space", prepare, f"Report of {len(table)} runs", private, dry_run)


def _is_outdated(folder: Path) -> bool:
    report = folder / _REPORT
    newest = max((each.stat().st_mtime for each in (folder / "results").glob("*.parquet")), default=0.0)
    return not report.is_file() or report.stat().st_mtime < newest


def _card(dataset: str, n_rows: int) -> str:
    name = dataset.rpartition("/")[2]
    head = {
        "title": f"{name}: report",
        "emoji": "📉",
        "colorFrom": "gray",
        "colorTo": "green",
        "sdk": "static",
        "pinned": False,
        "license": "apache-2.0",
        "datasets": [dataset],
        "tags": ["hf_scaling", "scaling-laws"],
    }
    return cards.render_card(
        "report_space", {"title": head["title"], "repo_id": dataset, "n_rows": f"{n_rows:,}"}, head
    )
