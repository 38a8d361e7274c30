/* base/opt*.c: parsing, configuration files, help, completion, lineage text. */
#include "scratch.h"

#include <sys/wait.h>

#include "base/opt.h"
#include "base/opt_priv.h"

/* Option values live as long as the process; a second parse lets go of them. */
const char *__asan_default_options(void);
const char *__asan_default_options(void)
{
	return "detect_leaks=0";
}

static bool flag, flag_on;
static const char *str, *method;
static int64_t rank;
static double lr;
static uint64_t memory;
static struct opt_list targets;
static const char *dflt_items[] = { "q_proj", "v_proj" };

static struct opt opts[] = {
	{ OPT_FLAG, "pack", 'p', &flag, 0, "pack sequences" },
	{ OPT_FLAG, "shuffle", 0, &flag_on, 0, "shuffle records" },
	{ OPT_STR, "model", 'm', &str, "DIR", "the model" },
	{ OPT_SECTION, .help = "Training" },
	{ OPT_INT, "rank", 'r', &rank, "N", "rank of the update", .min = 1, .max = 1024 },
	{ OPT_F64, "lr", 0, &lr, "X", "learning rate", .min = 0, .max = 1 },
	{ OPT_SIZE, "memory", 0, &memory, 0, "memory to use" },
	{ OPT_CHOICE, "method", 0, &method, 0, "what to train", "sft|dpo|orpo" },
	{ OPT_LIST, "targets", 0, &targets, "NAME", "modules" },
	{ OPT_INT, "threads", 'j', &rank, "N", "threads", .unrecorded = true },
	OPT_COMMON
};
static const struct opt_spec spec = { "test-tool", "does nothing", "[OPTION]... [FILE]\n--list", "Some notes.", opts };

static void defaults(void)
{
	flag = false, flag_on = true, str = NULL, method = "sft", rank = 16, lr = 2e-4, memory = (uint64_t)8 << 30;
	targets = (struct opt_list){ dflt_items, 2, 0 };
	memset(&opt_common, 0, sizeof(opt_common));
}

/* Splits text at spaces and parses it; the operands that remain are joined in left. */
static char left[256];
static int parse(const char *text, struct err *e)
{
	static char copy[512]; /* values point into it */
	char *argv[32] = { (char *)(uintptr_t) "test-tool" };
	int argc = 1, rc;

	defaults();
	snprintf(copy, sizeof(copy), "%s", text);
	for (char *p = copy; *p;) {
		argv[argc++] = p;
		p += strcspn(p, " ");
		if (*p)
			*p++ = 0;
	}
	argv[argc] = NULL;
	rc = opt_parse(&spec, &argc, argv, e);
	left[0] = 0;
	for (int i = 1; !rc && i < argc; i++) {
		strncat(left, argv[i], sizeof(left) - strlen(left) - 1);
		strncat(left, ";", sizeof(left) - strlen(left) - 1);
	}
	if (!rc)
		ck_assert_ptr_null(argv[argc]);
	return rc;
}

START_TEST(all_forms)
{
	OK(parse("a --rank 4 -pv --lr=0.5 b -o out -mDIR --no-shuffle --targets x --targets=y --memory 1.5G --method dpo - -- --rank -x", &er));
	ck_assert_str_eq(left, "a;b;-;--rank;-x;");
	ck_assert_int_eq(rank, 4);
	ck_assert(flag && !flag_on && opt_common.verbose);
	ck_assert(lr == 0.5 && memory == 3ull << 29);
	ck_assert_str_eq(str, "DIR");
	ck_assert_str_eq(method, "dpo");
	ck_assert_str_eq(opt_common.output, "out");
	ck_assert_uint_eq(targets.n, 2); /* the default list made way */
	ck_assert_str_eq(targets.items[0], "x");
	ck_assert_str_eq(targets.items[1], "y");
	ck_assert(opt_given(&spec, "rank") && opt_given(&spec, "shuffle") && !opt_given(&spec, "log") && !opt_given(&spec, "nonesuch"));
}
END_TEST

START_TEST(later_wins_and_defaults_stay)
{
	OK(parse("--rank 4 --rank 8 --pack --no-pack --shuffle=false --shuffle=yes", &er));
	ck_assert_int_eq(rank, 8);
	ck_assert(!flag && flag_on);
	OK(parse("", &er));
	ck_assert_int_eq(rank, 16);
	ck_assert_uint_eq(targets.n, 2);
	ck_assert_str_eq(targets.items[1], "v_proj");
	ck_assert(!opt_given(&spec, "rank"));
	OK(parse("--lr -0 --model -", &er)); /* a value may begin with a dash */
	ck_assert_str_eq(str, "-");
}
END_TEST

START_TEST(mistakes)
{
	BAD(parse("--ranc 3", &er), LP_USAGE, "unknown option '--ranc' (did you mean '--rank'?; see --help)");
	BAD(parse("--zzzzzzzz", &er), LP_USAGE, "unknown option '--zzzzzzzz' (see --help)");
	BAD(parse("--lock", &er), LP_USAGE, "unknown option '--lock' (see --help)"); /* half of it is not that of --log */
	BAD(parse("--no-rank", &er), LP_USAGE, "unknown option '--no-rank'");
	BAD(parse("--versoin", &er), LP_USAGE, "--version");
	BAD(parse("-Z", &er), LP_USAGE, "unknown option '-Z'");
	BAD(parse("--rank", &er), LP_USAGE, "--rank needs a value");
	BAD(parse("-r", &er), LP_USAGE, "--rank needs a value");
	BAD(parse("--rank 0", &er), LP_USAGE, "--rank needs a whole number from 1 to 1024, not '0'");
	BAD(parse("--rank 1025", &er), LP_USAGE, "not '1025'");
	BAD(parse("--rank 4.0", &er), LP_USAGE, "not '4.0'");
	BAD(parse("--rank=", &er), LP_USAGE, "not ''");
	BAD(parse("--lr nan", &er), LP_USAGE, "--lr needs a number from 0.0 to 1.0, not 'nan'");
	BAD(parse("--memory lots", &er), LP_USAGE, "--memory needs a size such as");
	BAD(parse("--method sf", &er), LP_USAGE, "--method needs one of sft|dpo|orpo, not 'sf'");
	BAD(parse("--pack=maybe", &er), LP_USAGE, "--pack takes true or false");
	BAD(parse("--no-pack=true", &er), LP_USAGE, "takes no value");
	BAD(parse("--help=x", &er), LP_USAGE, "--help takes no value");
	BAD(parse("--config /nonexistent/file", &er), LP_IO, "cannot open");
	BAD(parse("--completion tcsh", &er), LP_USAGE, "bash|zsh|fish");
}
END_TEST

static int with_config(const char *text, const char *args, struct err *e)
{
	char line[400];

	put_text(at("conf"), text);
	snprintf(line, sizeof(line), "%s --config %s", args, at("conf"));
	return parse(line, e);
}

START_TEST(configuration_lines)
{
	scratch_open();
	OK(with_config("# comment\n\n rank = 64 # why\npack = true\nmodel = \"a # b\\n\\u00e9\\ud83d\\ude00\"\r\n"
		       "targets = k_proj\ntargets=o_proj\nmemory = 2G", "--lr 0.25", &er));
	ck_assert_int_eq(rank, 64);
	ck_assert(flag && lr == 0.25 && memory == 2ull << 30);
	ck_assert_str_eq(str, "a # b\n\xc3\xa9\xf0\x9f\x98\x80");
	ck_assert_uint_eq(targets.n, 2);
	ck_assert_str_eq(targets.items[0], "k_proj");
	ck_assert(opt_given(&spec, "rank"));
	OK(with_config("rank = 64\ntargets = a\ntargets = b\n", "--rank 4 --targets c", &er));
	ck_assert_int_eq(rank, 4); /* the command line wins, wherever --config stands */
	ck_assert_uint_eq(targets.n, 1);
	ck_assert_str_eq(targets.items[0], "c");
	BAD(with_config("rank = 64\nranc = 4\n", "", &er), LP_USAGE, "did you mean '--rank'");
	{
		struct err e = ERR_INIT;

		with_config("rank = 64\n\nlr = x\n", "", &e);
		ck_assert_uint_eq(e.line, 3);
		ck_assert_str_eq(e.path, at("conf"));
	}
	BAD(with_config("rank 64\n", "", &er), LP_USAGE, "expected \"name = value\"");
	BAD(with_config("model = \"x\n", "", &er), LP_USAGE, "no closing");
	BAD(with_config("model = \"x\" y\n", "", &er), LP_USAGE, "text behind");
	BAD(with_config("model =\n", "", &er), LP_USAGE, "a value is missing");
	BAD(with_config("model = \"\\ud800\"\n", "", &er), LP_USAGE, "bad \\u");
	scratch_close();
}
END_TEST

START_TEST(configuration_json)
{
	scratch_open();
	OK(with_config(" {\"rank\": 64, \"pack\":true,\n\"model\":\"a\\\"b\", \"targets\":[\"x\",\"y\"], \"lr\":1e-3, \"log\":null}\n", "", &er));
	ck_assert_int_eq(rank, 64);
	ck_assert(flag && lr == 1e-3 && !opt_common.log);
	ck_assert_str_eq(str, "a\"b");
	ck_assert_uint_eq(targets.n, 2);
	OK(with_config("{}", "", &er));
	OK(with_config("{\"targets\":[]}", "", &er));
	BAD(with_config("{\"rank\":64", "", &er), LP_USAGE, "expected ',' or '}'");
	BAD(with_config("{\"rank\" 64}", "", &er), LP_USAGE, "expected ':'");
	BAD(with_config("{\"rank\":}", "", &er), LP_USAGE, "a value is missing");
	BAD(with_config("{rank:64}", "", &er), LP_USAGE, "expected \"name\"");
	BAD(with_config("{\"targets\":[\"a\" \"b\"]}", "", &er), LP_USAGE, "expected ',' or ']'");
	BAD(with_config("{\"rank\":64} x", "", &er), LP_USAGE, "text behind the object");
	BAD(with_config("{\"nonesuch\":64}", "", &er), LP_USAGE, "unknown option");
	scratch_close();
}
END_TEST

/* What --print-config prints, --config reads back to the same. */
START_TEST(configuration_round_trip)
{
	struct sb first = SB_INIT, second = SB_INIT;

	scratch_open();
	OK(parse("--rank 77 --no-shuffle --model a#b --targets =x --targets \"q --memory 3K --lr 0.1", &er));
	opt_config_text(&spec, &first);
	OK(with_config(sb_str(&first), "", &er));
	opt_config_text(&spec, &second);
	ck_assert_str_eq(first.s, second.s);
	ck_assert_ptr_nonnull(strstr(first.s, "\nmodel = \"a#b\"\n"));
	ck_assert_ptr_nonnull(strstr(first.s, "\nmemory = 3K\n"));
	ck_assert_ptr_nonnull(strstr(first.s, "\n# log =\n"));
	sb_release(&first);
	sb_release(&second);
	scratch_close();
}
END_TEST

/* A default outside the limits stands for "not set": it is not shown, printed or recorded. */
START_TEST(default_outside_its_limits)
{
	struct sb b = SB_INIT;
	struct err e = ERR_INIT;

	scratch_open();
	defaults();
	rank = 0;
	opt_config_text(&spec, &b);
	ck_assert_ptr_nonnull(strstr(b.s, "# rank =\n"));
	put_text(at("conf"), b.s);
	ck_assert_msg(!opt_load_config(&spec, at("conf"), &e), "%s", e.msg);
	sb_reset(&b);
	opt_json(&spec, &b);
	ck_assert_ptr_nonnull(strstr(b.s, "\"rank\":null"));
	sb_reset(&b);
	opt_help_text(&spec, &b);
	ck_assert_ptr_null(strstr(b.s, "update [default")); /* --threads has none */
	sb_release(&b);
	scratch_close();
}
END_TEST

START_TEST(lineage_text)
{
	struct sb b = SB_INIT;

	OK(parse("--model a\"b\\c -j 3 --log x", &er));
	opt_json(&spec, &b);
	ck_assert_str_eq(b.s, "{\"pack\":false,\"shuffle\":true,\"model\":\"a\\\"b\\\\c\",\"rank\":3,\"lr\":0.0002,"
			      "\"memory\":8589934592,\"method\":\"sft\",\"targets\":[\"q_proj\",\"v_proj\"]}");
	sb_release(&b);
}
END_TEST

START_TEST(help_names_everything)
{
	struct sb b = SB_INIT;

	defaults();
	opt_help_text(&spec, &b);
	ck_assert_int_eq(strncmp(b.s, "usage: test-tool [OPTION]... [FILE]\n       test-tool --list\n", 57), 0);
	for (struct opt *o = opts; o->kind != OPT_END; o++) {
		char want[64];

		snprintf(want, sizeof(want), o->kind == OPT_SECTION ? "\n%s:\n" : "--%s", o->kind == OPT_SECTION ? o->help : o->name);
		ck_assert_msg(strstr(b.s, want) != NULL, "no %s", want);
	}
	ck_assert_ptr_nonnull(strstr(b.s, "[default: 16]"));
	ck_assert_ptr_nonnull(strstr(b.s, "[default: q_proj v_proj]"));
	ck_assert_ptr_nonnull(strstr(b.s, "[default: 8G]"));
	ck_assert_ptr_nonnull(strstr(b.s, "--completion SHELL"));
	ck_assert_ptr_nonnull(strstr(b.s, "Some notes."));
	for (const char *p = b.s, *nl; (nl = strchr(p, '\n')); p = nl + 1) {
		ck_assert_msg(nl - p <= 79, "over 79 columns: %.*s", (int)(nl - p), p);
		ck_assert_msg(nl == p || nl[-1] != ' ', "space at the end: %.*s", (int)(nl - p), p);
	}
	sb_release(&b);
}
END_TEST

/* The shells themselves judge their scripts, those that are installed. */
static void shell_reads(const char *shell, const char *flag_n, const char *text)
{
	pid_t pid;
	int st;

	put_text(at("script"), text);
	pid = fork();
	if (!pid) {
		execlp(shell, shell, flag_n, at("script"), (char *)NULL);
		_exit(77);
	}
	waitpid(pid, &st, 0);
	ck_assert_msg(WIFEXITED(st) && (WEXITSTATUS(st) == 0 || WEXITSTATUS(st) == 77), "%s refuses:\n%s", shell, text);
}

START_TEST(completions)
{
	static const char *const shells[] = { "bash", "zsh", "fish" };
	static const char *const check[] = { "-n", "-n", "--no-execute" };

	scratch_open();
	for (int i = 0; i < 3; i++) {
		struct sb b = SB_INIT;

		OK(opt_completion(&spec, shells[i], &b, &er));
		ck_assert_ptr_nonnull(strstr(b.s, "rank"));
		ck_assert_ptr_nonnull(strstr(b.s, "sft dpo orpo"));
		ck_assert_ptr_nonnull(strstr(b.s, "print-config"));
		shell_reads(shells[i], check[i], b.s);
		sb_release(&b);
	}
	scratch_close();
}
END_TEST

START_TEST(split)
{
	struct opt_list l = { 0 };

	opt_split("a,b,,c,", &l);
	ck_assert_uint_eq(l.n, 3);
	ck_assert_str_eq(l.items[2], "c");
	opt_split("", &l);
	ck_assert_uint_eq(l.n, 3);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("opt");
	TCase *c = tcase_create("all");

	tcase_add_test(c, all_forms);
	tcase_add_test(c, later_wins_and_defaults_stay);
	tcase_add_test(c, mistakes);
	tcase_add_test(c, configuration_lines);
	tcase_add_test(c, configuration_json);
	tcase_add_test(c, configuration_round_trip);
	tcase_add_test(c, default_outside_its_limits);
	tcase_add_test(c, lineage_text);
	tcase_add_test(c, help_names_everything);
	tcase_add_test(c, completions);
	tcase_add_test(c, split);
	suite_add_tcase(s, c);
	return run_tests(s);
}
