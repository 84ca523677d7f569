# sentinai: the house. PGXS stays inside extension/, the worker is plain make, this file knows the order.
#
#   make deps      install what is missing (as root; as an ordinary user: name it and stop)
#   make           build the extension and sentinai-worker
#   make install   into the server of PG_CONFIG and PREFIX/bin
#   make demo      watch the whole circle run on a cluster and a broker of its own
#   make check     everything that must hold, on clusters and brokers of its own
#   make bench     figures
#   make torture   ROUNDS=n SEED=s: events under load, harm to everything that runs, an account of every event
#   make fuzz      ten seconds of fuzzing of what reads foreign bytes (needs clang)
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

PG_COPY := build/pg/usr/lib/postgresql/$(PG_MAJOR)
COPY_CONFIG = $(CURDIR)/$(PG_COPY)/bin/pg_config

PARTS := lint unit regress pgtap isolation tap

export PG_MAJOR PG_CONFIG

.PHONY: all extension worker install deps pg demo check bench torture fuzz lint format clean $(PARTS:%=check-%)

all: extension worker

extension:
	@echo "== extension: sentinai.so and its SQL"
	@$(MAKE) -C extension all PG_CONFIG=$(PG_CONFIG)

worker:
	@echo "== worker: sentinai-worker"
	@$(MAKE) -C worker all

install: all
	@echo "== install: into $$($(PG_CONFIG) --pkglibdir) and $(DESTDIR)$(PREFIX)/bin"
	@$(MAKE) -C extension install PG_CONFIG=$(PG_CONFIG) DESTDIR=$(DESTDIR)
	@$(MAKE) -C worker install PREFIX=$(PREFIX) DESTDIR=$(DESTDIR)

deps:
	@scripts/deps

# A folder that the clusters' user can read, whoever owns the clone: see scripts/build_dir.
build:
	@scripts/build_dir >/dev/null

# The relocated server. The stamp is older than the server after an upgrade of its package: then it is copied again.
build/pg/.copied: /usr/lib/postgresql/$(PG_MAJOR)/bin/postgres | build
	@echo "== pg: copying the PostgreSQL $(PG_MAJOR) server to build/pg"
	@rm -rf build/pg
	@mkdir -p build/pg/usr/lib/postgresql build/pg/usr/share/postgresql build/pg/usr/include
	@cp -a /usr/lib/postgresql/$(PG_MAJOR) build/pg/usr/lib/postgresql/
	@cp -a /usr/share/postgresql/$(PG_MAJOR) build/pg/usr/share/postgresql/
	@ln -s /usr/include/postgresql build/pg/usr/include/postgresql
	@touch $@

pg: all build/pg/.copied
	@echo "== pg: installing the extension into build/pg"
	@umask 022 && $(MAKE) -s -C extension install PG_CONFIG=$(COPY_CONFIG)
	@install -m 755 worker/sentinai-report-pdf $(PG_COPY)/bin

demo: deps all pg
	@test/demo/demo

check: deps all pg
	@test/check $(PARTS)

check-lint: lint
check-unit:
	@test/check unit
check-regress check-pgtap check-isolation: check-%: pg
	@test/check $*
check-tap: deps all pg
	@test/check tap

bench: deps all pg
	@perl -I test/perl test/bench/bench.pl

torture: deps all pg
	@test/torture/torture --rounds $(or $(ROUNDS),10) $(if $(SEED),--seed $(SEED))

fuzz: | build
	@$(MAKE) -C worker fuzz

lint:
	@scripts/lint

format:
	@scripts/lint --mend

clean:
	@-$(MAKE) -s -C extension clean PG_CONFIG=$(PG_CONFIG)
	@-$(MAKE) -s -C worker clean
	@scripts/build_dir --remove
	@rm -rf regression.diffs regression.out results output_iso tmp_check
