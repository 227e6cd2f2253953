"""Where this repository is, and the Python of its virtual environment."""

from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
PYTHON = REPOSITORY / ".venv/bin/python"
