def Type() -> str: ...  # noqa: N802
