"""`yt8m COMMAND ...`: all commands under one name; `python -m yt8m.COMMAND` is the same."""

import argparse
import difflib
import importlib
import shutil
import sys
import textwrap
from collections.abc import Sequence
from functools import partial

from yt8m import __doc__ as purpose
from yt8m import __version__
from yt8m.cli import Parser, as_typed, run
from yt8m.common.errors import UserError
from yt8m.common.exits import STATUSES

# In the order in which they are used.
GROUPS = {
    "all in one": ("fit",),
    "get data": (
        "download",
        "check_data",
        "extract_features",
        "make_records",
        "make_demo_data",
        "make_demo_films",
        "prepare_vocabulary",
        "rate",
    ),
    "train": ("train_video", "train_pure_segment", "train_segment_w_context", "find_lr"),
    "predict and submit": (
        "prepare_test_meta",
        "inference_memmap",
        "create_submission_from_memmaps",
        "check_submission",
    ),
    "look at results": ("evaluate", "evaluate_spans", "report"),
    "use a model": ("localize", "export_model"),
}
COMMANDS = tuple(name for names in GROUPS.values() for name in names)
_INDENT = "    "


def build_parser() -> argparse.ArgumentParser:
    """The command line without a command, or with one that there is not."""
    parser = Parser(
        prog="yt8m",
        usage="%(prog)s COMMAND [options]",
        description=purpose,
        epilog=_overview(),
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("command", nargs="?", help=argparse.SUPPRESS)
    parser.add_argument("--version", action="version", version=__version__)
    return parser


def build_command_parser(name: str) -> argparse.ArgumentParser:
    """The command line of a command, which calls itself `yt8m NAME`."""
    parser: argparse.ArgumentParser = importlib.import_module(f"yt8m.{name}").build_parser()
    parser.prog = f"yt8m {name}"
    parser.epilog = as_typed(parser.epilog or "", parser.prog)
    return parser


def _overview() -> str:
    """What the commands are for, the first line of their docstrings, and how they end."""
    width = shutil.get_terminal_size().columns - 2  # as argparse has it
    lines = []
    for title, names in GROUPS.items():
        lines.append(f"{title}:")
        for name in names:
            summary = (importlib.import_module(f"yt8m.{name}").__doc__ or "").partition("\n")[0]
            lines.append(f"  {name}")
            lines += textwrap.wrap(summary, width, initial_indent=_INDENT, subsequent_indent=_INDENT)
        lines.append("")
    lines.append("exit status:")
    for status, meaning in STATUSES.items():
        lines += textwrap.wrap(f"{status:5}{meaning}", width, initial_indent="  ", subsequent_indent=" " * 7)
    lines += ["", "`yt8m COMMAND --help` says more. Dashes will do for underscores: `yt8m train-video`."]
    return "\n".join(lines)


def _list_commands(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Print the commands. Raises `UserError` for one that there is not."""
    if args.command is None:
        parser.print_help()
        return
    close = difflib.get_close_matches(_module_name(args.command), COMMANDS, cutoff=0.5)
    suggestion = f"did you mean {' or '.join(close)}? " if close else ""
    raise UserError(f"no command {args.command!r}; {suggestion}`yt8m --help` lists all of them")


def _module_name(word: str) -> str:
    return word.replace("-", "_")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command that the first of the arguments names, with the others; by default those of the process."""
    if "" not in sys.path:
        sys.path.append("")  # where families of models of one's own may be, as `python -m` has it
    words = list(sys.argv[1:] if arguments is None else arguments)
    name = _module_name(words[0]) if words else ""
    if name in COMMANDS:
        run(importlib.import_module(f"yt8m.{name}").main, build_command_parser(name), words[1:])
        return
    parser = build_parser()
    run(partial(_list_commands, parser), parser, words[:1])


if __name__ == "__main__":
    main()
