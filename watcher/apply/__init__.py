"""Carries a route to one PgBouncer: its file, its reload, its console. See `pooler.py` for the promise."""
