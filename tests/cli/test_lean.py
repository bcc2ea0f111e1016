"""What a run on local data does not import."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

RUN = """
import json
import sys
from alignzoo.cli import main

sys.argv = ["alignzoo", "run", *sys.argv[1:], "--quiet"]
try:
    main()
except SystemExit as end:
    assert not end.code, end.code
print(json.dumps(sorted({name.partition(".")[0] for name in sys.modules})))
"""

HEAVY = {"datasets", "pandas", "pyarrow", "sklearn", "trl", "peft", "math_verify", "torchvision", "tensorflow", "ray"}


def test_a_run_on_a_local_file_imports_no_table_library(recipe: Path, tmp_path: Path) -> None:
    said = subprocess.run(
        [sys.executable, "-c", RUN, str(recipe), "--trust", "--out", str(tmp_path / "out")],
        capture_output=True,
        text=True,
    )
    assert said.returncode == 0, said.stderr
    imported = set(json.loads(said.stdout.splitlines()[-1]))
    assert {"torch", "transformers", "alignzoo_hf"} <= imported
    assert not imported & HEAVY
