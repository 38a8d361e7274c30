/* Adapters as PEFT 0.21 writes and reads them. What is ours alone (the base's
 * identity, the lineage) lives where PEFT does not look: the safetensors
 * metadata and lorapipe.json. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/num.h"
#include "fmt/peft.h"

static void add_number(struct sb *out, double v)
{
	char buf[32];

	if (v == floor(v) && fabs(v) < 1e15) {
		sb_addf(out, "%.0f", v);
	} else {
		fmt_f64(v, buf);
		sb_adds(out, buf);
	}
}

static void add_string(struct sb *out, const char *s)
{
	struct jw w = jw_to(out);

	jw_str(&w, s);
}

static void add_layers(struct sb *out, const struct peft_write *w)
{
	if (!w->layers)
		sb_adds(out, "null");
	for (size_t i = 0; i < w->n_layers; i++)
		sb_addf(out, "%s\n    %lld%s", i ? "," : "[", (long long)w->layers[i], i + 1 < w->n_layers ? "" : "\n  ]");
}

void peft_config_json(const struct peft_write *w, struct sb *out)
{
	char dropout[32];

	fmt_f64(w->dropout, dropout);
	sb_adds(out, "{\n  \"alora_invocation_tokens\": null,\n  \"alpha_pattern\": {},\n  \"arrow_config\": null,\n"
		     "  \"auto_mapping\": null,\n  \"base_model_name_or_path\": ");
	add_string(out, w->base_name ? w->base_name : "");
	sb_adds(out, ",\n  \"bias\": \"none\",\n  \"corda_config\": null,\n  \"ensure_weight_tying\": false,\n  \"eva_config\": null,\n"
		     "  \"exclude_modules\": null,\n  \"fan_in_fan_out\": false,\n  \"inference_mode\": true,\n"
		     "  \"init_lora_weights\": true,\n  \"layer_replication\": null,\n  \"layers_pattern\": null,\n"
		     "  \"layers_to_transform\": ");
	add_layers(out, w);
	sb_adds(out, ",\n  \"loftq_config\": {},\n  \"lora_alpha\": ");
	add_number(out, w->alpha);
	sb_addf(out, ",\n  \"lora_bias\": false,\n  \"lora_dropout\": %s,\n  \"megatron_config\": null,\n"
		     "  \"megatron_core\": \"megatron.core\",\n  \"modules_to_save\": %s,\n  \"peft_type\": \"LORA\",\n"
		     "  \"qalora_group_size\": 16,\n  \"r\": %lld,\n  \"rank_pattern\": {},\n  \"revision\": null,\n  \"target_modules\": [",
		dropout, w->score ? "[\n    \"classifier\",\n    \"score\"\n  ]" : "null", (long long)w->r);
	for (size_t i = 0; i < w->n_targets; i++) {
		sb_adds(out, i ? ",\n    " : "\n    ");
		add_string(out, w->targets[i]);
	}
	sb_addf(out, "\n  ],\n  \"target_parameters\": null,\n  \"task_type\": \"%s\",\n  \"trainable_token_indices\": null,\n"
		     "  \"use_dora\": %s,\n  \"use_qalora\": false,\n  \"use_rslora\": %s\n}\n", w->score ? "SEQ_CLS" : "CAUSAL_LM", w->dora ? "true" : "false", w->rslora ? "true" : "false");
}

static void add_raw(struct jw *j, const char *key, const char *json)
{
	if (!json)
		return;
	jw_key(j, key);
	jw_raw(j, json, strlen(json));
}

static void sidecar_json(const struct peft_write *w, struct sb *out)
{
	struct jw j = jw_to(out);

	jw_obj(&j);
	if (w->base_id) {
		jw_key(&j, "base_id");
		jw_str(&j, w->base_id);
	}
	add_raw(&j, "about", w->about);
	add_raw(&j, "codes", w->codes);
	add_raw(&j, "lineage", w->lineage);
	jw_end_obj(&j);
	sb_addc(out, '\n');
}

static int save_tensors(struct outdir *d, const struct peft_write *w, const struct tensor *t, size_t n, struct err *e)
{
	const struct st_kv meta[] = { { "format", "pt" }, { "base_id", w->base_id }, { "about", w->about }, { "codes", w->codes }, { "lineage", w->lineage } };
	struct out *o = out_open(outdir_path(d, "adapter_model.safetensors"), e);

	if (!o)
		return -1;
	if (st_write(o, t, n, meta, sizeof(meta) / sizeof(*meta), e)) {
		out_abort(o);
		return -1;
	}
	return out_commit(o, e);
}

int peft_save(struct outdir *d, const struct peft_write *w, const struct tensor *t, size_t n, struct err *e)
{
	struct sb text = SB_INIT;
	int rc;

	peft_config_json(w, &text);
	rc = outdir_put(d, "adapter_config.json", text.s, text.len, e);
	sb_reset(&text);
	sidecar_json(w, &text);
	if (!rc)
		rc = outdir_put(d, "lorapipe.json", text.s, text.len, e);
	sb_release(&text);
	return rc ? -1 : save_tensors(d, w, t, n, e);
}

int peft_save_stream(struct out *o, const struct peft_write *w, const struct tensor *t, size_t n, struct err *e)
{
	struct st_writer *sw = st_writer_new(o, "adapter");
	struct sb config = SB_INIT, list = SB_INIT;
	int rc;

	peft_config_json(w, &config);
	st_list_json(t, n, &list);
	{
		const struct st_kv meta[] = { { "adapter_config", sb_str(&config) }, { "base_id", w->base_id }, { "about", w->about },
					      { "codes", w->codes }, { "lineage", w->lineage }, { "tensors", sb_str(&list) } };

		rc = st_writer_frame(sw, NULL, 0, meta, sizeof(meta) / sizeof(*meta), 0, 0, e);
	}
	for (size_t i = 0; i < n && !rc; i++)
		rc = st_writer_frame(sw, &t[i], 1, NULL, 0, 0, 0, e);
	if (!rc)
		rc = st_writer_end(sw, e);
	st_writer_free(sw);
	sb_release(&config);
	sb_release(&list);
	return rc;
}
