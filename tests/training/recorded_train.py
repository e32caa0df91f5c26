"""`mvp4d train`, noting in `samples.jsonl` of the workdir which samples every step has trained on, as it goes."""

import json
import sys
import time
from pathlib import Path

from mvp4d import cli
from mvp4d_jax.training import loop
from mvp4d_jax.training.feed import Feed

PAUSE = 0.02  # seconds after every step, so that a kill finds the run at work


def main() -> int:
    workdir = Path(sys.argv[sys.argv.index("--workdir") + 1])
    place, write = Feed.place, loop.MetricsLog.write
    last = {}

    def noting_place(feed, local):
        last["samples"] = local["sample"].tolist()
        return place(feed, local)

    def noting_write(log, step, values):
        write(log, step, values)
        if "loss" in values:
            with open(workdir / "samples.jsonl", "a") as file:
                file.write(json.dumps({"step": step, **last}) + "\n")
            time.sleep(PAUSE)

    Feed.place, loop.MetricsLog.write = noting_place, noting_write
    return cli.main()


if __name__ == "__main__":
    sys.exit(main())
