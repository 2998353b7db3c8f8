"""The report of a study as a static Space."""

from hf_scaling import cards, transport


def push_report(
    page: bytes, n_rows: int, dataset: str, repo_id: str, private: bool | None = None, dry_run: bool = False
) -> transport.Commit | transport.Planned:
    """Push a study's report.

    Args:
        page: report.html.
        n_rows: How many runs it tells of.
        dataset: The data set that holds its results on the Hub.
        repo_id: The Space.
        private: Whether a Space that is made now is private.
        dry_run: Write nothing and say what would be written.

    Raises:
        InputError: No right to write.
        PushError: Offline, or the Hub kept failing.
    """
    content = {"index.html": page, "README.md": _card(dataset, n_rows).encode()}

    def prepare(base: transport.RemoteFolder) -> list:
        from huggingface_hub import CommitOperationAdd

        return [CommitOperationAdd(name, each) for name, each in content.items()]

    return transport.commit(repo_id, "space", prepare, f"Report of {n_rows:,} runs", private, dry_run)


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
