"""Run folders to one HTML file that opens anywhere. Nothing here runs an algorithm, or any code of a user."""

from bilevel_rl.report.page import REPORT as REPORT, write_report as write_report
