#!/bin/sh
# Usage: full_templates.sh BUILD_DIR CONFORMANCE_DIR
# Runs CONFORMANCE_DIR/template_cases.jsonl against CONFORMANCE_DIR/templates.
set -eu
make -s "$1/tests/test_tmpl_conformance"
LP_CONFORMANCE=$2 "$1/tests/test_tmpl_conformance"
