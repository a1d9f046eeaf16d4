"""Where the documents are."""

from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
RESULTS = ROOT / "results"
