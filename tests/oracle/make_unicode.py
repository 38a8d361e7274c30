#!/usr/bin/env python3
"""Writes libcommon/text/tmpl_uni_tab.h: what Python's str knows about characters
and utf8proc does not. Usage: make_unicode.py OUT"""
import sys
import unicodedata as u

ALL = [chr(c) for c in range(0x80, 0x110000) if not 0xD800 <= c < 0xE000]


def ranges(test):
    out = []
    for c in ALL:
        o = ord(c)
        if test(c):
            if out and out[-1][1] == o - 1:
                out[-1][1] = o
            else:
                out.append([o, o])
    return out


def table(name, rows):
    body = ",".join("{0x%x,0x%x}" % (a, b) for a, b in rows)
    lines, line = [], "\t"
    for item in body.replace("},{", "} {").split(" "):
        item += "," if not item.endswith(",") else ""
        if len(line) + len(item) > 116:
            lines.append(line)
            line = "\t"
        line += item + " "
    lines.append(line)
    return "static const uint32_t %s[][2] = {\n%s\n};\n" % (name, "\n".join(x.rstrip() for x in lines))


def case_ignorable(c):
    # seen through Python's own rule: a sigma after "A" + c is final iff c is skipped and nothing cased follows
    return ("A" + c + "\u03a3").lower().endswith("\u03c2") and not ("\u0001" + c + "\u03a3").lower().endswith("\u03c2")


def main():
    special = []
    for c in ALL:
        maps = [c.upper(), c.lower(), c.title(), c.casefold()]
        keep = [len(maps[0]) > 1, len(maps[1]) > 1, len(maps[2]) > 1, maps[3] != c.lower() or len(maps[3]) > 1]
        if any(keep):
            special.append((ord(c), [[ord(x) for x in m] if k else [] for m, k in zip(maps, keep)]))
    out = [
        "/* Written by tests/oracle/make_unicode.py from Python %d.%d (Unicode %s); do not edit. */" % (*sys.version_info[:2], u.unidata_version),
        "#ifndef LP_TEXT_TMPL_UNI_TAB_H\n#define LP_TEXT_TMPL_UNI_TAB_H\n\n#include <stdint.h>\n",
        "/* isdigit() and isnumeric() beyond category Nd */",
        table("uni_digits", ranges(lambda c: c.isdigit() and not c.isdecimal())),
        table("uni_numerics", ranges(lambda c: c.isnumeric() and not c.isdecimal())),
        "/* upper and lower case beyond categories Lu and Ll */",
        table("uni_other_upper", ranges(lambda c: c.isupper() and u.category(c) != "Lu")),
        table("uni_other_lower", ranges(lambda c: c.islower() and u.category(c) != "Ll")),
        "/* skipped when the end of a word is looked for */",
        table("uni_case_ignorable", ranges(case_ignorable)).replace("{\n", "{\n\t{0x27,0x27}, {0x2e,0x2e}, {0x3a,0x3a}, {0x5e,0x5e}, {0x60,0x60},\n", 1),
        "/* mappings to several characters, and folding that is not lower case: upper, lower, title, fold */",
        "static const struct uni_special {\n\tuint32_t c, to[4][3];\n} uni_special[] = {",
    ]
    for c, maps in special:
        out.append("\t{0x%x,{%s}}," % (c, ",".join("{" + ",".join("0x%x" % x for x in m) + "}" if m else "{0}" for m in maps)))
    out.append("};\n\n#endif")
    open(sys.argv[1], "w").write("\n".join(out) + "\n")


main()
