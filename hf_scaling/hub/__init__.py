"""Downloads from the Hub, commits to it, and its errors as one line each: the only code that talks to the network.

huggingface_hub is imported on first use, so that HF_ENDPOINT can still be set. The token is read by huggingface_hub
alone; here it is only removed from messages.
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
    login_state,
    not_asked,
)
from hf_scaling.hub.errors import NotOnHubError, hub_errors, push_errors, retried

__all__ = [
    "Commit",
    "NotOnHubError",
    "Planned",
    "RemoteFolder",
    "commit",
    "download",
    "full_id",
    "hub_errors",
    "is_hub_id",
    "is_repo_id",
    "local_folder",
    "login_state",
    "not_asked",
    "push_errors",
    "retried",
]
