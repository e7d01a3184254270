# The front door. ARGS go to the program behind each target: make demo ARGS="--replicas 3"
.DEFAULT_GOAL := help
.PHONY: help demo test release bench chaos regress ci lint fmt

help: ## what there is to make
	@sed -n 's/^\([a-z]*\): ## /\1 /p' $(MAKEFILE_LIST) | while read -r target what; do printf 'make %-7s %s\n' "$$target" "$$what"; done

demo: ## a PostgreSQL primary with replicas and Hakem in front of them, all on this machine and removed at the end
	@.ci/install demo
	@HAKEM_PG_BIN="$$(.ci/postgres)" cargo run --release --locked -p hakem -- demo $(ARGS)

test: ## all tests, against real servers that they start; then a look at what they left behind
	@.ci/test $(ARGS)

release: ## the program as it should run, in target/layout: built at length, and compiled and laid out in memory by what it executes
	@.ci/install release
	@cargo build --release --locked -p load
	@benches/layout/run --pg-bin "$$(.ci/postgres)"

bench: ## Hakem beside PgBouncer and no proxy, in all that a pooler costs; table and chart go to benches/results, in a quarter of an hour
	@.ci/install bench
	@$(MAKE) --no-print-directory release
	@benches/suite/run --hakem target/layout/hakem $(ARGS)

chaos: ## a Patroni cluster killed, frozen and cut off behind Hakem and behind HAProxy with PgBouncer; the table goes to benches/results
	@.ci/install chaos
	@cargo build --release --locked -p hakem
	@mkdir -p benches/results
	@HAKEM_PG_BIN="$$(.ci/postgres)" cargo run --locked -p chaos -- --output benches/results/chaos.md $(ARGS)

regress: ## PostgreSQL's own regression suite through Hakem, and what differs from a direct run
	@.ci/install regress
	@tests/regress/run $(ARGS)

ci: ## everything that has to hold before a push
	@.ci/run

lint: ## format, edges, dependencies and lints only
	@cargo fmt --all -- --check
	@.ci/edges
	@.ci/deny
	@cargo clippy --workspace --all-targets --locked -- -D warnings

fmt: ## format the sources
	@cargo fmt --all
