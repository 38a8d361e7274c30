#!/bin/sh
# Usage: stage.sh NAME   (called by the fragments here; see README.md)
#
# One stage of a pipeline: a command that fills the folder $OUT/NAME. The
# environment gives OUT; CMD_NAME, the command, a shell text that writes into $D;
# IN_NAME, its inputs (files or folders); PROG_NAME, the programs that it runs.
#
# The stage is skipped when $OUT/.stamps/NAME says that the same command, the
# same programs and the same inputs, by content, made the very content that
# $OUT/NAME has now. Times are never looked at. Otherwise the command runs
# with D=$OUT/.new/NAME, which becomes $OUT/NAME only when all of it succeeded.
set -u
name=$1
stamps=$OUT/.stamps stamp=$OUT/.stamps/$name new=$OUT/.new/$name
eval "cmd=\$CMD_$name in=\$IN_$name prog=\$PROG_$name"

die() {
	echo "stage $name: $*" >&2
	exit 2
}
sha() { sha256sum | cut -d ' ' -f 1; }

# Large files are not read again while size, inode and both times stand still;
# one that changed in the last seconds is, since its times may not show the next change.
hash_file() {
	set -- "$1" "$(stat -L -c '%s %i %.9Y %.9Z' "$1")"
	if [ "${2%% *}" -lt 16777216 ]; then
		sha <"$1"
		return
	fi
	h=$(awk -F '\t' -v k="$2 $1" '$1 == k { h = $2 } END { print h }' "$stamps/.hashes" 2>/dev/null)
	if [ -z "$h" ]; then
		h=$(sha <"$1")
		[ "$(($(date +%s) - $(stat -L -c %Z "$1")))" -lt 3 ] || printf '%s %s\t%s\n' "$2" "$1" "$h" >>"$stamps/.hashes"
	fi
	echo "$h"
}
hash_path() {
	if [ -d "$1" ]; then
		find -L "$1" -type f | LC_ALL=C sort | while IFS= read -r f; do
			printf '%s %s\n' "$(hash_file "$f")" "${f#"$1"/}"
		done | sha
	elif [ -f "$1" ]; then
		hash_file "$1"
	else
		echo missing
	fi
}

# What the outputs depend on, a line each; paths are left out on purpose.
key() {
	printf 'command %s\n' "$cmd"
	for w in $prog; do
		p=$(command -v -- "$w" 2>/dev/null) || p=$w
		[ -f "$p" ] && printf 'program %s %s\n' "${p##*/}" "$(hash_file "$p")"
	done
	eval "set -- $in"
	for f; do
		printf 'input %s\n' "$(hash_path "$f")"
	done
}
# Why the stage must run: prints a reason, or nothing.
reason() {
	[ -f "$stamp" ] || { [ -d "$OUT/$name" ] && echo "was interrupted" || echo "is new"; return; }
	for what in command program input; do
		[ "$(printf '%s\n' "$now" | grep "^$what ")" = "$(grep "^$what " "$stamp")" ] || { echo "has another $what"; return; }
	done
	[ "$(grep '^output ' "$stamp")" = "output $(hash_path "$OUT/$name")" ] || echo "has a changed output"
}
# Ends the command and everything that it started.
end_tree() {
	for c in $(sed -n "s/^\([0-9]*\) (.*) [A-Z] $1 .*/\1/p" /proc/[0-9]*/stat 2>/dev/null); do
		end_tree "$c"
	done
	kill "$1" 2>/dev/null
}

mkdir -p "$stamps" "$OUT/.new" || exit 4
exec 9>"$stamps/.lock.$name"
flock 9 2>/dev/null || :
eval "set -- $in"
for f; do
	[ -e "$f" ] || die "there is no '$f'"
done
for w in $prog; do
	command -v -- "$w" >/dev/null 2>&1 || [ -e "$w" ] || case $w in -*) ;; *) die "there is no program '$w'; run make, or set BIN=" ;; esac
done
now=$(key)
why=$(reason)
[ -n "$why" ] || exit 0
printf '  RUN   %-9s %s\n' "$name" "$why"
[ "${V:-0}" = 0 ] || printf '        %s\n' "$cmd"

rm -f "$stamp"
rm -rf "$new"
mkdir -p "$new" || exit 4
D=$new
# threads that wait leave the processor to those that work; stages run side by side, and machines are shared
OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-passive}
export D OUT OMP_WAIT_POLICY
pid=
trap 'rm -rf "$new"' EXIT
trap '[ -z "$pid" ] || end_tree "$pid"; wait; exit 130' HUP INT TERM
sh -ec "$cmd" 9>&- &
pid=$!
wait "$pid"
rc=$?
pid=
[ "$rc" = 0 ] || exit "$rc"
rm -rf "${OUT:?}/$name" && mv "$new" "$OUT/$name" || exit 4
{
	printf '%s\n' "$now"
	printf 'output %s\n' "$(hash_path "$OUT/$name")"
} >"$stamp.tmp" && mv "$stamp.tmp" "$stamp"
