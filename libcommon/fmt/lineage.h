/* Lineage: what made an artefact. One JSON object:
 *   {"tool","version","options":{...},"inputs":[{"name","hash","lineage"?}]}
 * carried in a stream's or file's metadata under "lineage", or for JSONL
 * written with -o in a sidecar FILE.lineage.json that also holds the output's hash. */
#ifndef LP_FMT_LINEAGE_H
#define LP_FMT_LINEAGE_H

#include "base/opt.h"
#include "base/out.h"
#include "base/sb.h"

struct lineage {
	struct sb inputs; /* comma-joined objects */
	const struct opt_spec *spec;
};
void lineage_init(struct lineage *l, const struct opt_spec *spec);
/* name is written without its directory; hash with its kind: "xxh3:..." or "sha256:...";
 * parent is that input's own lineage JSON, or NULL. */
void lineage_input(struct lineage *l, const char *name, const char *hash, const char *parent);
void lineage_json(const struct lineage *l, struct sb *out);
/* Writes FILE.lineage.json beside a committed FILE; nothing for stdout (path NULL or "-"). */
int lineage_sidecar(const struct lineage *l, const char *path, const char *out_hash, struct err *e) LP_MUST_USE;
void lineage_release(struct lineage *l);

#endif
