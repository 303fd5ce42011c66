"""The directories that tests read."""

from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]
UNIT = PROJECT / "tests" / "unit"
