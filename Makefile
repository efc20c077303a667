# make run: set up and run the pipeline.  make test: set up and run the tests.
# make fuzz: the readers of data on broken files, EXAMPLES=2000 of each format.
# make bench: measure against TRL, and what the pipeline costs.
# make vllm: add vLLM, for `decoding.engine: vllm` in params.yaml, on a machine with a GPU.
# make audit: known holes in what is installed.
# make faults: let everything die at every place, and see that it recovers (docs/reliability.md).
# Needs Python 3.11 or newer, git and make.
.PHONY: setup run test fuzz bench faults vllm check audit lock clean
.DEFAULT_GOAL := run

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.complete
ORACLE := $(VENV)/.oracle
PPO_ORACLE := $(VENV)/trl-1.12
AUDIT := $(VENV)/audit
LOG := $(VENV)/setup.log
PIP = $(BIN)/python -m pip install --no-input --disable-pip-version-check -q
ARGS ?=

setup: $(STAMP)

# The stamp is written last, so that a set-up that was broken off is done again.
$(STAMP): requirements.lock torch.lock pyproject.toml
	@set -e; python=; \
	for name in $(PYTHON) python3 python3.11 python3.12 python3.13 python; do \
	  if "$$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then python=$$name; break; fi; \
	done; \
	if [ -z "$$python" ]; then \
	  echo "error: no Python 3.11 or newer is found. Install one, or name it: make PYTHON=/path/to/python3" >&2; exit 10; \
	fi; \
	command -v git >/dev/null || { echo "error: git is not found. Install it: DVC needs it" >&2; exit 10; }; \
	test -x $(BIN)/python || "$$python" -m venv $(VENV) || \
	  { echo "error: $$python cannot make $(VENV). Install its venv module (Debian: python3-venv)" >&2; exit 10; }; \
	echo "Setting up $(VENV) from requirements.lock: a few minutes the first time (log: $(LOG))"; \
	{ $(PIP) --require-hashes --no-deps -r requirements.lock && $(PIP) -r torch.lock && \
	  $(PIP) --no-deps --no-build-isolation -e .; \
	} >$(LOG) 2>&1 || { tail -n 20 $(LOG) >&2; echo "error: the set-up failed; all of it is in $(LOG)" >&2; exit 1; }; \
	touch $@

# What TRL needs is locked already.
$(ORACLE): $(STAMP)
	@trl=$$(sed -n 's/^bench = \["\(trl==[^"]*\)"\].*/\1/p' pyproject.toml); \
	$(PIP) --no-deps "$$trl" >$(LOG) 2>&1 || \
	  { tail -n 20 $(LOG) >&2; echo "error: TRL could not be installed; all of it is in $(LOG)" >&2; exit 1; }
	@touch $@

# The last release of TRL with PPO, apart: benchmarks/peer_ppo.py alone looks there.
$(PPO_ORACLE): $(STAMP)
	@$(PIP) --no-deps --target $@.partial \
	  trl==1.12.0 >$(LOG) 2>&1 || \
	  { tail -n 20 $(LOG) >&2; echo "error: TRL 1.12 could not be installed; all of it is in $(LOG)" >&2; exit 1; }
	@rm -rf $@ && mv $@.partial $@

run: setup
	@$(BIN)/rlhf run $(ARGS)

# Two processes with one thread each; a file's tests stay together, for they share servers and trained models.
test: setup $(ORACLE)
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist loadscope --no-loadscope-reorder $(ARGS)

# The readers of data on broken files, far longer than a test may take.
fuzz: setup
	@RLHF_FUZZ=$(or $(EXAMPLES),2000) $(BIN)/python -m pytest -q tests/data/test_fuzz_readers.py $(ARGS)

bench: setup $(ORACLE) $(PPO_ORACLE)
	@$(BIN)/python -m benchmarks $(ARGS)

faults: setup
	@OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.faults $(ARGS)

# vLLM names older releases of fastapi and transformers than Prefect and we need. Its engine runs with the locked ones,
# which therefore come last; pip says that it would rather not. Its release is the one made for the torch of the lock.
vllm: setup
	@$(PIP) vllm==0.32.0 && $(PIP) --require-hashes --no-deps -r requirements.lock

check: setup
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/python -m rlhf.pipeline.fingerprint --check

# By PyPA's pip-audit, in a place of its own. It asks for advisories; a package that it could not ask about is an error.
audit: setup
	@test -x $(AUDIT)/bin/pip-audit || { $(BIN)/python -m venv $(AUDIT) && \
	  $(AUDIT)/bin/python -m pip install --no-input --disable-pip-version-check -q pip-audit==2.10.1; }
	@$(AUDIT)/bin/pip-audit --strict --disable-pip --no-deps -r requirements.lock -r torch.lock $(ARGS) || \
	  { echo "error: the lines above name what has a hole, or what could not be looked up" >&2; exit 1; }

# After a change of dependencies: install them into .venv, then write down what is proven to work together, with the
# hashes of every file that the registry has of it. torch has none: which build of it is right depends on the machine.
lock:
	@$(PIP) uv==0.13.9
	@$(BIN)/python -m pip freeze --exclude-editable --exclude trl --exclude uv 2>/dev/null | sed 's/+[a-z0-9.]*$$//' > .frozen.partial
	@{ echo "# Proven together on Python 3.11. Written by make lock; install with make setup."; \
	   grep -v '^torch==' .frozen.partial | $(BIN)/uv pip compile - --no-deps --generate-hashes --universal -q --no-header \
	     --no-annotate --no-emit-index-url --python-version 3.11; } > .requirements.partial
	@{ echo "# With requirements.lock; no hash, since the build depends on the machine."; grep '^torch==' .frozen.partial; } > torch.lock
	@mv .requirements.partial requirements.lock && rm .frozen.partial

clean:
	@if [ -x $(BIN)/rlhf ]; then $(BIN)/rlhf down; fi
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis
