"""Shows what happened: log lines, metrics, status."""
