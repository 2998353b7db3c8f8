"""A collection of the Hub: the repositories of a study on one page."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from hf_scaling.transport.retrying import retried
from hf_scaling.transport.telling import push_errors

if TYPE_CHECKING:
    from huggingface_hub import Collection

    from hf_scaling.publishing.study import Part

_KINDS = {"results": "dataset", "report": "space", "model": "model", "law": "model"}
_LONGEST_NOTE = 500
_LONGEST_TITLE = 59


def show(slug: str | None, repo_id: str, parts: "Sequence[Part]", private: bool | None) -> str:
    """Show parts of a study in its collection, which is made where it is not there yet.

    Args:
        slug: The collection that an earlier push made; None where none is known.
        repo_id: The study's data set.
        parts: What to show; what is shown already stays as it is.
        private: Whether a collection that is made now is private.

    Returns:
        The collection's slug.

    Raises:
        InputError: No right to write.
        PushError: Offline, or the Hub kept failing; the same call goes on.
    """
    with push_errors(f"the collection of {repo_id}"):
        found = retried(lambda: _open(slug, repo_id, private))
        there = {(each.item_type, each.item_id) for each in found.items}
        for part in parts:
            if (_KINDS[part.kind], part.repo_id) not in there:
                retried(lambda part=part: _add(found.slug, part))
        return found.slug


def _open(slug: str | None, repo_id: str, private: bool | None) -> "Collection":
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    if slug is not None:
        try:
            return HfApi().get_collection(slug)
        except HfHubHTTPError as error:
            # Somebody removed it: a new one takes its place.
            if error.response.status_code != 404:
                raise
    namespace, _, name = repo_id.partition("/")
    return HfApi().create_collection(
        name[:_LONGEST_TITLE],
        namespace=namespace,
        description=f"A study made with hf_scaling: results, models, laws and report of {name}"[:150],
        private=bool(private),
        exists_ok=True,
    )


def _add(slug: str, part: "Part") -> None:
    from huggingface_hub import HfApi

    note = part.note[:_LONGEST_NOTE] or None
    HfApi().add_collection_item(slug, part.repo_id, _KINDS[part.kind], note=note, exists_ok=True)
