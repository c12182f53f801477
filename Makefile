# Two commands: `make demo` shows it, `make test` proves it. Both install what is missing.

CARGO ?= cargo

.PHONY: help build packages static crates demo test test-packages test-engines test-kernels test-libvirt-xml test-managers-xml soak test-linux-guest lint doc deny typos bench bench-fleet bench-lake bench-reading bench-verify bench-watch bpf setup clean

help: ## List these targets
	@grep -E '^[a-z-]+:.*##' Makefile | sed -E 's/:[^#]*## /\t/' | expand -t 18

setup: ## Install what building and running need (Debian packages)
	@scripts/setup run

build: ## Build the release binary
	$(CARGO) build --release --locked -p taptrail

packages: ## The .deb and the .rpm, into target/packages; two runs on one commit give the same bytes
	@scripts/setup packages
	@scripts/packages

static: ## Programs without shared libraries, into target/packages/static; TARGET=… for another machine
	@scripts/setup packages $(TARGET)
	@scripts/static $(or $(TARGET),$(shell uname -m)-unknown-linux-musl)

demo: setup ## A guest from start to stop on a real QEMU, and its trail
	$(CARGO) build --release --locked -p taptrail
	@$(CARGO) xtask demo target/release/taptrail

test: ## Everything that must hold: lints, unit, property and end-to-end tests
	@scripts/setup test
	@scripts/test

test-packages: ## The packages installed, upgraded with a running guest, and purged in fresh Debian roots (root)
	@scripts/setup packages
	@scripts/test-packages

test-kernels: ## What needs a vhost-net, on every kernel of the list in xtask/src/kernels.rs
	@scripts/setup test
	@for kernel in $$(cargo xtask kernels); do echo "== $$kernel"; scripts/test-vm --kernel $$kernel || exit; done

test-linux-guest: ## A Linux guest that lets go of its NICs, in a virtual machine (some minutes)
	@scripts/setup test
	@scripts/test-vm --profile linux-guest

test-engines: ## A lake's questions in DuckDB, ClickHouse and a Spark cluster, with a worker killed (root; ten minutes, 2 GB)
	@scripts/setup engines
	$(CARGO) build --locked -p taptrail
	@$(CARGO) xtask engines

test-libvirt-xml: ## libvirt's own test inputs: which are taken, and what QEMU is given for them
	@scripts/test-libvirt-xml

test-managers-xml: ## Which interfaces in the tests of virt-manager, nova and kubevirt are taken
	@scripts/test-managers-xml

soak: setup ## 10,000 rounds of hot-plugging, 200 guests at once, 1,000 random requests, 100,000 starts (two hours)
	TAPTRAIL_SOAK_ROUNDS=10000 TAPTRAIL_SOAK_GUESTS=200 TAPTRAIL_SOAK_REQUESTS=1000 TAPTRAIL_SOAK_STARTS=100000 \
		$(CARGO) nextest run --profile soak --cargo-profile release -p taptrail --features failpoints --no-capture

lint: ## Format and lints alone, as `make test` runs them first
	$(CARGO) fmt --all --check
	@# The fuzz targets are a workspace of their own, whose lock file must know what the crates depend on.
	$(CARGO) metadata --manifest-path fuzz/Cargo.toml --locked --format-version 1 >/dev/null
	$(CARGO) clippy --workspace --all-targets --all-features --locked -- -D warnings
	$(CARGO) xtask promises --check

doc: ## The crates' documentation, whose links must lead somewhere
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --workspace --exclude xtask --lib --no-deps --locked --all-features

crates: ## The crates for others, as cargo would publish them: what is in them, and whether it builds
	@for crate in record trail source; do \
		stray=$$($(CARGO) package --list --allow-dirty --locked -p taptrail-$$crate | \
			grep -vE '^(src/.*\.rs|examples/follow_log\.rs|README\.md|LICENSE-(APACHE|MIT)|Cargo\.(toml|toml\.orig|lock)|\.cargo_vcs_info\.json)$$'); \
		[ -z "$$stray" ] || { echo "crates: taptrail-$$crate has files that nobody needs: $$stray" >&2; exit 1; }; \
	done
	@# Cargo keeps what it unpacked and built of them by version, and takes it for the next state of that version.
	@rm -rf $${CARGO_HOME:-$$HOME/.cargo}/registry/src/-*/taptrail-* target/crates/debug/.fingerprint/taptrail-*
	$(CARGO) package --quiet --allow-dirty --locked --target-dir target/crates -p taptrail-record -p taptrail-trail -p taptrail-source

deny: ## Licences, origins and duplicates of dependencies (needs cargo-deny)
	$(CARGO) deny --locked check bans licenses sources

typos: ## Spelling (needs typos)
	typos

bench: setup ## The figures of docs/performance.md, measured on this machine
	$(CARGO) build --release --locked -p taptrail
	@$(CARGO) xtask bench target/release/taptrail

bench-reading: setup ## How fast logs are read, against wc, ausearch and auvirt
	$(CARGO) build --release --locked -p taptrail
	@$(CARGO) xtask bench-reading target/release/taptrail

bench-fleet: setup ## What a lake costs to which 1,000 hosts send their logs, for ten days (twenty minutes)
	$(CARGO) build --release --locked -p taptrail
	@$(CARGO) xtask bench-fleet target/release/taptrail

bench-lake: setup ## How fast a fleet's lake answers, against DuckDB, and logs are archived (ten minutes)
	$(CARGO) build --release --locked -p taptrail
	@$(CARGO) xtask bench-lake target/release/taptrail

bench-verify: setup ## How fast a host with 200 guests is verified, against lsof and fuser
	$(CARGO) build --release --locked -p taptrail
	@$(CARGO) xtask bench-verify target/release/taptrail

bench-watch: setup ## What it costs to watch, beside tail and grep
	$(CARGO) build --release --locked -p taptrail
	@$(CARGO) xtask bench-watch target/release/taptrail

bpf: ## The program of crates/bpf compiled anew, after a change (needs Debian 12's clang, llvm, libbpf-dev)
	@$(MAKE) -C crates/bpf

clean: ## Remove what was built
	$(CARGO) clean
