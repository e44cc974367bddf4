"""What the command line runs: one file an experiment, each with a frozen config, `main`, `plot` and `summarize`."""
