.PHONY: style quality docs test
paths = hf_scaling recipes tests benchmarks

style:
	ruff format $(paths)
	ruff check --fix $(paths)

quality:
	ruff format --check $(paths)
	ruff check $(paths)
	mypy --config-file setup.cfg
	lint-imports --config setup.cfg

# Broken links, pages outside the navigation and missing names are errors.
docs:
	mkdocs build --strict --quiet

test:
	pytest
