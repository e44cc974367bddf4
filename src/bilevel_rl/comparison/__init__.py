"""Many short runs, of many methods: one task of work each, spread over workers, tuned all in the same way."""
