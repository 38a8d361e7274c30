#include "eval/gate.h"

#include <math.h>
#include <string.h>

#include "base/num.h"

static int bad(struct err *e, const char *text)
{
	return err_set(e, LP_USAGE, "bad gate '%s': write [base.|delta.|win.]METRIC, one of >= <= > <, and a number", text);
}

int gate_parse(const char *text, struct gate *g, struct err *e)
{
	static const char *const prefix[] = { [GATE_BASE] = "base.", [GATE_DELTA] = "delta.", [GATE_WIN] = "win." };
	size_t n = strcspn(text, "<>"), skip = 0;
	char name[32];

	*g = (struct gate){ .text = text, .of = GATE_TUNED, .value = NAN };
	for (int p = GATE_BASE; p <= GATE_WIN; p++)
		if (strncmp(text, prefix[p], strlen(prefix[p])) == 0) {
			g->of = (enum gate_of)p;
			skip = strlen(prefix[p]);
		}
	if (!text[n] || n - skip == 0 || n - skip >= sizeof(name))
		return bad(e, text);
	memcpy(name, text + skip, n - skip);
	name[n - skip] = '\0';
	g->op[0] = text[n++];
	if (text[n] == '=')
		g->op[1] = text[n++];
	if (!parse_f64(text + n, &g->bound))
		return bad(e, text);
	g->metric = strcmp(name, "ppl") == 0 ? GATE_PPL : metric_by_name(name);
	if (g->metric < 0)
		return err_set(e, LP_USAGE, "gate '%s': no metric '%s'; there are rouge1, rouge2, rougeL, exact, norm_exact, regex, json_valid, json, "
		               "format, nll, chars, tokens and ppl", text, name);
	if (g->of == GATE_WIN && (g->metric == GATE_PPL || !metric_info((enum metric)g->metric)->better))
		return err_set(e, LP_USAGE, "gate '%s': %s has no winner", text, name);
	return 0;
}

bool gate_met(const struct gate *g)
{
	bool equal = g->op[1] == '=' && g->value == g->bound;

	return equal || (g->op[0] == '>' ? g->value > g->bound : g->value < g->bound);
}

void gate_write(const struct gate *g, struct jw *w)
{
	jw_obj(w);
	jw_key(w, "gate");
	jw_str(w, g->text);
	jw_key(w, "value");
	jw_f64(w, g->value);
	jw_key(w, "met");
	jw_bool(w, gate_met(g));
	jw_end_obj(w);
}
