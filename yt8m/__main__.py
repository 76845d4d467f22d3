"""The entry point `yt8m COMMAND ...`, equivalent to `python -m yt8m.COMMAND ...`."""

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

# In order of use.
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
    """Build the parser of a command line without a command, or with an unknown one."""
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
    """Build the parser of a command, with `yt8m NAME` as its program name."""
    parser: argparse.ArgumentParser = importlib.import_module(f"yt8m.{name}").build_parser()
    parser.prog = f"yt8m {name}"
    parser.epilog = as_typed(parser.epilog or "", parser.prog)
    return parser


def _overview() -> str:
    """The commands, each with the first line of its docstring, and the exit statuses."""
    width = shutil.get_terminal_size().columns - 2  # as in argparse
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
    lines += ["", "`yt8m COMMAND --help` says more. Dashes may replace underscores: `yt8m train-video`."]
    return "\n".join(lines)


def _list_commands(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Print the help. Raises `UserError` for an unknown command."""
    if args.command is None:
        parser.print_help()
        return
    close = difflib.get_close_matches(_module_name(args.command), COMMANDS, cutoff=0.5)
    suggestion = f"did you mean {' or '.join(close)}? " if close else ""
    raise UserError(f"unknown command {args.command!r}; {suggestion}`yt8m --help` lists all of them")


def _module_name(word: str) -> str:
    return word.replace("-", "_")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command named by the first argument with the others; `arguments` defaults to the process's own."""
    if "" not in sys.path:
        sys.path.append("")  # where users may keep their own model families; `python -m` does the same
    words = list(sys.argv[1:] if arguments is None else arguments)
    name = _module_name(words[0]) if words else ""
    if name in COMMANDS:
        run(importlib.import_module(f"yt8m.{name}").main, build_command_parser(name), words[1:])
        return
    parser = build_parser()
    run(partial(_list_commands, parser), parser, words[:1])


if __name__ == "__main__":
    main()
