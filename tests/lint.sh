#!/bin/sh
# Usage: lint.sh BUILD_DIR  What the compiler does not check: headers alone,
# layers, banned functions, lengths, man pages against --help, a README in each
# folder. Prints FILE:LINE: what, and fails if there was any.
set -u
build=${1:-build}
cd "$(dirname "$0")/.." || exit 2
CC=${CC:-cc} CXX=${CXX:-c++}
export LC_ALL=C
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
: >"$tmp/found"
found() { echo "$1" | tee -a "$tmp/found"; }
collect() { tee -a "$tmp/found"; }

# _tab.h and _new.h are generated tables, pieces of one file each, not headers.
headers=$(ls libcommon/*/*.h kernels/*.h 2>/dev/null | grep -v -e _tab.h -e _new.h)
sources=$(ls libcommon/*/*.c libcommon/*/*.cc kernels/*.c kernels/*.cu tools/*.c 2>/dev/null)
tests=$(ls tests/*/*.c tests/*/*.h 2>/dev/null)

# --- each header compiles alone, as C and as C++ ---
flags="-D_GNU_SOURCE -fsyntax-only -I. -Ilibcommon -Wall -Wextra -Werror -fmax-errors=3"
$CC -std=c11 $flags -x c $headers >"$tmp/log" 2>&1 || grep -E ': (fatal )?error:' "$tmp/log" | sed 's/$/ (C11)/' | collect
$CXX -std=c++17 $flags -Wno-missing-field-initializers -x c++ $headers >"$tmp/log" 2>&1 ||
	grep -E ': (fatal )?error:' "$tmp/log" | sed 's/$/ (C++17)/' | collect

# --- layers: a file includes its own folder and lower ones ---
# shellcheck disable=SC2086
awk '
BEGIN {
	n = split("base=0 json=1 fmt=2 text=2 data=3 model=3 train=4 eval=4 tools=5", pair, " ")
	for (i = 1; i <= n; i++) { split(pair[i], p, "="); rank[p[1]] = p[2] }
}
FNR == 1 { k = split(FILENAME, part, "/"); room = part[1] == "libcommon" ? part[2] : part[1] }
/^[ \t]*#[ \t]*include[ \t]*"/ {
	split($0, q, "\""); inc = q[2]; split(inc, r, "/"); to = r[1]
	if (inc !~ /\//) {
		if (room == "tools") print FILENAME ":" FNR ": tools include no file of their own folder: " inc
		next
	}
	if (to == room) next
	if (room == "kernels") {
		if (to != "base" && inc != "fmt/dtype.h") print FILENAME ":" FNR ": kernels may use base/ and fmt/dtype.h only: " inc
	} else if (to == "kernels") {
		if (rank[room] < 3) print FILENAME ":" FNR ": " room " is below the kernels: " inc
	} else if (to == "tools" || !(to in rank)) {
		print FILENAME ":" FNR ": not a layer of the library: " inc
	} else if (!(room in rank)) {
		print FILENAME ":" FNR ": " room " is no known layer; add it to tests/lint.sh"
	} else if (rank[to] >= rank[room]) {
		print FILENAME ":" FNR ": " room " must not use " to ": " inc
	}
}' $headers $sources | collect

# --- banned functions, outside comments and strings ---
# shellcheck disable=SC2086
awk '
function strip(s,   out, c, i, n) { # comments and literals become blanks; state in "inside"
	out = ""; n = length(s)
	for (i = 1; i <= n; i++) {
		c = substr(s, i, 1)
		if (inside == "*") { if (c == "*" && substr(s, i + 1, 1) == "/") { inside = ""; i++ } ; continue }
		if (inside != "") { if (c == "\\") i++; else if (c == inside) inside = ""; continue }
		if (c == "/" && substr(s, i + 1, 1) == "*") { inside = "*"; i++; continue }
		if (c == "/" && substr(s, i + 1, 1) == "/") break
		if (c == "\"" || c == "\047") { inside = c; continue }
		out = out c
	}
	if (inside != "*") inside = ""
	return out
}
FNR == 1 { inside = "" }
{
	code = strip($0)
	if (match(code, /(^|[^A-Za-z0-9_])(strcpy|strcat|sprintf|vsprintf|atoi|atol|atof|strtok|gets|alloca|system|rand|srand|random|srandom|tmpnam|mktemp)[ \t]*\(/))
		print FILENAME ":" FNR ": banned function: " substr(code, RSTART, RLENGTH)
}' $headers $sources $tests | collect

# --- no file is too long to read ---
# shellcheck disable=SC2086
for f in $headers $sources $tests; do
	n=$(wc -l <"$f")
	limit=900
	case $f in tools/*) limit=500 ;; esac
	[ "$n" -le $limit ] || found "$f:$n: longer than $limit lines"
done

# --- man pages ---
if command -v mandoc >/dev/null; then
	for page in tools/*.1 docs/formats/*.5; do
		[ -e "$page" ] && mandoc -Tlint -Wwarning "$page" 2>&1 | grep -v "missing date" | sed "s/^mandoc: //" | collect
	done
else
	echo "lint: no mandoc: man pages are not checked"
fi

plain() { mandoc -Tascii -Owidth=200 "$1" | sed 's/.\x08//g'; }
section() { awk -v want="$1" '/^[A-Z]/ { inside = $0 == want; next } inside'; }
squeeze() { tr '\n' ' ' | sed 's/[[:space:]][[:space:]]*/ /g; s/^ //; s/ $//'; }

for src in tools/*.c; do
	name=$(basename "$src" .c)
	page=tools/$name.1
	[ -e "$page" ] || { found "$src:1: has no man page $page"; continue; }
	[ -x "$build/bin/$name" ] || { found "$src:1: is not built"; continue; }
	command -v mandoc >/dev/null || continue
	"$build/bin/$name" --help >"$tmp/help" 2>"$tmp/err" || { found "$src:1: --help fails: $(head -n 1 "$tmp/err")"; continue; }
	plain "$page" >"$tmp/page"
	sed -n 's/^ *\(-., \)\{0,1\}\(--[a-z][a-z0-9-]*\).*/\2/p' "$tmp/help" | sort -u >"$tmp/help.opts"
	grep -o -e '--[a-z][a-z0-9-]*' "$tmp/page" | sort -u >"$tmp/page.words"
	section OPTIONS <"$tmp/page" | sed -n 's/^ *\(-., \)\{0,1\}\(--[a-z][a-z0-9-]*\).*/\2/p' | sort -u >"$tmp/page.opts"
	comm -23 "$tmp/help.opts" "$tmp/page.words" | while read -r o; do found "$page:1: does not describe $o"; done
	comm -13 "$tmp/help.opts" "$tmp/page.opts" | grep -v -e '^--no-' | while read -r o; do
		found "$page:$(grep -n -e "${o#--}" "$page" | head -n 1 | cut -d: -f1): describes $o, which $name does not have"
	done
	awk '/^usage:/ { sub(/^usage:/, ""); on = 1 } /^$/ { exit } on' "$tmp/help" | squeeze >"$tmp/usage"
	section SYNOPSIS <"$tmp/page" | squeeze >"$tmp/synopsis"
	cmp -s "$tmp/usage" "$tmp/synopsis" || found "$page:1: SYNOPSIS '$(cat "$tmp/synopsis")' is not the usage line '$(cat "$tmp/usage")'"
	for want in NAME SYNOPSIS DESCRIPTION OPTIONS 'EXIT STATUS' EXAMPLES 'SEE ALSO'; do
		grep -qx "$want" "$tmp/page" || found "$page:1: has no section $want"
	done
done

# --- every folder says what lives in it, briefly ---
for d in libcommon libcommon/*/ kernels tools pipelines tests docs/formats; do
	d=${d%/}
	[ -d "$d" ] || continue
	[ -e "$d/README.md" ] || { found "$d:1: has no README.md"; continue; }
	n=$(wc -l <"$d/README.md")
	[ "$n" -le 40 ] || found "$d/README.md:$n: longer than 40 lines"
done

# --- format: told, not enforced ---
if command -v clang-format >/dev/null; then
	# shellcheck disable=SC2086
	n=$(for f in $headers $sources; do clang-format --dry-run "$f" 2>&1 | grep -q warning && echo "$f"; done | wc -l)
	[ "$n" = 0 ] || echo "lint: clang-format would change $n files (a hint, no failure)"
fi

n=$(wc -l <"$tmp/found")
[ "$n" = 0 ] || { echo "lint: $n findings"; exit 1; }
