"""Flags of the verbs that one job runs on several hosts."""

from __future__ import annotations

import argparse


def add_host_flags(parser: argparse._ActionsContainer) -> None:
    parser.add_argument("--distributed", action="store_true", help="join the hosts of a TPU pod, GKE or SLURM job")
    parser.add_argument("--coordinator", metavar="HOST:PORT", help="of process 0, where hosts do not find each other")
    parser.add_argument("--processes", type=int, metavar="N")
    parser.add_argument("--process", type=int, metavar="I")
    add_join_timeout(parser)


def add_join_timeout(parser: argparse._ActionsContainer) -> None:
    parser.add_argument("--join-timeout", type=float, default=300, metavar="S", help="seconds to wait (300)")


def among_hosts(args: argparse.Namespace) -> bool:
    """Whether the flags make this process one of several of a job."""
    return args.distributed or any(value is not None for value in (args.coordinator, args.processes, args.process))


def join_hosts(args: argparse.Namespace) -> None:
    """Meets the other processes, where there are any; before anything touches a device."""
    from mvp4d_jax import processes

    if among_hosts(args):
        processes.initialise_processes(args.coordinator, args.processes, args.process, timeout=args.join_timeout)
