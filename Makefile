# sentinai: the house. PGXS stays inside extension/, the worker is plain make, this file knows the order.
#
#   make deps      install what is missing (as root; as an ordinary user: name it and stop); deps-build: what the build needs
#   make           build the extension and sentinai-worker (V=1: with the commands)
#   make install   into the server of PG_CONFIG and PREFIX/bin;  make uninstall takes it away
#   make demo      watch the whole circle run on a cluster and a broker of its own
#   make http      try its HTTP paths on http://127.0.0.1:8000 (HTTP_PORT=n), with curl lines to begin with, until Ctrl-C
#   make check     everything that must hold, on clusters and brokers of its own
#   make check-matrix   the extension on PostgreSQL 16 and 18, from PyPI
#   make bench     figures;  make bench-peers  others beside ours;  make bench-limits  rate limits beside Redis;  make bench-reports  reports beside COPY;  make bench-http  HTTP beside SELECT 1
#   make torture   ROUNDS=n SEED=s: events under load, harm to everything that runs, an account of every event
#   make torture-points   the same on the build with named points: whatever runs is killed at each of them
#   make fuzz      ten seconds of fuzzing of what reads foreign bytes (needs clang), a minute of its HTTP paths (SEED=s)
#   make lint      format, lists, names (make format mends the format)
#   make clean     back to a fresh clone
#
# Tests and the demo never touch the server in /usr/lib/postgresql: `make pg` copies it to build/pg, where the
# extension is installed and from where the clusters run.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory

PG_MAJOR ?= 15
PG_CONFIG ?= /usr/lib/postgresql/$(PG_MAJOR)/bin/pg_config
PREFIX ?= /usr/local
DESTDIR ?=

# copy_config FOLDER: pg_config of the relocated server there
copy_config = $(CURDIR)/build/$(1)/usr/lib/postgresql/$(PG_MAJOR)/bin/pg_config

# Compilers are heard when they complain.
quiet = $(if $(V),,-s)

PARTS := lint unit regress pgtap isolation tap

export PG_MAJOR PG_CONFIG

.PHONY: all extension worker install uninstall deps pg points demo http check bench bench-peers bench-docs bench-limits bench-reports bench-http report-docs torture torture-points fuzz lint format clean check-matrix $(PARTS:%=check-%)

all: extension worker

extension:
	@echo "== extension: sentinai.so and its SQL"
	@$(MAKE) $(quiet) -C extension all PG_CONFIG=$(PG_CONFIG)

worker:
	@echo "== worker: sentinai-worker"
	@$(MAKE) $(quiet) -C worker all

install: all
	@echo "== install: into the server of $(PG_CONFIG) and into $(DESTDIR)$(PREFIX)/bin"
	@$(MAKE) $(quiet) -C extension install PG_CONFIG=$(PG_CONFIG) DESTDIR=$(DESTDIR)
	@$(MAKE) $(quiet) -C worker install PREFIX=$(PREFIX) DESTDIR=$(DESTDIR)

uninstall:
	@$(MAKE) $(quiet) -C extension uninstall PG_CONFIG=$(PG_CONFIG) DESTDIR=$(DESTDIR)
	@$(MAKE) $(quiet) -C worker uninstall PREFIX=$(PREFIX) DESTDIR=$(DESTDIR)

deps:
	@scripts/deps
deps-%:
	@scripts/deps $*

# A folder that the clusters' user can read, whoever owns the clone: see scripts/build_dir.
build:
	@scripts/build_dir >/dev/null

# Relocated servers. The stamp is older than the server after an upgrade of its package, and than the folder after one more
# extension: then it is copied again.
build/%/.copied: /usr/lib/postgresql/$(PG_MAJOR)/bin/postgres /usr/share/postgresql/$(PG_MAJOR)/extension | build
	@echo "== pg: copying the PostgreSQL $(PG_MAJOR) server to $(@D)"
	@rm -rf $(@D)
	@mkdir -p $(@D)/usr/lib/postgresql $(@D)/usr/share/postgresql $(@D)/usr/include
	@cp -a /usr/lib/postgresql/$(PG_MAJOR) $(@D)/usr/lib/postgresql/
	@cp -a /usr/share/postgresql/$(PG_MAJOR) $(@D)/usr/share/postgresql/
	@ln -s /usr/include/postgresql $(@D)/usr/include/postgresql
	@touch $@
.PRECIOUS: build/%/.copied

pg: all build/pg/.copied
	@echo "== pg: installing the extension into build/pg"
	@umask 022 && $(MAKE) -s -C extension install PG_CONFIG=$(call copy_config,pg)
	@install -m 755 worker/sentinai-report-pdf $(dir $(call copy_config,pg))

# The build with named points (extension/point.h), from a copy of the sources, into a server of its own.
points: all build/pg-points/.copied
	@echo "== points: the build with named points, into build/pg-points"
	@mkdir -p build/points/extension/sql/upgrade build/points/include
	@cp -pu include/* build/points/include/
	@cp -pu extension/*.[ch] extension/Makefile extension/sentinai.control build/points/extension/
	@cp -pu extension/sql/*.sql build/points/extension/sql/
	@cp -pu extension/sql/upgrade/* build/points/extension/sql/upgrade/
	@umask 022 && $(MAKE) -s -C build/points/extension all install POINTS=1 PG_CONFIG=$(call copy_config,pg-points)
	@install -m 755 worker/sentinai-report-pdf $(dir $(call copy_config,pg-points))

demo: deps-demo all pg
	@test/demo/demo

http: deps-http all pg
	@exec test/http/serve

check: deps all pg points
	@test/check $(PARTS)

check-lint: lint
check-unit:
	@test/check unit
check-regress check-pgtap check-isolation: check-%: pg
	@test/check $*
# The build with points is for one test only.
check-tap: deps all pg $(if $(ONLY),$(if $(filter 310_points,$(ONLY)),points),points)
	@test/check tap

check-matrix: deps all pg
	@test/matrix

bench: deps all pg
	@perl -I test/perl test/bench/bench.pl

bench-limits: deps-bench all pg
	@perl -I test/perl test/bench/limits.pl

# ROWS=20000 for a short look
bench-http: deps-bench all pg
	@perl -I test/perl test/bench/http.pl

bench-reports: deps all pg
	@perl -I test/perl test/bench/reports.pl

bench-peers: deps-bench all pg
	@test/bench/peers/install
	@perl -I test/perl test/bench/peers/peers.pl

# What they said into docs/performance.md, with its picture
bench-docs:
	@test/bench/publish build/bench

# docs/report.png, page 1 of a report, after what a PDF looks like has changed
report-docs: deps all pg
	@perl -I test/perl test/demo/report-picture

torture: deps all pg
	@test/torture/torture --rounds $(or $(ROUNDS),10) $(if $(SEED),--seed $(SEED))

torture-points: deps all points
	@PG_COPY=pg-points test/torture/torture --rounds $(or $(ROUNDS),10) $(if $(SEED),--seed $(SEED))

fuzz: deps all pg
	@$(MAKE) -C worker fuzz
	@FUZZ_SECONDS=60 SEED=$(or $(SEED),$(shell date +%s)) ONLY=415_http_fuzz test/check tap

lint:
	@scripts/lint

format:
	@scripts/lint --mend

clean:
	@-$(MAKE) -s -C extension clean PG_CONFIG=$(PG_CONFIG)
	@-$(MAKE) -s -C worker clean
	@scripts/build_dir --remove
	@rm -rf regression.diffs regression.out results output_iso tmp_check
