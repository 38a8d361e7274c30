/* What made an artefact, as one JSON object (fmt/lineage.h). */
#include "fmt/lineage.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/tool.h"
#include "base/xalloc.h"
#include "json/json.h"


static const char *base_name(const char *path)
{
	const char *slash = strrchr(path, '/');

	return slash && slash[1] ? slash + 1 : path;
}

void lineage_init(struct lineage *l, const struct opt_spec *spec)
{
	memset(l, 0, sizeof(*l));
	l->spec = spec;
}

void lineage_input(struct lineage *l, const char *name, const char *hash, const char *parent)
{
	struct jw w = { &l->inputs, l->inputs.len > 0 };

	jw_obj(&w);
	jw_key(&w, "name");
	jw_str(&w, base_name(name));
	jw_key(&w, "hash");
	jw_str(&w, hash);
	if (parent && *parent) {
		jw_key(&w, "lineage");
		jw_raw(&w, parent, strlen(parent));
	}
	jw_end_obj(&w);
}

/* The members, without the braces, so that the sidecar can add its own. */
static void members(const struct lineage *l, struct jw *w)
{
	struct sb options = SB_INIT;

	opt_json(l->spec, &options);
	jw_key(w, "tool");
	jw_str(w, l->spec->tool);
	jw_key(w, "version");
	jw_str(w, lp_version);
	jw_key(w, "options");
	jw_raw(w, options.s, options.len);
	jw_key(w, "inputs");
	jw_arr(w);
	if (l->inputs.len)
		jw_raw(w, l->inputs.s, l->inputs.len);
	jw_end_arr(w);
	sb_release(&options);
}

void lineage_json(const struct lineage *l, struct sb *out)
{
	struct jw w = jw_to(out);

	jw_obj(&w);
	members(l, &w);
	jw_end_obj(&w);
}

int lineage_sidecar(const struct lineage *l, const char *path, const char *out_hash, struct err *e)
{
	struct sb text = SB_INIT;
	struct jw w = jw_to(&text);
	struct out *o;
	char *side;
	int rc = -1;

	struct stat st;

	if (!path || !strcmp(path, "-") || (!stat(path, &st) && !S_ISREG(st.st_mode)))
		return 0;
	jw_obj(&w);
	jw_key(&w, "output");
	jw_obj(&w);
	jw_key(&w, "name");
	jw_str(&w, base_name(path));
	jw_key(&w, "hash");
	jw_str(&w, out_hash);
	jw_end_obj(&w);
	members(l, &w);
	jw_end_obj(&w);
	sb_addc(&text, '\n');
	side = xasprintf("%s.lineage.json", path);
	o = out_open(side, e);
	if (o && out_write(o, text.s, text.len, e))
		out_abort(o);
	else if (o)
		rc = out_commit(o, e);
	free(side);
	sb_release(&text);
	return rc;
}

void lineage_release(struct lineage *l)
{
	sb_release(&l->inputs);
}
