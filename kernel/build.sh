#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-only
# Builds zosbd2.ko for one kernel, and prints where it is. `make -C kernel` and `cargo xtask kmod` call this; it needs
# make, the kernel's headers and compiler, and no Rust. After an error or an interrupt no module is left. Builds in the
# same folder wait for each other if the program flock is there. Variables, all set by the caller:
#
#   KDIR     headers of a configured kernel, an absolute path
#   O        folder to build in, an absolute path; created
#   VARIANT  release; for tests: faults (with steps that fail on demand), shim (compiles the C part only), or choose
#            (prints the Rust object that would be taken, and changes nothing)
#   RUST     the Rust object, with its conditions beside it in a file .conf, or a folder of Rust objects from which the
#            one for the kernel's configuration is taken
#   SPARSE   1: run sparse on the C sources, too
#   W        1: ask the compiler for more warnings, which takes perl with its modules; for gates
#   SIGN_KEY, SIGN_CERT   sign the module with this key and certificate; both or none
#   KCFLAGS  more options for the C compiler; for gates
#   QUIET    1: print no line about the work, only errors and the result
set -eu
export LC_ALL=C
unset MAKEFLAGS MFLAGS MAKELEVEL
here=$(cd "$(dirname "$0")" && pwd)
config=$KDIR/include/config/auto.conf
jobs=$(getconf _NPROCESSORS_ONLN)

# Says on standard error what goes on; standard output has nothing but the result.
say() {
	[ "$QUIET" = 1 ] || printf 'zosbd2: %s\n' "$*" >&2
}

fail() {
	printf 'zosbd2: %s\n' "$*" >&2
	exit 1
}

# The value of CONFIG_$1 in the kernel's configuration, without quotes; n if it is not set.
value() {
	found=$(sed -n "s/^CONFIG_$1=//p" "$config" | tr -d '"')
	echo "${found:-n}"
}

# The conditions of a Rust object, in the file $1, that the kernel does not meet, a line each. A condition is
# NAME=VALUE, or NAME|OLDER_NAME=VALUE for an option that had another name in older kernels.
misfits() {
	while IFS='=' read -r names wanted; do
		case $names in '' | '#'*) continue ;; esac
		has=n
		for name in $(echo "$names" | tr '|' ' '); do
			one=$(value "$name")
			[ "$one" = n ] || has=$one
		done
		[ "$has" = "$wanted" ] || echo "CONFIG_${names%%|*}: the object is for $wanted, the kernel has $has"
	done <"$1"
}

# Refuses kernels that are not supported, by name. Sets `architecture`.
refuse() {
	while read -r option reason; do
		case $option in '' | '#'*) continue ;; esac
		[ "$(value "$option")" = n ] || fail "the kernel of $KDIR is not supported: $reason (CONFIG_$option)"
	done <"$here/refused.txt"
	architecture=
	known=
	while read -r name option; do
		case $name in '' | '#'*) continue ;; esac
		known="$known $name"
		[ "$(value "$option")" = n ] || architecture=$name
	done <"$here/architectures.txt"
	[ -n "$architecture" ] || fail "the kernel of $KDIR is not supported: it is for another architecture; supported:$known"
}

# Sets `object` to the Rust object for this kernel.
choose() {
	object=$RUST
	if [ ! -d "$RUST" ]; then
		[ -e "$object" ] || fail "there is no Rust object $object"
		check_file
		conditions=${object%.o}.conf
		[ -e "$conditions" ] || fail "there is no $conditions beside the Rust object, which says what kernels it is for:" \
			"\`cargo xtask rust-object\` makes both"
		missing=$(misfits "$conditions")
		[ -z "$missing" ] || fail "$object does not fit the kernel of $KDIR:
$missing"
		return 0
	fi
	[ "$VARIANT" != faults ] || fail "the release archive's Rust objects are for VARIANT=release: set ZOSBD2_RUST=source"
	tried=
	for conditions in "$RUST"/*.conf; do
		[ -e "$conditions" ] || fail "there is no Rust object in $RUST: take a release archive, or set" \
			"ZOSBD2_RUST=source to compile it, which needs Rust"
		missing=$(misfits "$conditions")
		object=${conditions%.conf}.o
		[ -n "$missing" ] || return 0
		tried="$tried
  $(basename "$object")
$(echo "$missing" | sed 's/^/    /')"
	done
	fail "no Rust object of the release archive fits the kernel of $KDIR. What differs:$tried
Compile it for this kernel with ZOSBD2_RUST=source, which needs cargo and Rust 1.95; docs/building.md says which" \
		"options are supported."
}

# The object must be the release archive's own, have all entry points, and want only functions of the shim and symbols that
# the kernel exports. The other gates ran when that archive was made.
check_object() {
	if [ -d "$RUST" ]; then
		(cd "$RUST" && sha256sum -c --quiet SHA256SUMS) >&2 ||
			fail "the files in $RUST are not what SHA256SUMS says: unpack the release archive again"
	fi
	command -v nm >/dev/null || fail "the program nm is missing, which checks the Rust object: install binutils"
	checked='^$'
	[ "$(value KASAN)" = n ] || checked='^__asan_'
	wants=$(nm -u "$object" | sed 's/^ *U //' | grep -v -x -F -f "$here/imports-$architecture.txt" |
		grep -v -E "^zosbd2_|$checked" || true)
	[ -z "$wants" ] || fail "the Rust object wants $(echo "$wants" | tr '\n' ' '), which neither the shim nor the kernel has"
	nm --defined-only --extern-only "$object" | sed -n 's/^[0-9a-f]* [Tt] //p' | sort >"$O/rust.exports"
	cmp -s "$here/exports.txt" "$O/rust.exports" || fail "the Rust object's entry points are not those of" \
		"kernel/exports.txt: $(diff "$here/exports.txt" "$O/rust.exports" | grep '^[<>]' | tr '\n' ' ')"
}

# Refuses a file that is no relocatable ELF object: the magic number, and 1 in the field e_type.
check_file() {
	header=$(od -A n -t x1 -N 18 "$object" | tr -d ' \n')
	case $header in
	7f454c46????????????????????????0100) ;;
	*) fail "$object is no object file: ZOSBD2_RUST= names one that \`cargo xtask rust-object\` made, or a folder of" \
		"Rust objects, or is the word source" ;;
	esac
}

# Copies a file, or keeps the older copy with its time if it is equal, so that make rebuilds nothing.
copy() {
	cmp -s "$1" "$2" || cat "$1" >"$2"
}

# Compiles every probe anew, and writes into compat_probed.h which ones compiled.
probe() {
	rm -f "$O"/probes/*.o
	: >"$O/probes/Kbuild.new"
	objects=
	for source in "$here"/compat/probes/*.c; do
		name=$(basename "$source" .c)
		copy "$source" "$O/probes/$name.c"
		echo "obj-m += $name.o" >>"$O/probes/Kbuild.new"
		objects="$objects $name.o"
	done
	copy "$O/probes/Kbuild.new" "$O/probes/Kbuild"
	# A probe may fail to compile. If all probes fail, the compiler does not work.
	# shellcheck disable=SC2086 # a list of names
	make --no-print-directory -k -C "$KDIR" M="$O/probes" -j"$jobs" ${KCFLAGS:+KCFLAGS="$KCFLAGS"} $objects \
		>"$O/probes/log" 2>&1 || true
	{
		echo '/* Made by probing; see probes/. */'
		for object_file in $objects; do
			[ ! -e "$O/probes/$object_file" ] ||
				echo "#define HAVE_$(basename "$object_file" .o | tr '[:lower:]' '[:upper:]') 1"
		done
	} >"$O/compat_probed.new"
	grep -q HAVE_COMPILER "$O/compat_probed.new" ||
		fail "the compiler does not work for the kernel of $KDIR:
$(cat "$O/probes/log")"
	copy "$O/compat_probed.new" "$O/compat/compat_probed.h"
}

# A warning, of compiler, objtool, modpost or sparse, is an error; but not that the kernel was built by another build of
# the same compiler.
compile() {
	if ! "$@" >"$O/log" 2>&1; then
		fail "building the module in $O failed:
$(cat "$O/log")"
	fi
	if grep -i -E '(warning|error):' "$O/log" | grep -v -i 'the compiler differs' >/dev/null; then
		fail "building the module in $O warned:
$(cat "$O/log")"
	fi
}

# Whether the module can be signed, if a key is given.
check_key() {
	[ -n "$SIGN_KEY$SIGN_CERT" ] || return 0
	[ -r "$SIGN_KEY" ] && [ -r "$SIGN_CERT" ] || fail "to sign the module both SIGN_KEY= and SIGN_CERT= must name" \
		"readable files; they are '$SIGN_KEY' and '$SIGN_CERT'"
	[ -x "$KDIR/scripts/sign-file" ] || fail "the headers in $KDIR have no scripts/sign-file, which signs modules"
}

# Signs a copy, so that the module in its place is never one without its signature.
sign() {
	[ -n "$SIGN_KEY" ] || return 0
	hash=$(value MODULE_SIG_HASH)
	[ "$hash" != n ] || hash=sha256
	mv "$O/zosbd2.ko" "$O/zosbd2.unsigned"
	"$KDIR/scripts/sign-file" "$hash" "$SIGN_KEY" "$SIGN_CERT" "$O/zosbd2.unsigned" "$O/zosbd2.signed" ||
		fail "cannot sign $O/zosbd2.ko with $SIGN_KEY"
	mv "$O/zosbd2.signed" "$O/zosbd2.ko"
	rm "$O/zosbd2.unsigned"
}

# Makes the folder, and waits for other builds there. From here on no module is left after an error or an interrupt.
prepare() {
	for folder in "$O" "$O/shim" "$O/compat" "$O/probes"; do
		mkdir -p "$folder" && [ -w "$folder" ] || fail "cannot write into $folder: name a folder of your own with O="
	done
	if command -v flock >/dev/null; then
		(: >>"$O/lock") || fail "cannot write $O/lock: name a folder of your own with O="
		exec 9>>"$O/lock"
		if ! flock -n 9; then
			say "waiting for another build in $O"
			flock 9
		fi
	fi
	trap 'rm -f "$O/zosbd2.ko" "$O/zosbd2.signed" "$O/zosbd2.unsigned"' EXIT
	trap 'exit 130' INT
	trap 'exit 143' TERM
	trap 'exit 129' HUP
	rm -f "$O/zosbd2.ko"
}

case $VARIANT in
release | choose | shim) faults= ;;
faults) faults=ZOSBD2_FAULTS=1 ;;
*) fail "VARIANT=$VARIANT is unknown: it is release, or for tests faults" ;;
esac
[ "$VARIANT" = choose ] || prepare
refuse
if [ "$VARIANT" = choose ]; then
	choose
	echo "$object"
	exit 0
fi
if [ "$VARIANT" != shim ]; then
	choose
	check_object
	check_key
fi
say "building $O/zosbd2.ko for the kernel of $KDIR; on a busy machine this takes a minute"
for file in "$here"/shim/*.[ch]; do copy "$file" "$O/shim/$(basename "$file")"; done
for file in "$here"/compat/*.h; do copy "$file" "$O/compat/$(basename "$file")"; done
copy "$here/Kbuild" "$O/Kbuild"
probe
checks=
[ "$W" != 1 ] || checks='W=1'
[ "$SPARSE" != 1 ] || checks="$checks C=2 CF=-Wsparse-error" # all sources, including those that need no compiling
if [ "$VARIANT" = shim ]; then
	objects=$(cd "$O" && for file in shim/*.c; do echo "${file%.c}.o"; done)
	# shellcheck disable=SC2086 # lists of words
	compile make --no-print-directory -C "$KDIR" M="$O" -j"$jobs" ${KCFLAGS:+KCFLAGS="$KCFLAGS"} $checks $objects
	trap - EXIT
	exit 0
fi
copy "$object" "$O/zosbd2_rust.o"
# shellcheck disable=SC2086 # lists of words
compile make --no-print-directory -C "$KDIR" M="$O" -j"$jobs" ${KCFLAGS:+KCFLAGS="$KCFLAGS"} $faults $checks modules
sign
trap - EXIT
echo "$O/zosbd2.ko"
