#!/usr/bin/env python3
"""Random templates, rendered by transformers' environment, as a conformance set.
Usage: fuzz_templates.py SEED COUNT OUT_DIR; then build/tests/conformance templates OUT_DIR/template_cases.jsonl --templates OUT_DIR/templates
A template is a few statements over random expressions, drawn from a grammar; about half of them fail, which must be equal too."""
import json
import os
import random
import re
import sys
import warnings

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import make_templates as m

VALUES = json.load(open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "template_corners.json"), encoding="utf-8"))
# not the integers beyond 64 bits: they are carried, not computed with
NAMES = [n for n in VALUES if n not in ("big", "huge")] + ["messages[0].content", "messages[1].content", "messages[2]", "missing", "x", "y", "ns", "loop"]
STRS = ["'a'", "'Hello World'", "''", "' pad '", "'a,b,,c'", "'é日😀'", "'%s-%s'", "'{} {}'", "'{0:>5}|{1}'", "'12'", "'3.5'", "'name'", "'ΑΣ ß ǆ'", "'a\\nb\\n'", "'<b>'"]
FILTERS = ["abs", "capitalize", "count", "default('d')", "default('d', true)", "d", "dictsort", "escape", "first", "float", "int", "items", "join", "join('-')",
           "last", "length", "list", "lower", "map('upper')", "map(attribute='name')", "max", "min", "replace('a', 'b')", "reverse", "round", "round(1)", "safe", "select", "reject",
           "selectattr('age')", "selectattr('role', 'equalto', 'user')", "sort", "sort(reverse=true)", "string", "sum", "title", "tojson", "tojson(indent=2)", "trim", "truncate(5)", "unique",
           "upper", "wordcount", "indent(2)", "batch(2)", "slice(2)", "urlencode", "center(9)", "striptags", "format(1, 2)", "groupby('age')", "attr('upper')", "list|length",
           "rejectattr('age')", "map('length')", "select('string')", "map('string')|join('+')", "wordwrap(7)", "int(0, 16)", "unique|list", "batch(3)|list", "sort(attribute='name')", "filesizeformat"]
TESTS = ["defined", "undefined", "none", "string", "number", "integer", "float", "mapping", "sequence", "iterable", "boolean", "true", "false", "odd", "even", "lower", "upper",
         "divisibleby(2)", "callable", "sameas(none)", "in([1, 'a'])", "eq(1)", "gt(0)", "lt('b')", "escaped", "equalto('a')"]
METHODS = ["strip()", "lstrip('a')", "split()", "split(',')", "split(',', 1)", "rsplit(',', 1)", "upper()", "lower()", "title()", "capitalize()", "replace('a', 'X')", "startswith('a')",
           "endswith(('c', 'd'))", "find('l')", "count('l')", "items()", "keys()", "values()", "get('a')", "get('zz', 3)", "join(['p', 'q'])", "format(1, 'b')", "splitlines()", "isdigit()", "isalpha()", "index(1)",
           "append(1)", "pop()", "copy()", "zfill(6)", "center(8, '*')", "partition(',')", "swapcase()", "casefold()", "encode", "name", "a.b", "isupper()", "istitle()", "removeprefix('H')", "rindex('o')", "expandtabs(3)"]
BINOPS = ["+", "-", "*", "/", "//", "%", "**", "~", "==", "!=", "<", "<=", ">", ">=", "in", "not in", "and", "or"]


ADDRESS = re.compile("object.*?0?x|generator|'o', 'b', 'j', 'e'", re.I)


class Maker:
    def __init__(self, rng):
        self.r = rng

    def atom(self):
        k = self.r.random()
        if k < 0.45:
            return self.r.choice(NAMES)
        if k < 0.65:
            return self.r.choice(STRS)
        if k < 0.85:
            return self.r.choice(["0", "1", "2", "-3", "7", "2.5", "0.1", "1e3", "true", "false", "none", "10"])
        return self.r.choice(["[]", "{}", "[1, 2, 3]", "['b', 'a']", "{'a': 1, 'b': [2]}", "(1, 'x')", "range(4)", "[[1, 2], [3]]", "namespace(q=1)", "dict(a=2)", "(1,)"])

    def expr(self, depth):
        if depth <= 0:
            return self.atom()
        k = self.r.random()
        e = lambda: self.expr(depth - 1)
        if k < 0.2:
            return self.atom()
        if k < 0.42:
            return "(%s) | %s" % (e(), self.r.choice(FILTERS))
        if k < 0.52:
            return "(%s) is %s%s" % (e(), self.r.choice(["", "not "]), self.r.choice(TESTS))
        if k < 0.67:
            return "(%s).%s" % (e(), self.r.choice(METHODS))
        if k < 0.82:
            return "(%s %s %s)" % (e(), self.r.choice(BINOPS), e())
        if k < 0.86:
            return "(%s)[%s]" % (e(), self.r.choice(["0", "-1", "'a'", "'name'", "5", e()]))
        if k < 0.9:  # of names only: Jinja2's optimizer makes the slice of a constant number undefined, at run time it is an error
            return "%s[%s]" % (self.r.choice(NAMES), self.r.choice(["1:", ":-1", "::-1", "1:3", "::2"]))
        if k < 0.95:
            return "(%s if %s else %s)" % (e(), e(), e())
        return self.r.choice(["not %s", "-(%s)", "[%s, 1]", "{'k': %s}"]) % e()

    def body(self, depth):
        return "".join(self.stmt(depth) for _ in range(self.r.randint(1, 3)))

    def stmt(self, depth):
        k = self.r.random()
        ws = lambda: self.r.choice(["", "", "-", "+"])
        t = lambda s: "{%" + ws() + " " + s + " " + self.r.choice(["", "", "-"]) + "%}" + self.r.choice(["", "", "\n", " ", "\n  "])
        if depth <= 0 or k < 0.4:
            return "{{ %s }}" % self.expr(self.r.randint(0, 3)) + self.r.choice(["", ";", "\n", " "])
        if k < 0.55:
            return t("set %s = %s" % (self.r.choice(["x", "y", "i", "text", "a, b"]), self.expr(2)))
        if k < 0.7:
            return t("if " + self.expr(2)) + self.body(depth - 1) + self.r.choice([t("else") + self.body(depth - 1), ""]) + t("endif")
        if k < 0.85:
            return (t("for %s in %s%s" % (self.r.choice(["x", "x", "k, v"]), self.expr(2), self.r.choice(["", "", " if x", " if loop is defined"])))
                    + "{{ loop.index if loop is defined }}" + self.body(depth - 1) + self.r.choice(["", t("if x == 2") + t("break") + t("endif"), t("else") + "E"]) + t("endfor"))
        if k < 0.9:
            return t("set z") + self.body(depth - 1) + t("endset") + "{{ z }}"
        if k < 0.95:
            return t("macro mm(p, q=%s)" % self.atom()) + self.body(depth - 1) + "{{ p }}{{ q }}" + t("endmacro") + "{{ mm(%s) }}" % self.expr(1)
        return t("with x = %s" % self.expr(1)) + self.body(depth - 1) + t("endwith")


def main():
    warnings.simplefilter("ignore")
    rng = random.Random(int(sys.argv[1]))
    out = sys.argv[3]
    os.makedirs(os.path.join(out, "templates"), exist_ok=True)
    n_out = n_err = 0
    with open(os.path.join(out, "template_cases.jsonl"), "w", encoding="utf-8") as f:
        for i in range(int(sys.argv[2])):
            text = Maker(rng).body(2)
            name = "f%05d.jinja" % i
            row = m.case(text, name, "fuzz", VALUES)
            if ADDRESS.search(row.get("output", "")) or ("error" in row and rng.random() < 0.75):
                continue  # an address has no right answer; failures are many
            open(os.path.join(out, "templates", name), "w", encoding="utf-8", newline="").write(text)
            n_err += "error" in row
            n_out += "output" in row
            f.write(json.dumps(row, ensure_ascii=False) + "\n")
    print(n_out, "rendered,", n_err, "refused")


main()
