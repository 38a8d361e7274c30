/* conformance: runs any file of template or token cases; the last line is
 * "N passed, N failed". Exit status 1 when any failed or none was there, 2 for
 * use, 3 and 4 for a file that cannot be read. */
#include <stdio.h>
#include <string.h>

#include "base/tool.h"
#include "tests/conformance/cases.h"

static const char *templates, *tokenizers;
static bool all;
static struct opt opts[] = {
	{ OPT_SECTION, .help = "Cases" },
	{ OPT_STR, "templates", 0, &templates, "DIR", "where the templates are" },
	{ OPT_STR, "tokenizers", 0, &tokenizers, "DIR", "where the tokeniser files are" },
	{ OPT_FLAG, "all", 0, &all, 0, "show every failure, not only the first" },
	OPT_COMMON,
};
static const struct opt_spec spec = {
	.tool = "conformance",
	.summary = "compare the library with what the reference libraries answered",
	.synopsis = "templates CASES.jsonl --templates DIR\ntokens CASES.jsonl --tokenizers DIR",
	.opts = opts,
};

int main(int argc, char **argv)
{
	struct err e = ERR_INIT;
	struct cases_result n;
	int rc;

	tool_init(&spec, &argc, &argv);
	if (argc == 3 && !strcmp(argv[1], "templates") && templates)
		rc = cases_templates(argv[2], templates, all, &n, &e);
	else if (argc == 3 && !strcmp(argv[1], "tokens") && tokenizers)
		rc = cases_tokens(argv[2], tokenizers, all, &n, &e);
	else
		rc = err_set(&e, LP_USAGE, "say: templates CASES.jsonl --templates DIR, or tokens CASES.jsonl --tokenizers DIR");
	if (rc)
		return tool_fail(&e);
	if (n.recipes)
		printf("%zu of the renderings can be repeated for other texts, and were %zu times\n", n.recipes, n.repeated);
	printf("%zu passed, %zu failed\n", n.passed, n.failed);
	return tool_done(n.failed || !n.passed ? LP_NO : LP_OK);
}
