"""Makes benchmarks/torch_twin.py importable: benchmarks are scripts, not part of the installed package."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmarks"))
