/* Small edits of a config.json text that leave everything else as it was. */
#ifndef LP_MODEL_CONFIG_EDIT_H
#define LP_MODEL_CONFIG_EDIT_H

#include "fmt/dtype.h"
#include "json/json.h"

/* The configuration with its dtype (torch_dtype, or dtype where that is the key) set; two-space indents, as transformers writes. */
int config_set_dtype(const char *config, enum dtype t, struct sb *out, struct err *e) LP_MUST_USE;
/* One JSON value, indented by two spaces. */
void json_pretty(const struct json *v, struct sb *out);

#endif
