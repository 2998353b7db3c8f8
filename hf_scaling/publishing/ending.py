"""`--push_to_hub` of the recipes: a finished run is pushed once, at its end, with its own card.

The Trainer would push at every save, with a card of its own; so what it is told of the Hub is taken from it.
"""

import dataclasses
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hf_scaling import transport
from hf_scaling.errors import InputError, PushError
from hf_scaling.publishing.checkpoint import push_checkpoint

if TYPE_CHECKING:
    from transformers import TrainingArguments

_OF_TRAINER = {
    "hub_strategy": "a run is pushed once, at its end",
    "hub_always_push": "a run is pushed once, at its end",
    "hub_revision": "a run is pushed to main",
    "hub_token": "a token in a command stays in its history: `hf auth login`, or set HF_TOKEN",
}


@dataclass(frozen=True)
class PushAtEnd:
    """Where a run goes when it is finished.

    Attributes:
        asked: Whether it is to be pushed at all.
        name: `org/name`, or a name alone for the account that is logged in; the run's folder's when None.
        private: Whether a repository that is made now is private; the account's default when None.
    """

    asked: bool
    name: str | None = None
    private: bool | None = None

    def push(self, folder: Path) -> None:
        """Push the finished run in `folder` from one process, where that was asked for; say where it is.

        Raises:
            PushError: It did not arrive; the run is kept, and the line holds the command that pushes it.
        """
        from hf_scaling.training.environment import is_main

        if not (self.asked and is_main()):
            return
        name = self.name or folder.resolve().name
        try:
            written = push_checkpoint(folder, transport.full_id(name), private=self.private)
        except (InputError, PushError) as error:
            command = ["hf-scaling", "push", str(folder), "--repo", name, *(["--private"] if self.private else [])]
            raise PushError(
                f"the run is finished and kept in {folder}, but not on the Hub: {error}; later: {shlex.join(command)}"
            ) from error
        print(f"hub     {written.url}", flush=True)


def take_push(args: "TrainingArguments") -> "tuple[TrainingArguments, PushAtEnd]":
    """Take out of a recipe's arguments what they say of pushing, before anything is trained.

    Returns:
        The arguments without it, and what was said.

    Raises:
        InputError: A hub_model_id that is none, no login, or an argument that is the Trainer's own way.
    """
    if not args.push_to_hub:
        return args, PushAtEnd(asked=False)
    at_rest = type(args)(output_dir=args.output_dir)
    for name, reason in _OF_TRAINER.items():
        if getattr(args, name) != getattr(at_rest, name):
            raise InputError(f"{name}: {reason}; leave it out")
    _check_place(args.hub_model_id)
    bare = dataclasses.replace(args, push_to_hub=False, hub_model_id=None)
    return bare, PushAtEnd(True, args.hub_model_id, args.hub_private_repo)


def _check_place(name: str | None) -> None:
    """Find before a long training what would keep its end from the Hub."""
    from huggingface_hub import get_token

    if name is not None and not transport.is_repo_id(name if "/" in name else f"org/{name}"):
        raise InputError(f"hub_model_id: {name}: no repository of the Hub is called so; give ORG/NAME")
    if get_token() is None:
        raise InputError("push_to_hub: nobody is logged in: `hf auth login`, or set HF_TOKEN")
