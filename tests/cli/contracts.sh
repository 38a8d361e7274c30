#!/bin/sh
# What every program promises, whatever it does: help, options, configuration,
# completion, standard streams, statuses.
. "$(dirname "$0")/lib.sh"
. "$ROOT/tests/inject/tools.sh"
cd "$T" || exit 1
tools_prepare

for t in $TOOLS; do
	status 0 "$t --help" "$t" --help
	prints "^usage: $t" "$t: begins with its usage"
	prints '--completion SHELL' "$t: names every option"
	quiet "$t: help goes to standard output alone"
	is "$t: help fits a terminal" "$(awk 'length > 79' "$T/.out")" ""
	status 0 "$t --version" "$t" --version
	is "$t: version line" "$(cat "$T/.out")" "$t $(cat "$ROOT/VERSION") (lorapipe)"
	status 2 "$t: unknown option" "$t" --nonsuch
	says "^$t: unknown option '--nonsuch'" "$t: names it"
	says 'see --help' "$t: says where to look"
	status 2 "$t: a slip" "$t" --qiet
	says "did you mean '--quiet'" "$t: guesses what was meant"
	status 0 "$t --print-config" "$t" --print-config
	cp "$T/.out" conf
	status 0 "$t: reads it back" "$t" --config conf --print-config
	same "$t: to the same" conf "$T/.out"
	echo 'nonsuch = 1' >bad.conf
	status 2 "$t: bad configuration" "$t" --config bad.conf
	says "bad.conf:1: unknown option" "$t: file and line of it"
	for s in bash zsh fish; do
		status 0 "$t: completion for $s" "$t" --completion $s
		if command -v $s >/dev/null; then
			cp "$T/.out" script
			ok "$t: $s reads it" $s -n script
		fi
	done
	status 4 "$t: help to a full disk" sh -c "$t --help >/dev/full"
	status 4 "$t: help to a closed output" sh -c "$t --help >&-"

	rm -rf o && mkdir o
	status 0 "$t: runs" tool_run "$t" o/result
	quiet "$t: says nothing in good times"
	is "$t: nothing on standard output with -o" "$(wc -c <"$T/.out")" 0
	is "$t: no temporary is left" "$(find o -name '*.tmp')" ""
	rm -rf o2 && mkdir o2
	status 0 "$t: runs again" tool_run "$t" o2/result
	ok "$t: gives the same bytes" diff -r o/result o2/result
	case $t in model-init) continue ;; esac
	status 4 "$t: a missing input" tool_run "$t" o/none "in/nowhere/x"
	says "^$t: .*nowhere.*: cannot open" "$t: names it"
	ok "$t: no output for it" test ! -e o/none
	case $t in lora-merge | gguf-export) continue ;; esac
	cp "$(tool_input "$t")" mine
	ln -sf mine other
	status 2 "$t: its input is no output" tool_run "$t" other mine
	same "$t: and stays as it is" "$(tool_input "$t")" mine
done

# threads that wait leave the processor to others, unless the user wants it otherwise
for t in $TOOLS; do
	env -u OMP_WAIT_POLICY -u GOMP_SPINCOUNT OMP_DISPLAY_ENV=true "$t" --print-config 2>env >/dev/null
	grep -q OMP_WAIT_POLICY env || continue
	is "$t: waits without spinning" "$(grep -c "OMP_WAIT_POLICY = 'PASSIVE'" env)" 2
	OMP_WAIT_POLICY=active OMP_DISPLAY_ENV=true "$t" --print-config 2>env >/dev/null
	is "$t: unless it is told to" "$(grep -c "OMP_WAIT_POLICY = 'ACTIVE'" env)" 1
done
