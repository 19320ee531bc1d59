"""A protection job killed at random moments against one that was left alone: are folder and manifest the same?

    python experiments/benchmarks/interruptions.py PHOTOS --model RUN --out FOLDER [--kills 20] [-- --faces detect]

What follows `--` goes to `privface protect`. The killed job gets SIGKILL at moments drawn at random, most of them some time after
it has finished something, some while it starts, and is started again each time.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np


def digests(root: Path) -> dict[str, str]:
    files = (p for p in sorted(root.rglob("*")) if p.is_file() and p.name != ".privface-journal.jsonl")
    return {p.relative_to(root).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def finished(root: Path) -> int:
    journal = root / ".privface-journal.jsonl"
    return max(0, sum(bool(line.strip()) for line in journal.open("rb")) - 1) if journal.is_file() else 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("photos")
    parser.add_argument("--model", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    own, passed = sys.argv[1:], []
    if "--" in own:
        own, passed = own[: own.index("--")], own[own.index("--") + 1 :]
    args = parser.parse_args(own)
    rng = np.random.default_rng(args.seed)

    def command(out: Path) -> list[str]:
        return [
            sys.executable,
            "-m",
            "privface",
            "protect",
            args.photos,
            str(out),
            "--model",
            args.model,
            *passed,
        ]

    start = time.monotonic()
    done = subprocess.run(command(args.out / "reference"), capture_output=True, text=True, check=False)
    length = time.monotonic() - start
    print(f"uninterrupted: exit {done.returncode}, {length:.0f} s\n{done.stdout}{done.stderr}", flush=True)

    killed = args.out / "killed"
    moments = []
    while len(moments) < args.kills:
        job = subprocess.Popen(command(killed), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        before = finished(killed)
        early = len(moments) % 5 == 4  # one in five while models load and the journal is read
        while not early and job.poll() is None and finished(killed) == before:
            time.sleep(0.1)
        try:
            job.wait(rng.uniform(0, 8.0 if early else 0.8 * length / args.kills))
        except subprocess.TimeoutExpired:
            job.send_signal(signal.SIGKILL)
            job.wait()
        else:
            print("the job was through before it could be killed; give fewer kills or more photos")
            return 1
        moments.append(finished(killed))
        print(f"kill {len(moments)}: {moments[-1]} files in the journal", flush=True)
    done = subprocess.run(command(killed), capture_output=True, text=True, check=False)
    print(f"last run: exit {done.returncode}\n{done.stdout}{done.stderr}")

    one, other = digests(args.out / "reference"), digests(killed)
    left = [name for name in other if re.search(r"privface-(tmp|lock)", name)]
    different = sorted(name for name in one.keys() | other.keys() if one.get(name) != other.get(name))
    result = {
        "files": len(one),
        "kills": len(moments),
        "journal_at_kill": moments,
        "different": different[:20],
        "left_over": left,
        "manifest_sha256": [one.get("manifest.parquet"), other.get("manifest.parquet")],
    }
    (args.out / "interruptions.json").write_text(json.dumps(result, indent=1) + "\n")
    print(f"{len(one)} files, {len(moments)} kills: {len(different)} different, {len(left)} left over")
    return int(bool(different or left))


if __name__ == "__main__":
    sys.exit(main())
