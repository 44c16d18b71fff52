# What the README's commands do. Each target needs only what the README names.

.PHONY: demo console test third-party containers check quick release dist deb image installs pages reliability friday bench

# What tests leave out where nothing can be mounted: only root can make a small disk.
NO_DISKS := $(shell unshare --mount true 2>/dev/null || echo --skip full_disk::)

# The tests of the fence that hold in containers too, and what of them is about namespaces of Rota's own: images of its own and what
# the kernel refuses to the server; programs that the machine has and the image has not. With cgroups of version 1 nobody limits
# buffers of sockets of a container.
IN_CONTAINERS := $(foreach test,fence files gate limits links openings shell tools trust,--test $(test))
NOT_IN_CONTAINERS := $(foreach test,a_machine_that_refuses_a_step_runs_nothing a_refusal_as_in_a_container a_root_file_system_of_the_operator_s \
  in_a_root_file_system_of_the_operator_s a_shortage_at_the_start_of_a_sandbox from_inside_an_image buffers_of_sockets_count \
  on_a_machine_that_cannot_isolate programs_of_all_kinds,--skip $(test))

# The whole way once: server, agent, environment, deployment, run, live session.
demo:
	@echo 'Building Rota: some five minutes the first time, seconds after that.'
	cargo run -p rota -- demo

# Everything: what `check` does, the same tests and every statement on PostgreSQL, and the official SDKs and Schemathesis against the
# real binary; the widest of the suites also on PostgreSQL. Always of the whole workspace: with the features of one package alone
# the server would be built again.
test: check
	tests/with-postgres sh -c 'ROTA_STATEMENTS=$(CURDIR)/target/statements \
	  cargo test --workspace --test it --test statements -- --include-ignored --skip bucket --skip promtool --skip a_year --skip llama:: --skip large_files:: --skip containers:: \
	  --skip mcp::official $(NO_DISKS) && tests/sdk/run python' || [ $$? = 77 ]
	tests/with-s3 cargo test --workspace --test it bucket -- --include-ignored || [ $$? = 77 ]
	tests/with-mcp tests/with-postgres cargo test --workspace --test it mcp::official -- --include-ignored || [ $$? = 77 ]
	tests/with-promtool cargo test --workspace --test it promtool -- --include-ignored || [ $$? = 77 ]
	tests/with-llama cargo test --workspace --test it llama -- --include-ignored || [ $$? = 77 ]
	tests/with-containers sh -c 'cargo test --workspace --test containers --test fence --test gate --test files -- --include-ignored \
	  $(NOT_IN_CONTAINERS) && cargo test --workspace --test it -- containers:: --include-ignored' || [ $$? = 77 ]
	tests/sdk/run
	tests/console/run || [ $$? = 77 ]
	tests/install/quickstart || [ $$? = 77 ]

# The clients that others wrote of docs/compatibility.md, against the real binary: some minutes the first time.
third-party:
	cargo build -p rota
	tests/sdk/run third-party

# What holds in containers, all of it: ten minutes, as root.
containers:
	tests/with-containers cargo test --workspace --test containers $(IN_CONTAINERS) -- --include-ignored $(NOT_IN_CONTAINERS) || [ $$? = 77 ]
	tests/with-containers cargo test -p rota --test it -- containers:: egress:: turns:: --include-ignored $(NOT_IN_CONTAINERS) || [ $$? = 77 ]

# Before each commit: format, lints, docs, licences, and every Rust test that needs no PostgreSQL.
check:
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- --deny warnings
	RUSTDOCFLAGS='--deny warnings' cargo doc --quiet --workspace --no-deps
	deny=$$(tests/setup --print-cargo-deny) && $$deny check licenses bans sources || [ $$? = 77 ]
	tests/setup --clients || [ $$? = 77 ]
	rm -f target/statements
	ROTA_STATEMENTS=$(CURDIR)/target/statements cargo test --workspace
	cargo test --workspace --test it -- --ignored large_files:: $(if $(NO_DISKS),,full_disk::)

# While working: format, lints, and the tests beside the code.
quick:
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- --deny warnings
	cargo test --workspace --lib

# What is shipped, in target/ship: the program, and its symbols for debuggers and backtraces, which find them beside it.
release:
	cargo build --profile dist -p rota
	mkdir -p target/ship
	objcopy --only-keep-debug target/dist/rota target/ship/rota.debug
	cd target/ship && objcopy --strip-all --add-gnu-debuglink=rota.debug ../dist/rota rota

# What is given away, in target/ship: a static program, its list of parts, and checksums; a Debian package of it; an image.
dist:
	deploy/dist

deb: dist
	deploy/deb

image: dist
	podman build --file deploy/Containerfile --build-arg ARCH=$(shell uname -m) --tag localhost/rota .

# Each way of installing, from nothing to a finished session: a quarter of an hour once the program is built, as root.
installs: deb
	cargo build -p rota
	tests/install/static
	tests/install/quickstart || [ $$? = 77 ]
	tests/install/package || [ $$? = 77 ]
	tests/install/container || [ $$? = 77 ]
	tests/with-postgres tests/with-s3 tests/install/services || [ $$? = 77 ]
	tests/with-helm tests/install/chart || [ $$? = 77 ]

# Writes what is made from the code: the lists in docs/compatibility.md and docs/metrics.md, docs/cli.md and the contract of /rota/v1.
pages:
	ROTA_WRITE_PAGES=1 cargo test --quiet -p rota-api -p rota-server --test own_contract --test operations_page --test metrics_page
	ROTA_WRITE_PAGES=1 cargo test --quiet -p rota --bin rota cli_page

# Builds the console from its sources, into console/dist, which the server embeds. It needs Node.js 20 or newer.
console:
	cd console && npm ci --no-audit --no-fund --loglevel=error && node schemas.mjs && npm run --silent check && npm run --silent build

# Sessions at work through outages of the database, kills, freezes and a full disk: ten minutes once it is built, as root.
reliability:
	cargo build --release -p rota
	tests/with-postgres cargo test --release -p rota --test reliability -- --ignored --nocapture --test-threads 1 || \
	  [ $$? = 77 ]
	cargo test --release -p rota --test reliability -- --ignored --nocapture --test-threads 1 --skip on_postgresql

# Fifty deployments that are left alone for ten minutes with everything going wrong, on both databases at the same time, as root.
friday:
	tests/with-postgres cargo test -p rota --test friday -- --ignored --nocapture || [ $$? = 77 ]

# The figures of docs/benchmarks.md.
bench:
	cargo build --release -p rota -p rota-bench
	tests/with-postgres --durable target/release/rota-bench || { [ $$? = 77 ] && target/release/rota-bench; }
