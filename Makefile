.PHONY: run

# Serve a demonstration on http://localhost:8080: `make run PORT=8081 IMAGES=folder`
run:
	@tools/setup run
	@.venv/bin/python demo/run.py

.PHONY: test lint coverage package

# A file's tests run in one process, which starts their servers once
PARALLEL = -n 3 --dist loadfile --no-loadscope-reorder

# The tests on PostgreSQL, which often wait for servers: `make test DB=sqlite ARGS='-k squid'`
test:
	@tools/setup test
	.venv/bin/pytest $(PARALLEL) $(ARGS)

lint:
	@tools/setup test
	.venv/bin/ruff check
	.venv/bin/ruff format --check
	.venv/bin/mypy

# What the tests reach, in the processes that they start too; it takes longer than `make test`
coverage:
	@tools/setup test
	.venv/bin/coverage erase
	.venv/bin/coverage run -m pytest $(PARALLEL) $(ARGS); status=$$?; \
		.venv/bin/coverage combine -q && .venv/bin/coverage report && exit $$status

# The source distribution and the wheel, in dist/, if they are whole
package:
	@tools/setup test
	tools/package

.PHONY: peers

# The tests of CubicWeb's own packages, and the pages, edits and API of an application, without and
# with the cube: `make peers ARGS=cubicweb-file` for the tests of one alone
peers:
	tools/peers $(ARGS)
	$(if $(ARGS),,tools/intranet)

.PHONY: bench

# Compare with stock CubicWeb in less than ten minutes, and write bench/RESULTS.md: see
# bench/README.md. Some of it alone: `make bench ARGS='pages --rounds 30'`
bench:
	@tools/setup test
	.venv/bin/python bench/run $(ARGS)

.PHONY: fuzz

# Random edits and requests, others each time: `make fuzz SECONDS=600 WIRE_REQUESTS=100000`
fuzz: SECONDS ?= 60
fuzz:
	@tools/setup test
	FUZZ=1 FUZZ_SECONDS=$(SECONDS) EXAMPLES=$(or $(EXAMPLES),50) \
		WIRE_SEED=$${WIRE_SEED:-$$$$} WIRE_REQUESTS=$(or $(WIRE_REQUESTS),10000) \
		STRESS_SEED=$${STRESS_SEED:-$$$$} STRESS_SECONDS=$(SECONDS) \
		.venv/bin/pytest test/test_random_graphs.py test/test_stress.py test/test_wire.py \
		test/test_standby_sequences.py $(ARGS)

.PHONY: docs

# The documentation as a web site, in var/docs. A warning or a broken link is an error
docs:
	@tools/setup docs
	.venv/bin/python -m sphinx -W --keep-going -E -q -d var/doctrees docs var/docs

.PHONY: snapshots

# Write again the generated pages of docs/, and what the tests expect to be rendered: read the diff
snapshots:
	@tools/setup test
	UPDATE_SNAPSHOTS=1 .venv/bin/pytest -q -n 2 test/test_deploy_render.py \
		test/test_documentation.py::test_options
	if [ -e .git ]; then git diff --stat test/sites docs; fi

.PHONY: container

# The image of Containerfile, built and tried with podman, as root: see docs/containers.md
container:
	tools/container $(ARGS)

.PHONY: lab lab-down lab-test

# The example site on ten hosts, which systemd boots on this machine: see docs/lab.md
lab:
	@$(ROOT_ALONE)
	@tools/setup lab
	@.venv/bin/python lab/lab.py up

# End it, in whatever state it is: nothing in .venv is needed
lab-down:
	@$(ROOT_ALONE)
	@PYTHONPATH=test python3 lab/lab.py down

# All its scenarios, which write lab/RESULTS.md: `make lab-test ARGS='-k haproxy'`
lab-test:
	@$(ROOT_ALONE)
	@tools/setup lab
	.venv/bin/pytest -c lab/pytest.ini lab $(or $(ARGS),--results=lab/RESULTS.md)

ROOT_ALONE = [ "$$(id -u)" = 0 ] || { echo "make $@ needs root, on Debian 12: \
	it boots hosts in containers" >&2; exit 1; }
