/* What an adapter is called: [NAME@]VERSION, a semantic version (semver.org 2.0.0). */
#ifndef LP_TRAIN_TAG_H
#define LP_TRAIN_TAG_H

#include <stdbool.h>
#include <stddef.h>

bool tag_is_version(const char *text);
/* False when text is no tag; *version is the part behind NAME@. */
bool tag_parse(const char *text, const char **version);

#endif
