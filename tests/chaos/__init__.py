"""Real faults on real servers, in random order: `make chaos`. See `registry` for what a case is."""
