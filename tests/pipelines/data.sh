#!/bin/sh
# data/: every file is in the manifest, as the manifest says.
. "$(dirname "$0")/../cli/lib.sh"
ok "sizes and hashes are the manifest's" sh data/manifest.sh --check
find data -mindepth 2 -type f | sed 's|^data/||' | sort >"$T/there"
tail -n +2 data/MANIFEST.tsv | cut -f 1 | sort >"$T/listed"
same "each file has its row" "$T/there" "$T/listed"
is "each row has a source and a licence" "$(tail -n +2 data/MANIFEST.tsv | awk -F '\t' '$2 == "" || $3 == ""' | wc -l)" 0
