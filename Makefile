# Flagon. `make` lists what there is; every target is one line that calls a program.
MODE ?= auto
PORT_BASE ?= 8080
FORMAT ?= text
SHELL := /bin/sh
.DEFAULT_GOAL := help
VENV := .venv/bin
FLAGON := PYTHONPATH=deploy/local $(VENV)/python -m flagonctl --mode $(MODE) --port-base $(PORT_BASE) --format $(FORMAT)
# Values with spaces and quotes reach the program as typed: make gives them to the shell
# as variables, never as text.
export C F ID ONLY P PART ROLE S SCOPE SIGNAL
VALUES := "C=$$C" "F=$$F" "ID=$$ID" "ONLY=$$ONLY" "P=$$P" "PART=$$PART" "ROLE=$$ROLE" "S=$$S" "SCOPE=$$SCOPE" "SIGNAL=$$SIGNAL"

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  \033[1m%-10s\033[0m %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: ## Install what is missing: system packages, .venv from the lock
	@MODE=$(MODE) sh deploy/local/bootstrap.sh

# -- Running ------------------------------------------------------------------------------

up: setup ## Start everything [MODE=local|docker PORT_BASE=8080 ONLY="postgres …"]
	@$(FLAGON) up $(VALUES)
down: ## Stop everything; data stays
	@$(FLAGON) down $(VALUES)
