#!/bin/sh
# Usage: deps.sh PACKAGE:KIND:PROOF[=CPPFLAG]...  Installs what is missing (apt,
# as root or through sudo), or prints the one command that would.
set -u
CC=${CC:-cc} CXX=${CXX:-c++}
there() { # KIND PROOF FLAGS
	case $1 in
	p) command -v "$2" >/dev/null 2>&1 ;;
	h) printf '#include <stddef.h>\n#include <%s>\n' "$2" | $CC ${3:+"$3"} -E -x c - >/dev/null 2>&1 ;;
	H) printf '#include <%s>\n' "$2" | $CXX -std=c++17 -E -x c++ - >/dev/null 2>&1 ;;
	esac
}
missing=
for d; do
	pkg=${d%%:*} rest=${d#*:}
	kind=${rest%%:*} proof=${rest#*:} flag=
	case $proof in *=*) flag=${proof#*=} proof=${proof%%=*} ;; esac
	there "$kind" "$proof" "$flag" || missing="$missing $pkg"
done
[ -z "$missing" ] && exit 0
sudo=
[ "$(id -u)" = 0 ] || sudo=sudo
cmd="apt-get update && apt-get install -y --no-install-recommends$missing"
if ! command -v apt-get >/dev/null 2>&1; then
	echo "lorapipe needs these packages (Debian names):$missing" >&2
	exit 2
fi
if [ -n "$sudo" ] && ! sudo -n true 2>/dev/null; then
	echo "lorapipe needs a few packages; run this once, then make again:" >&2
	echo "  sudo sh -c '$cmd'" >&2
	exit 2
fi
echo "installing:$missing" >&2
export DEBIAN_FRONTEND=noninteractive
log=$(mktemp)
# shellcheck disable=SC2086
if ! { $sudo apt-get -q update && $sudo apt-get -q install -y --no-install-recommends $missing; } >"$log" 2>&1; then
	tail -n 20 "$log" >&2
	echo "could not install; run: ${sudo:+sudo }sh -c '$cmd'" >&2
	rm -f "$log"
	exit 2
fi
rm -f "$log"
