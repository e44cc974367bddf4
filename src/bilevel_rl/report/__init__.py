"""Run folders to one HTML file that opens anywhere."""
