# SPDX-License-Identifier: MIT OR Apache-2.0
# Names the commands; what they do is in xtask/ (cargo xtask --help).

help:
	@echo 'make setup     install the host packages that are missing (apt, as root or through sudo)'
	@echo 'make demo      the RAM disk at work, in QEMU; NATIVE=1: on this machine'
	@echo 'make bench     instructions per I/O, beside the kernel'"'"'s own devices'
	@echo 'make test      every check, and the tests on Linux 6.1, 6.12 and the newest in QEMU'
	@echo 'make test-all  what takes longer, in parts of at most 40 minutes (PART=NAME; cargo xtask test-all --list)'
	@echo 'make test-system  a Debian system with systemd in QEMU: boot, packages, reboots (cargo xtask system --help)'
	@echo 'make test-debug  the VM tests in a kernel that watches itself (KASAN, lockdep, ...); takes hours'
	@echo 'make kmod      build zosbd2.ko for a kernel (KDIR=headers; default: the running one)'
	@echo 'make deb       Debian packages, in target/deb'
	@echo 'make install   the command, its unit and udev rules (PREFIX=/usr/local DESTDIR=); make uninstall removes them'
	@echo 'cargo xtask --help lists all commands; cargo xtask vm --list the VM tests'

setup test bench deb: xtask
	cargo xtask $@

test-all: xtask
	cargo xtask test-all $(foreach part,$(PART),--part $(part))

test-debug: xtask
	cargo xtask setup
	cargo xtask vm --kernel debug

test-system: xtask
	cargo xtask setup
	cargo xtask system

demo: xtask
	cargo xtask demo $(if $(filter-out 0,$(NATIVE)),--native)

# As root there may be no cargo: then `make build` was before.
PREFIX ?= /usr/local
program := $(or $(CARGO_TARGET_DIR),target)/debug/xtask

build: xtask
	cargo xtask install --only-build

install: $(if $(shell command -v cargo),build)
	@[ -x '$(program)' ] || { echo 'Nothing is compiled yet: run make build first, as a user with Rust' >&2; exit 1; }
	'$(program)' install --no-build --prefix '$(PREFIX)' --destdir '$(or $(DESTDIR),/)'

uninstall: $(if $(shell command -v cargo),build)
	'$(program)' install --remove --prefix '$(PREFIX)' --destdir '$(or $(DESTDIR),/)'

# The archive of a release has the Rust part ready made.
kmod: $(if $(wildcard kernel/rust),,xtask)
	@$(MAKE) --no-print-directory -C kernel

# `cargo xtask` compiles the commands without a word, which takes minutes on a slow machine. cargo itself says
# nothing while it compiles one crate.
xtask: need-rust
	@cargo build --package xtask & building=$$!; seconds=0; \
	while kill -0 $$building 2>/dev/null; do \
		sleep 1; seconds=$$((seconds + 1)); \
		[ $$((seconds % 4)) != 0 ] || echo "... compiling the project's own commands ($$seconds s so far)"; \
	done; \
	wait $$building

need-rust:
	@command -v cargo >/dev/null || { \
		echo 'Rust is missing: get it from https://rustup.rs, or put ~/.cargo/bin into PATH' >&2; exit 1; }
	@command -v cc >/dev/null || { \
		echo 'The C compiler is missing, with which cargo links: installing gcc and libc6-dev'; \
		$$([ "$$(id -u)" = 0 ] || echo sudo) \
			sh -c 'apt-get update -q && apt-get install -y --no-install-recommends gcc libc6-dev'; }

.PHONY: help setup demo bench test test-all test-debug test-system deb build install uninstall kmod xtask need-rust
