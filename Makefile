# Flagon. `make` lists what there is; every target is one line that calls a program.
MODE ?= auto
PORT_BASE ?= 8080
FORMAT ?= text
SHELL := /bin/sh
.DEFAULT_GOAL := help
VENV := .venv/bin
FLAGON := PYTHONPATH=deploy/local $(VENV)/python -m flagonctl --mode $(MODE) --port-base $(PORT_BASE) --format $(FORMAT)
# Values with spaces and quotes reach the program as typed: make gives what it was told to
# the shell as variables, never as text; and only that, since tests read `SERVER` as well.
VALUES := "AT=$$AT" "BROKER=$$BROKER" "C=$$C" "EVENT_BUS=$$EVENT_BUS" "F=$$F" "GATEWAY=$$GATEWAY" "ID=$$ID" "MAIL_QUEUE=$$MAIL_QUEUE" "N=$$N" "ONLY=$$ONLY" "P=$$P" "PART=$$PART" "REQUEST=$$REQUEST" "ROLE=$$ROLE" "S=$$S" "SCOPE=$$SCOPE" "SERVER=$$SERVER" "SIGNAL=$$SIGNAL" "SNAPSHOT=$$SNAPSHOT" "TO=$$TO" "TOPIC=$$TOPIC" "TYPE=$$TYPE" "WITH=$$WITH"

K8S := $(VENV)/python deploy/k8s/cluster.py --context "$$CONTEXT" --overlay "$${OVERLAY:-local}"
export CONTEXT OVERLAY

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  \033[1m%-10s\033[0m %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: ## Install what is missing: system packages, .venv from the lock
	@MODE=$(MODE) sh deploy/local/bootstrap.sh

# -- Running ------------------------------------------------------------------------------

up: setup ## Start everything [MODE=local|docker PORT_BASE=8080 ONLY="postgres redis-store" WITH=observability|traces BROKER=rabbitmq EVENT_BUS=rabbitmq GATEWAY=haproxy|apache MAIL_QUEUE=rq SERVER=waitress|uwsgi]
	@$(FLAGON) up $(VALUES)
down: ## Stop everything; data stays
	@$(FLAGON) down $(VALUES)
reset: ## Stop everything and forget its data
	@$(FLAGON) reset $(VALUES)
status: ## Every process: health, address, memory [FORMAT=json]
	@$(FLAGON) status $(VALUES)
doctor: ## Name what is wrong and the one next command
	@$(FLAGON) doctor $(VALUES)
logs: ## The log of a process [S=catalog F=1 to follow], or all lines of one request [REQUEST=…]
	@$(FLAGON) logs $(VALUES)
trace: ## What all processes did for one request [ID=… FORMAT=json]
	@$(FLAGON) trace $(VALUES)
kill: ## Kill -9 a process, which then starts again [P=catalog PART=child SIGNAL=TERM]
	@$(FLAGON) kill $(VALUES)
stop: ## Stop one process [P=catalog]
	@$(FLAGON) stop $(VALUES)
start: ## Start one process [P=catalog]
	@$(FLAGON) start $(VALUES)
restart: ## Restart one process, as after a change of its code [P=catalog]
	@$(FLAGON) restart $(VALUES)
roll: ## The checkout's code for a service that people use: beside the old one, which then goes [S=catalog]
	@$(FLAGON) roll $(VALUES)

# -- Using --------------------------------------------------------------------------------

accounts: ## The demonstration accounts as JSON
	@$(FLAGON) accounts $(VALUES)
token: ## An access token by the real code + PKCE flow [ROLE=merchandiser]
	@$(FLAGON) token $(VALUES)
device: ## An access token as a program without a browser gets it: sign in where it says
	@$(FLAGON) device $(VALUES)
mail: ## The newest mails that were written, links included [TO=address N=5 FORMAT=json]
	@$(FLAGON) mail $(VALUES)
watch: ## Events as they happen, a line each [TOPIC="jobs/*" TYPE=… ROLE=operator SNAPSHOT=1 N=… FORMAT=json]
	@$(FLAGON) watch $(VALUES)
cli: ## A service's own commands [S=auth C="clients create …"]
	@$(FLAGON) cli $(VALUES)
psql: ## Look into a service's tables, as a role that only reads [S=catalog C="select …"]
	@$(FLAGON) psql $(VALUES)
migrate: ## Bring the tables up to date [S=catalog]
	@$(FLAGON) migrate $(VALUES)
seed: ## Make demonstration accounts and clients where missing
	@$(FLAGON) seed $(VALUES)
backup: ## Copy the databases as they run; from the first time on, keep their log
	@$(FLAGON) backup $(VALUES)
restore: ## Bring everything back to a moment [AT=2026-11-21T22:00:00Z, else the latest]
	@$(FLAGON) restore $(VALUES)
invariants: ## Ask the databases whether what must be true is true [FORMAT=json]
	@$(FLAGON) invariants $(VALUES)
bench: ## Measure what is promised [N=… for one of tests/bench]
	@$(FLAGON) bench $(VALUES)
# HOST counts only where it is typed: some shells have a variable of that name.
load: setup ## People who come and go, judged by the objectives [PROFILE=smoke USERS=… SECONDS=… LIVE=8089 SEED=… HOST=… ACCOUNTS=…]
	@sh tests/load/load.sh --port-base=$(PORT_BASE) --profile=$(or $(PROFILE),smoke) --users=$(USERS) --seconds=$(SECONDS) --live=$(LIVE) --seed=$(SEED) --host="$(if $(findstring command,$(origin HOST)),$(HOST))" --accounts="$$ACCOUNTS"
ledger: setup ## Jobs while workers are killed every second: none lost, none twice [N=5000]
	@FLAGON_LEDGER_JOBS=$(or $(N),5000) $(VENV)/python -m pytest -q --no-cov services/worker/tests/test_ledger.py
followers: setup ## Followers of 10,000 events while all between them breaks: no silent gap [N=10000 FOLLOWERS=200]
	@FLAGON_FOLLOWED_EVENTS=$(or $(N),10000) FLAGON_FOLLOWERS=$(or $(FOLLOWERS),200) $(VENV)/python -m pytest -q -s tests/e2e/test_followers.py
drill-upgrade: setup ## To the next release and back under traffic, beside each other: a report [MODE=docker RATE=10 SEEN=60 FROM=<tag>]
	@$(VENV)/python tests/drill/run.py --mode=$(MODE) --port-base=$(if $(findstring command,$(origin PORT_BASE)),$(PORT_BASE),29480) --rate=$(RATE) --seen=$(SEEN) --from=$(FROM)
drill-restore: setup ## Lose the database under traffic and go back to a moment: a report [MODE=docker RATE=10 SEEN=60 PRODUCTS=10000]
	@$(VENV)/python tests/drill/restore.py --mode=$(MODE) --port-base=$(if $(findstring command,$(origin PORT_BASE)),$(PORT_BASE),29480) --rate=$(RATE) --seen=$(SEEN) --products=$(PRODUCTS)
drill-faults: setup ## Eleven faults, one after the other: the right alert, no other, a runbook that helps [N=<pattern>]
	@$(VENV)/python tests/drill/faults.py --port-base=$(if $(findstring command,$(origin PORT_BASE)),$(PORT_BASE),29480) --only='$(N)'

# -- In a cluster -------------------------------------------------------------------------

k8s-up: setup ## Bring everything into a cluster [CONTEXT=kind-flagon OVERLAY=local]
	@$(K8S) up
k8s-test: ## Ask the cluster how everything is, while pods come and go, and who reaches whom [CONTEXT=…]
	@$(K8S) test
k8s-down: ## Take everything out of the cluster, data included [CONTEXT=…]
	@$(K8S) down
k8s-images: ## Build the images that the manifests name
	@$(K8S) images
k8s-check: setup ## Prove the manifests without a cluster
	@bash deploy/check.sh k8s

# -- Changing -----------------------------------------------------------------------------

test check: export JUDGES = 1
test: setup ## Tests: all that this machine can run [S=catalog or T=path]
	@$(if $(T)$(S),$(VENV)/python -m pytest $(if $(T),$(T),$(wildcard services/$(S)/tests libs/$(S)/tests)),bash deploy/check.sh test)
format: ## Format the code
	@$(VENV)/ruff format --quiet . && $(VENV)/ruff check --quiet --fix .
lint: ## Style, types, direction of imports
	@bash deploy/check.sh lint
check: setup ## All that CI runs, with a summary
	@bash deploy/check.sh lint test
translations: ## Collect the texts of pages and scripts and compile what was translated
	@$(VENV)/python deploy/translations.py tidy
log-events: ## Write docs/events-log.md, every line of the log, from the code
	@$(VENV)/python deploy/log_events.py
api: ## Write docs/api from the code; what breaks clients needs a version [RELEASE=1]
	@PYTHONPATH=deploy/api $(VENV)/python -m flagonapi $(if $(RELEASE),release,write)
clients: ## Make clients/python and clients/typescript from docs/api/openapi.json
	@sh deploy/clients.sh
places: ## Make the recipes for other places, deploy/{procfile,aws,gcp,azure,vm}, of deploy/k8s and docker-compose.yml
	@PYTHONPATH=deploy/places:deploy/local $(VENV)/python -m flagonplaces
slo: ## Make rules, alerts and docs/slos.md from deploy/observability/slos.yml
	@PYTHONPATH=deploy/observability $(VENV)/python -m flagonobs slo
dashboards: ## Make Grafana's dashboards from deploy/observability/flagonobs
	@PYTHONPATH=deploy/observability $(VENV)/python -m flagonobs dashboards
lock: ## Write requirements.lock anew from every pyproject.toml
	@sh deploy/lock.sh
images: ## Build the container images
	@$(FLAGON) --mode docker images $(VALUES)
sbom: ## What is in each image, as CycloneDX, into dist/sbom [TAG=local]
	@$(VENV)/python deploy/sbom.py dist/sbom --image 'flagon-{}:$(or $(TAG),local)' --epoch "$$(git log -1 --format=%ct)"
reproduce: setup ## Is an image the same when it is built again? [S="web gateway"]
	@FLAGON_LACKING=fail FLAGON_REPRODUCED="$(or $(S),web gateway)" $(VENV)/python -m pytest -q --no-cov tests/images/test_reproducible.py
audit: ## Ask PyPI whether what the images hold has known holes; needs the network
	@sh deploy/audit.sh
clean: ## Remove what tools left in the checkout; data stays
	@rm -rf .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .coverage* dist && find libs services tests deploy -name __pycache__ -type d -prune -exec rm -rf {} +

.PHONY: $(shell sed -n 's/^\([a-z0-9-]*\):.*/\1/p' $(MAKEFILE_LIST))
