.PHONY: style quality test
paths = hf_scaling recipes tests benchmarks

style:
	ruff format $(paths)
	ruff check --fix $(paths)

quality:
	ruff format --check $(paths)
	ruff check $(paths)
	mypy --config-file setup.cfg
	lint-imports --config setup.cfg

test:
	pytest
