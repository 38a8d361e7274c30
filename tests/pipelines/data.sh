#!/bin/sh
# data/: every file is in the manifest, as the manifest says; the same for tests/.
. "$(dirname "$0")/../cli/lib.sh"
ok "sizes and hashes are the manifest's" sh data/manifest.sh --check
find data -mindepth 2 -type f | sed 's|^data/||' | sort >"$T/there"
tail -n +2 data/MANIFEST.tsv | cut -f 1 | sort >"$T/listed"
same "each file has its row" "$T/there" "$T/listed"
is "each row has a source and a licence" "$(tail -n +2 data/MANIFEST.tsv | awk -F '\t' '$2 == "" || $3 == ""' | wc -l)" 0
# tests/MANIFEST.tsv: what came from elsewhere
tail -n +2 tests/MANIFEST.tsv | while IFS="$(printf '\t')" read -r f _ licence hash; do
	[ -n "$licence" ] && [ "$(sha256sum <"tests/$f" 2>/dev/null | cut -d ' ' -f 1)" = "$hash" ] || echo "$f"
done >"$T/wrong"
is "each file of tests/MANIFEST.tsv is what its row says" "$(cat "$T/wrong")" ""
