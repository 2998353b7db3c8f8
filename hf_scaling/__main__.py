"""`python -m hf_scaling`: the same as `hf-scaling`."""

from hf_scaling.cli import main

if __name__ == "__main__":
    main()
