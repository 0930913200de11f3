# Needs Python 3.10 or newer and make; everything else goes into .venv.
#   make demo    see a dead Ray cluster's tasks (DEMO_ARGS=--once: compare, print, exit)
#   make test    all tests, brokers included;  make test-fast: those that are quick each
#   make test-conclusions  what a living Ray and its history say side by side, at each moment of some ten minutes
#   make test-oldest  those that start a Ray, and those of answers, with the oldest Ray and DuckDB, in .venv-oldest
#   make fuzz    a server, and then a history, that is sent what means harm, each for FUZZ_SECONDS (1800)
#   make alerts  Prometheus' own checks of the alerts, and each of them fired by a part that is broken
#   make chart   the Helm chart and KubeRay's manifests against their schemas; builds helm, which takes minutes once
#   make release  what would be uploaded, built twice and tried in empty environments; needs a commit, takes minutes
#   make apiserver  the chart and KubeRay's manifests in a real Kubernetes without nodes; builds it, which takes half an hour once
#   make systemd the units under a real systemd, with a broker; needs root and Debian's packages, takes minutes
#   make image   the images, built without Docker and each tried; needs root, a commit and Debian's packages, takes minutes
#   make site    docs/ as a site, in build/site
#   make release-notes  the newest section of CHANGELOG.md
#   make brokers the real servers that tests and benchmarks start: Kafka's jars, and Debian's packages as root
# 3.11.7 comes last: Hypothesis trips over a bug of that CPython now and then (gh-106905)
PYTHONS := python3.12 python3.13 python3.10 $(wildcard $(PYENV_ROOT)/versions/3.12.*/bin/python) python3 python3.11
PYTHON ?= $(firstword $(shell for p in $(PYTHONS); do "$$p" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null && echo "$$p"; done))
VENV ?= .venv
BIN := $(VENV)/bin
OLDEST := .venv-oldest
# of that Ray's time: its Serve asks for what protobuf 7 has not, which grpcio-reflection asks for
OLDEST_RAY := ray[data,default,serve]==2.48.0 protobuf==6.33.6
# what Python 3.10 gets
OLDEST_DUCKDB := duckdb==1.5.6
CONCLUSIONS := tests/ray/test_conclusions.py
OLDEST_TESTS := tests/answers tests/ray/test_live.py tests/ray/test_snapshot.py tests/sources/test_hooked_ray.py tests/sources/test_live.py
FIRES := tests/alerts/test_fires.py
CHART := .venv-chart
RELEASE := .venv-release
SITE := .venv-site
# of the two above alone
NO_GROUPS := --no-group release --no-group site
# each that is here: an extra is installed for all of them
RELEASE_PYTHONS := $(foreach minor,10 11 12 13 14,$(firstword $(wildcard $(PYENV_ROOT)/versions/3.$(minor).*/bin/python) $(shell command -v python3.$(minor))))
HELM := helm.sh/helm/v3/cmd/helm@v3.22.0
# the newest that the Go module proxy has
KUBERAY := github.com/ray-project/kuberay/ray-operator@v1.5.0
PROMETHEUS := github.com/prometheus-operator/prometheus-operator@v0.85.0
COMPOSE := github.com/compose-spec/compose-go/v2@v2.16.2
KUBERNETES := 1.37.2
SYSTEMD := build/systemd
DEMO_ARGS ?=
FUZZ_SECONDS ?= 1800
BENCH_ARGS ?=
# a Ray is dozens of Pythons: without bytecode each of them compiles all that it imports, once more at each start
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test test-fast test-conclusions test-oldest fuzz fuzz-server fuzz-history brokers lint types docs alerts chart chart-write apiserver systemd release image site release-notes bench clean

$(VENV)/.installed: pyproject.toml uv.lock
	$(if $(PYTHON),,$(error no Python 3.10 or newer on PATH; name one: make PYTHON=/path/to/python3))
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	VIRTUAL_ENV=$(abspath $(VENV)) $(BIN)/uv sync --quiet --frozen --active --all-extras --all-groups $(NO_GROUPS) --compile-bytecode
	touch $@

$(OLDEST)/.installed: $(VENV)/.installed
	$(PYTHON) -m venv $(OLDEST)
	VIRTUAL_ENV=$(abspath $(VENV)) $(BIN)/uv export --quiet --frozen --all-extras --all-groups $(NO_GROUPS) --no-emit-project --no-hashes \
		| grep -vE '^(ray|protobuf|grpcio-reflection|duckdb)==' > $(OLDEST)/requirements.txt
	VIRTUAL_ENV=$(abspath $(OLDEST)) $(BIN)/uv pip install --quiet --compile-bytecode -r $(OLDEST)/requirements.txt $(foreach requirement,$(OLDEST_RAY) $(OLDEST_DUCKDB),'$(requirement)') -e .
	touch $@

demo: $(VENV)/.installed
	$(BIN)/python -m demo.demo $(DEMO_ARGS)

brokers:
	sh tests/brokers/fetch.sh

test: $(VENV)/.installed brokers
	$(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder --ignore $(CONCLUSIONS) --ignore $(FIRES) --cov --cov-report=
	$(BIN)/coverage report --skip-covered --fail-under=95

test-fast: $(VENV)/.installed
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m "not slow"

test-conclusions: $(VENV)/.installed
	$(BIN)/python -m pytest $(CONCLUSIONS)

fuzz: fuzz-server fuzz-history

fuzz-server: $(VENV)/.installed
	FUZZ_SECONDS=$(FUZZ_SECONDS) $(BIN)/python -m pytest -s tests/server/test_fuzz.py

fuzz-history: $(VENV)/.installed
	$(BIN)/python -m tests.fuzz_history $(FUZZ_SECONDS)

test-oldest: $(OLDEST)/.installed brokers
	$(OLDEST)/bin/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder $(OLDEST_TESTS)

lint: $(VENV)/.installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(VENV)/.installed
	$(BIN)/mypy

docs: $(VENV)/.installed
	$(BIN)/python docs/generate.py

alerts: $(VENV)/.installed
	sh tests/brokers/debian.sh prometheus redis-server
	promtool check rules deploy/prometheus/alerts.yaml
	promtool test rules deploy/prometheus/alerts_test.yaml
	$(BIN)/python -m pytest $(FIRES)

# Kubernetes' schemas come with kubernetes-validate, KubeRay's and Compose's with their Go modules
$(CHART)/.installed: $(VENV)/.installed
	$(PYTHON) -m venv $(CHART)
	VIRTUAL_ENV=$(abspath $(CHART)) $(BIN)/uv pip install --quiet kubernetes-validate==1.37.0
	CGO_ENABLED=0 GOBIN=$(abspath $(CHART))/bin go install -ldflags='-s -w' $(HELM)
	go mod download $(KUBERAY) $(PROMETHEUS) $(COMPOSE)
	touch $@

chart: $(CHART)/.installed
	$(CHART)/bin/python -m deploy.check --helm $(CHART)/bin/helm $(CHART_ARGS) \
		--kuberay $$(go list -m -f '{{.Dir}}' $(KUBERAY))/config/crd/bases \
		--prometheus $$(go list -m -f '{{.Dir}}' $(PROMETHEUS))/example/prometheus-operator-crd \
		--compose $$(go list -m -f '{{.Dir}}' $(COMPOSE))/schema/compose-spec.json

chart-write: CHART_ARGS := --write
chart-write: chart

$(CHART)/.kubernetes-$(KUBERNETES): $(CHART)/.installed deploy/apiserver/build.sh
	sh deploy/apiserver/build.sh $(KUBERNETES) $(abspath $(CHART))/bin
	touch $@

apiserver: $(CHART)/.kubernetes-$(KUBERNETES)
	sh tests/brokers/debian.sh etcd-server
	$(BIN)/python -m deploy.apiserver.check --programs $(CHART)/bin \
		--crds $$(go list -m -f '{{.Dir}}' $(KUBERAY))/config/crd/bases \
		$(foreach one,podmonitors prometheusrules,--crds $$(go list -m -f '{{.Dir}}' $(PROMETHEUS))/example/prometheus-operator-crd/monitoring.coreos.com_$(one).yaml)

$(SYSTEMD)/.base: $(VENV)/.installed uv.lock deploy/systemd/base.sh
	sh tests/brokers/debian.sh mmdebstrap systemd-container
	mkdir -p $(SYSTEMD)
	$(BIN)/uv export --quiet --frozen --no-emit-project --no-default-groups --extra server --extra redis > $(SYSTEMD)/requirements.txt
	sh deploy/systemd/base.sh $(SYSTEMD)/base $(SYSTEMD)/requirements.txt
	touch $@

systemd: $(SYSTEMD)/.base
	rm -rf $(SYSTEMD)/dist
	$(BIN)/uv build --quiet --wheel --out-dir $(SYSTEMD)/dist
	$(BIN)/python -m deploy.systemd.check --base $(SYSTEMD)/base --dist $(SYSTEMD)/dist

$(RELEASE)/.installed: $(VENV)/.installed
	$(PYTHON) -m venv $(RELEASE)
	VIRTUAL_ENV=$(abspath $(RELEASE)) $(BIN)/uv sync --quiet --frozen --active --only-group release
	touch $@

release: $(RELEASE)/.installed
	$(RELEASE)/bin/python -m release.build --uv $(abspath $(BIN))/uv --out dist $(RELEASE_ARGS)
	$(RELEASE)/bin/python -m release.check dist --uv $(abspath $(BIN))/uv --twine $(RELEASE)/bin/twine $(foreach python,$(RELEASE_PYTHONS),--python $(python))

# in a mount namespace, so that buildah leaves no mount behind
image: $(RELEASE)/.installed
	sh tests/brokers/debian.sh buildah mmdebstrap
	unshare --mount --propagation private sh -ec '\
		$(RELEASE)/bin/python -m deploy.image.build --uv $(abspath $(BIN))/uv $(IMAGE_ARGS); \
		$(BIN)/python -m deploy.image.check'
	rm -rf build/image/storage build/image/run

# the package is there for the page that is made of its docstrings
$(SITE)/.installed: $(VENV)/.installed
	$(PYTHON) -m venv $(SITE)
	VIRTUAL_ENV=$(abspath $(SITE)) $(BIN)/uv sync --quiet --frozen --active --no-default-groups --group site
	touch $@

site: $(SITE)/.installed
	$(SITE)/bin/python -m website.build

release-notes:
	@awk '/^## / { if (found) exit; found = 1 } found' CHANGELOG.md

bench: $(VENV)/.installed
	$(BIN)/python -m bench $(BENCH_ARGS)

clean:
	rm -rf $(VENV) $(OLDEST) $(CHART) $(RELEASE) $(SITE) build dist
