"""Down from the Hub and up to it, and nothing of ours: files, commits, and its errors as one line each.

Nothing of Hugging Face is imported before it is needed, so that HF_ENDPOINT can still be set. The token is
huggingface_hub's affair alone: nothing here reads it but to keep it out of what is said.
"""

from hf_scaling.hub.client import (
    Commit,
    Planned,
    RemoteFolder,
    commit,
    download,
    full_id,
    is_hub_id,
    is_repo_id,
    local_folder,
)
from hf_scaling.hub.errors import hub_errors, push_errors, retried

__all__ = [
    "Commit",
    "Planned",
    "RemoteFolder",
    "commit",
    "download",
    "full_id",
    "hub_errors",
    "is_hub_id",
    "is_repo_id",
    "local_folder",
    "push_errors",
    "retried",
]
