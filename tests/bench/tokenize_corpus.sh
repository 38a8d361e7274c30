#!/bin/sh
# Usage: tokenize_corpus.sh MEGABYTES >records.jsonl
# Text records without a repeated one: the tree's chat data and code, then the
# machine's C headers and Python sources, in pieces of about 1,500 bytes.
set -eu
mb=${1:-30}
{
	sed 's/\\n/\n/g; s/\\"/"/g' data/sets/*.json*
	find libcommon kernels tools tests /usr/include /usr/lib/python3* -type f \( -name '*.c' -o -name '*.h' -o -name '*.py' -o -name '*.md' \) 2>/dev/null | LC_ALL=C sort | xargs cat
} | iconv -c -f UTF-8 -t UTF-8 | LC_ALL=C tr -d '\000-\010\013-\037' | LC_ALL=C awk -v max=$((mb * 1000000)) '
	function flush() {
		if (text != "" && !(text in seen)) {
			seen[text]
			print "{\"text\":\"" text "\"}"
			total += length(text)
		}
		text = ""
		if (total > max) { done = 1; exit }
	}
	{
		gsub(/\\/, "&&")
		gsub(/"/, "\\\\&")
		gsub(/\t/, "\\t")
		text = text $0 "\\n"
		if (length(text) > 1500) flush()
	}
	END { if (!done) flush() }'
