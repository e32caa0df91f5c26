"""Flags of the verbs that take photos of a person."""

from __future__ import annotations

import argparse


def add_matte_flag(parser: argparse._ActionsContainer) -> None:
    parser.add_argument(
        "--matte",
        choices=("auto", "none"),
        default="auto",
        help="auto: cut the person out of a photo without a mask, by a network (default); none: keep the background",
    )
