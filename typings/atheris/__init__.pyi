"""What tests/hostile uses of atheris, which comes without types."""

from collections.abc import Callable
from contextlib import AbstractContextManager

def instrument_imports(include: list[str] | None = None) -> AbstractContextManager[None]: ...
def Setup(words: list[str], one: Callable[[bytes], None]) -> list[str]: ...  # noqa: N802 - atheris' own name
def Fuzz() -> None: ...  # noqa: N802
