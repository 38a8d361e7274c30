# A tiny TAP library for the command-line tests. Source it first. Each test runs
# in a fresh folder $T (removed at exit); $ROOT is the tree; programs are in PATH.
ROOT=$(cd "$(dirname "$0")/../.." && pwd)
BUILD=${BUILD:-build}
PATH=$ROOT/$BUILD/bin:$PATH
export PATH LC_ALL=C OMP_WAIT_POLICY="${OMP_WAIT_POLICY:-passive}" # as run.sh: programs do not start twice
T=$(mktemp -d "${TMPDIR:-/tmp}/lp-test.XXXXXX")
export XDG_CACHE_HOME="$T/.cache" # nothing is left in the user's
n_test=0 n_fail=0
finish() { rc=$?; rm -rf "$T"; [ "$rc" = 0 ] || exit "$rc"; echo "1..$n_test"; [ "$n_fail" = 0 ] || exit 1; }
trap finish EXIT
pass() { n_test=$((n_test + 1)); echo "ok $n_test - $1"; }
fail() { n_test=$((n_test + 1)) n_fail=$((n_fail + 1)); echo "not ok $n_test - $1"; shift; for l; do echo "# $l"; done; }
skip() { n_test=$((n_test + 1)); echo "ok $n_test # skip $1"; }
# ok NAME COMMAND...: the command succeeds.
ok() { d=$1; shift; if "$@" >"$T/.out" 2>"$T/.err"; then pass "$d"; else fail "$d" "status $?: $*" "$(tail -n 5 "$T/.err")"; fi; }
# status N NAME COMMAND...: the command exits with N (stdout in $T/.out, stderr in $T/.err).
status() { want=$1 d=$2; shift 2; "$@" >"$T/.out" 2>"$T/.err"; got=$?; if [ "$got" = "$want" ]; then pass "$d"; else fail "$d" "status $got, not $want: $*" "$(tail -n 5 "$T/.err")"; fi; }
# says PATTERN NAME: the last command's stderr matches the basic regular expression.
says() { if grep -q -e "$1" "$T/.err"; then pass "$2"; else fail "$2" "no '$1' in:" "$(tail -n 5 "$T/.err")"; fi; }
# prints PATTERN NAME: the same of its stdout.
prints() { if grep -q -e "$1" "$T/.out"; then pass "$2"; else fail "$2" "no '$1' in:" "$(tail -n 5 "$T/.out")"; fi; }
# same NAME A B: two files are equal.
same() { if cmp -s "$2" "$3"; then pass "$1"; else fail "$1" "$(diff "$2" "$3" | head -n 5)"; fi; }
# is NAME GOT WANT: two strings are equal.
is() { if [ "$2" = "$3" ]; then pass "$1"; else fail "$1" "got '$2', wanted '$3'"; fi; }
# limited N COMMAND...: the command, with files of N times 512 bytes at most. A COVERAGE=1 program cannot finish its counters then
# either: they are kept away from the other runs'.
limited() { (ulimit -f "$1"; shift; export GCOV_PREFIX="$T/.gcov"; "$@"); }
# quiet NAME: the last command wrote nothing to stderr.
quiet() { if [ -s "$T/.err" ]; then fail "$1" "$(head -n 3 "$T/.err")"; else pass "$1"; fi; }
# in_stories: into $T, with the small model as $M and the stories' folder as $D, for the tests of training; $DEVICE is LP_DEVICE or cpu.
in_stories() { cd "$T" || exit 1; M=$ROOT/data/stories260K D=$ROOT/data/quickstart DEVICE=${LP_DEVICE:-cpu}; }
# tokens FILE N: the token stream of the file's first N conversations.
tokens() { head -n "$2" "$1" | chat-template --model "$M" | tokenize --model "$M"; }
