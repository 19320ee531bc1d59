"""Write docs/bad-inputs.md from the table that tests/e2e/test_bad_inputs.py checks.

Run: python experiments/bad_inputs.py [--out docs/bad-inputs.md]
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
INTRO = """# Bad inputs

What `privface` does with inputs that are wrong, damaged or odd. Exit codes: 0 done, 1 some files failed (the manifest says which
and why), 2 wrong usage or input, 3 audit gate not met. `KIT` is a folder of good inputs, `DIR` the working folder.

Every row is a test (`tests/e2e/test_bad_inputs.py`); this page is written by `python experiments/bad_inputs.py`.

| input | exit | what is said |
| --- | --- | --- |
"""


def row(name: str, code: int, said: str) -> str:
    said = re.sub(r"[\d.,]+ (images|rows)/s", r"N \1/s", said)
    said = re.sub(r"[╭╮╰╯│─]+", " ", said)
    said = " ".join(said.split()).replace("|", "\\|").replace("`", "'")
    return f"| {name} | {code} | `{said}` |\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=ROOT / "docs/bad-inputs.md")
    out = parser.parse_args().out
    os.environ["COLUMNS"] = "300"
    sys.path.insert(0, str(ROOT))  # `tests` is no part of the package
    from tests.e2e import bad_inputs as table

    lines, wrong = [], 0
    with tempfile.TemporaryDirectory() as folder:
        kit = Path(folder) / "kit"
        table.build_kit(kit)
        for number, case in enumerate(table.CASES):
            outcome = table.run_case(case, kit, Path(folder) / f"case{number}")
            wrong += outcome.code != case.code or case.says not in outcome.said
            lines.append(row(case.name, outcome.code, outcome.said.replace(folder, "TMP")))
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(INTRO + "".join(lines), encoding="utf-8")
    print(f"{len(lines)} rows, {wrong} not as expected; {out}")
    return min(wrong, 1)


if __name__ == "__main__":
    sys.exit(main())
