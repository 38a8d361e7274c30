#!/bin/sh
# Usage: bundle.sh BUILD_DIR  Makes BUILD_DIR/bundle: programs, the kernel suites, the shared
# libraries they need, manual pages, pipelines. It runs from any place, on any
# machine with a glibc as new as this one's. glibc and the CUDA stack stay the
# machine's own. Programs are linked anew with a search path relative to
# themselves (an RPATH, so that it holds for libraries of libraries too).
set -eu
build=${1:-build}
cd "$(dirname "$0")/.."
out=$build/bundle
rm -rf "$out" "$out.tmp"
mkdir -p "$out.tmp/bin" "$out.tmp/tests" "$out.tmp/lib" "$out.tmp/share"
make -s --no-print-directory BIN="$out.tmp/bin" TST="$out.tmp/tests" LDFLAGS="${LDFLAGS:-} -Wl,--disable-new-dtags,-rpath,'\$\$ORIGIN/../lib'" all bundled-tests

system='linux-vdso|ld-linux[^/]*|libc|libm|libmvec|libpthread|librt|libdl|libresolv|libutil|libnsl|libanl|libcuda|libcudart|libcublas|libcublasLt|libnv[^/]*|libnccl|libcudnn[^/]*'
# What ldd does not show: libraries that programs load by name.
loaded=$(ldconfig -p 2>/dev/null | sed -n 's/.*libarchive\.so\.13 .*=> //p' | head -n 1)
[ -n "$loaded" ] || loaded=$(find /usr/lib /lib -name libarchive.so.13 2>/dev/null | head -n 1)
[ -n "$loaded" ] || { echo "bundle: libarchive.so.13 is not found; install libarchive13" >&2; exit 1; }
# shellcheck disable=SC2086
rm -f "$out.tmp"/tests/*.d
{ ldd "$out.tmp"/bin/* "$out.tmp"/tests/*; ldd $loaded; echo "	x => $loaded (0)"; } | awk '$2 == "=>" && $3 ~ /^\// { print $3 }' | sort -u |
	grep -Ev "/($system)\.so" >"$out.tmp/libs"
if ldd "$out.tmp"/bin/* | grep -q 'not found'; then
	ldd "$out.tmp"/bin/* | grep 'not found' | sort -u >&2
	exit 1
fi
mkdir -p "$out.tmp/share/licenses"
while read -r lib; do
	cp -L "$lib" "$out.tmp/lib/"
	# their licences travel with them
	pkg=$(dpkg -S "$(readlink -f "$lib")" 2>/dev/null | head -n 1 | cut -d: -f1) || pkg=
	[ -z "$pkg" ] || cp -L "/usr/share/doc/$pkg/copyright" "$out.tmp/share/licenses/$pkg" 2>/dev/null || true
done <"$out.tmp/libs"
rm "$out.tmp/libs"
for so in "$build"/lib/*.so; do [ -e "$so" ] && cp "$so" "$out.tmp/lib/"; done
cp -R pipelines "$out.tmp/share/pipelines"
rm "$out.tmp/share/pipelines/demo.mk" # its model and data stay in the tree
mkdir -p "$out.tmp/share/man/man1" "$out.tmp/share/man/man5"
for p in tools/*.1; do [ -e "$p" ] && cp "$p" "$out.tmp/share/man/man1/"; done
for p in docs/formats/*.5; do [ -e "$p" ] && cp "$p" "$out.tmp/share/man/man5/"; done
cp VERSION "$out.tmp/"
mv "$out.tmp" "$out"

# It must stand on its own: every library it needs is its own or the system's.
abs=$(cd "$out" && pwd)
bad=0
for p in "$out"/bin/*; do
	env -i PATH=/usr/bin:/bin "$p" --version >/dev/null || { echo "bundle: $p does not run" >&2; bad=1; }
	foreign=$(env -i PATH=/usr/bin:/bin ldd "$p" | awk '$2 == "=>" && $3 ~ /^\// { print $3 }' | grep -v "^$abs/" | grep -Ev "/($system)\.so" || true)
	[ -z "$foreign" ] || { echo "bundle: $p still needs $foreign" >&2; bad=1; }
done
[ $bad = 0 ] || exit 1
echo "$out: $(ls "$out/bin" | wc -l) programs, $(ls "$out/lib" | wc -l) libraries, $(du -sm "$out" | cut -f 1) MB"
