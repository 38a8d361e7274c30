/* The style sheet of the HTML report: light and dark by the reader's setting,
 * colours told apart by people who see few of them, and print. */
#ifndef LP_EVAL_REPORT_CSS_H
#define LP_EVAL_REPORT_CSS_H

extern const char report_css[];

#endif
