"""Check a capture, person, fit, motion, camera path, shards, weights or avatar, and say in one line what it is.

  mvp4d validate PATH

Every pixel of a capture is read. A file or folder that is damaged ends in one line that names the file and the field.
"""

from __future__ import annotations

import argparse
from pathlib import Path


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("path", metavar="PATH", type=Path, help="the file or folder to check")


def run(args: argparse.Namespace) -> str:
    from mvp4d import validate

    return validate(args.path)
