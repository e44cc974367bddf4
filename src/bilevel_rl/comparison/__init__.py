"""Many short runs, of many methods: one cell of work each, spread over workers, tuned all in the same way."""
