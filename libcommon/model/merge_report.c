/* What a merged model says about itself: the model card and lorapipe.json. */
#include <inttypes.h>
#include <string.h>

#include "model/merge.h"

static void yaml_string(struct sb *out, const char *s)
{
	struct jw w = jw_to(out); /* a JSON string is a YAML string */

	jw_str(&w, s);
}

static const char *last_part(const char *path)
{
	const char *slash = strrchr(path, '/');

	return slash && slash[1] ? slash + 1 : path;
}

void merge_readme(const struct merge *m, const char *base, const char *version, struct sb *out)
{
	sb_adds(out, "---\nbase_model: ");
	yaml_string(out, base);
	sb_adds(out, "\nlibrary_name: transformers\npipeline_tag: text-generation\ntags:\n- lora\n- merged\n- lorapipe\n---\n\n# Merged model\n\n");
	sb_addf(out, "The base model with LoRA adapter%s folded into its weights by lora-merge %s.\n\n", m->n_adapters > 1 ? "s" : "", version);
	sb_addf(out, "| part | name | hash |\n| --- | --- | --- |\n| base%s | %s | %s |\n", m->base_accepted ? " (not the one trained on: --accept-base)" : "",
		base, m->base_id);
	for (size_t i = 0; i < m->n_adapters; i++)
		sb_addf(out, "| adapter, weight %g | %s | %s |\n", m->weights[i], last_part(m->names[i]), m->adapters[i].hash);
	sb_addf(out, "\nEach changed element is the rounding (nearest, ties to even, once) of the fp64 sum of the base weight and the scaled product\n"
		     "of the adapter's matrices. %" PRIu64 " elements were given a change; %" PRIu64 " of the changes were below the rounding.\n",
		m->count.moved, m->count.lost);
}

static void count(struct jw *w, const char *key, uint64_t n)
{
	jw_key(w, key);
	jw_i64(w, (int64_t)n);
}

void merge_manifest(const struct merge *m, const char *base, const char *lineage, struct sb *out)
{
	struct jw w = jw_to(out);

	jw_obj(&w);
	jw_key(&w, "base");
	jw_obj(&w);
	jw_key(&w, "name");
	jw_str(&w, base);
	jw_key(&w, "id");
	jw_str(&w, m->base_id);
	jw_key(&w, "accepted_although_another");
	jw_bool(&w, m->base_accepted);
	jw_end_obj(&w);
	jw_key(&w, "adapters");
	jw_arr(&w);
	for (size_t i = 0; i < m->n_adapters; i++) {
		jw_obj(&w);
		jw_key(&w, "name");
		jw_str(&w, last_part(m->names[i]));
		jw_key(&w, "hash");
		jw_str(&w, m->adapters[i].hash);
		jw_key(&w, "base_id");
		jw_str(&w, m->adapters[i].base_id);
		jw_key(&w, "weight");
		jw_f64(&w, m->weights[i]);
		jw_end_obj(&w);
	}
	jw_end_arr(&w);
	count(&w, "elements_moved", m->count.moved);
	count(&w, "elements_lost_to_rounding", m->count.lost);
	count(&w, "elements_verified", m->verified);
	jw_key(&w, "lineage");
	jw_raw(&w, lineage, strlen(lineage));
	jw_end_obj(&w);
	sb_addc(out, '\n');
}
