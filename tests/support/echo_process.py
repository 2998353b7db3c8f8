"""Requests for tests of `hf_scaling.processes`: python -m echo_process."""

import os

from hf_scaling.errors import InputError, RunError
from hf_scaling.processes import serve


def fail(kind, text):
    raise {"InputError": InputError, "RunError": RunError, "ValueError": ValueError}[kind](text)


def main():
    print("printed before the first request", flush=True)
    serve(
        {
            "add": lambda first, second: first + second,
            "variable": lambda name: os.environ.get(name),
            "pid": os.getpid,
            "fail": fail,
        }
    )


if __name__ == "__main__":
    main()
