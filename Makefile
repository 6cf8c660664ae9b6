.PHONY: run

# Serve a demonstration on http://localhost:8080: `make run PORT=8081 IMAGES=folder`
run:
	@tools/setup run
	@.venv/bin/python demo/run.py

.PHONY: test lint

# The tests on PostgreSQL: `make test DB=sqlite ARGS='-k squid'`
test:
	@tools/setup test
	.venv/bin/pytest -n 2 $(ARGS)

lint:
	@tools/setup test
	.venv/bin/ruff check
	.venv/bin/ruff format --check

.PHONY: bench

# Compare with stock CubicWeb, in two minutes: `bench/README.md` says how to read it
bench:
	@tools/setup test
	.venv/bin/python bench/downloads
	.venv/bin/python bench/replace
