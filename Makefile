# `make` alone lists the targets.

.DEFAULT_GOAL := help
.PHONY: help dev release test lint test-rust fuzz soak clients agents pi image pages schemathesis html diagrams tls test-deploy \
	test-release reproducible deny advisories shellcheck \
	bench bench-quick bench-instructions bench-baseline order profile

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-18s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

dev: ## run the gateway in front of the embedded emulator
	cargo run --release --locked -- dev

release: ## build target/release/ai-proxy
	cargo build --release --locked

test: ## run everything below but recipes and advisories, with one line of counts at the end
	@tests/run

lint: ## formatting, clippy and rustdoc, warnings denied
	@tests/run lint

test-rust: ## the Rust tests
	@tests/run rust

fuzz: ## search for inputs that break a parser, FUZZ_SECONDS [180] for each of FUZZ_TARGETS [all] (needs nightly Rust and cargo-fuzz)
	cp Cargo.lock fuzz/
	for target in $(FUZZ_TARGETS); do \
		mkdir -p fuzz/corpus/$$target \
		&& cargo +nightly fuzz run $$target fuzz/corpus/$$target fuzz/seeds/$$target -- \
			-max_total_time=$(FUZZ_SECONDS) -dict=fuzz/dictionary -max_len=2000 -timeout=10 || exit; \
	done

FUZZ_SECONDS = 180
FUZZ_TARGETS = $(patsubst fuzz/targets/%.rs,%,$(wildcard fuzz/targets/*.rs))

soak: ## many mixed requests with faults on, REQUESTS [1000000] of them; fails on anything that grows or is wrong
	SOAK_REQUESTS=$(or $(REQUESTS),1000000) cargo test --release --locked --test soak -- --nocapture

clients: ## curl, the OpenAI SDKs, and every recipe of docs/clients against `ai-proxy dev`
	@tests/run clients recipes

agents: ## the Agents SDK harness (examples 04-06 need a Docker engine)
	@tests/run agents

pi: ## the pi sandbox (needs a Docker engine)
	@tests/run pi

image: ## build the container image and test it (needs a Docker engine)
	@tests/run image

pages: ## the pages in a real browser (needs chromium)
	@tests/run pages

schemathesis: ## the API against its description, /openapi.json
	@tests/run schemathesis

html: ## write html/, the runbook for reading without a gateway
	cargo run --locked --example local_site

diagrams: ## draw the runbook's diagrams from docs/runbook/*.mmd (needs chromium)
	npm ci --no-audit --no-fund --ignore-scripts --prefix tools/diagrams
	node tools/diagrams/render.mjs

tls: ## TLS of its own, with a real ACME server (needs pebble) and a scanner
	@tests/run tls

test-deploy: ## test the deploy scripts (needs bats and jq) and the manifests
	@tests/run deploy

test-release: ## make a release and check it (needs cargo-auditable); ./release.sh makes a real one
	@tests/run release

reproducible: ## build the commit twice, in two folders, and compare the bytes: some minutes (needs cargo-auditable)
	tools/release/reproducible

deny: ## licences, bans and sources of dependencies (needs cargo-deny)
	@tests/run deny

advisories: ## known holes in dependencies (needs cargo-deny, and a network to fetch RustSec's database)
	@tests/run advisories

shellcheck: ## the shell scripts (needs shellcheck)
	@tests/run shellcheck

bench: ## measure the release build beside nginx and HAProxy, some minutes for each of PARTS [all]
	$(MEASURE) full $(PARTS)

bench-quick: ## the same in less than two minutes, less exact
	$(MEASURE) --fresh --output target/bench-quick.json quick $(PARTS)

bench-instructions: ## count the instructions of a request (needs valgrind); fails if the path has become heavier
	$(MEASURE) instructions

bench-baseline: ## the same, and make it the baseline
	$(MEASURE) baseline

order: ## write build/order.ld, the order of functions in the release build (needs valgrind and nm), after large changes
	KEEP_NAMES=1 $(MEASURE) order

profile: ## write build/profile-….profdata, how often branches of the release build are taken (needs llvm-profdata)
	cargo build --release --locked --target-dir target/counting
	cargo run --profile quick --locked --package ai-proxy-bench -- --gateway target/counting/release/ai-proxy profile

# Two calls of cargo, since the features of the benchmark's dependencies are not to be the gateway's.
MEASURE = cargo build --release --locked && cargo run --profile quick --locked --package ai-proxy-bench -- \
	--gateway $${CARGO_TARGET_DIR:-target}/release/ai-proxy
