"""What the commands share: options, errors, devices. Imports nothing heavy, so that `--help` is instant."""

import argparse
import gc
import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from yt8m import __version__
from yt8m.common.errors import UserError
from yt8m.data.damage import Damage
from yt8m.data.folds import N_FOLDS, NO_FOLD, Fold

DEFAULT_SEED = 0


def make_parser(description: str | None, example: str, *options: str) -> argparse.ArgumentParser:
    """A parser with `--data-dir`, `--version` and those of the shared `options`: device, seed, workers, on-error."""
    parser = argparse.ArgumentParser(
        prog=f"python -m yt8m.{Path(sys.argv[0]).stem}",
        description=description,
        epilog=f"example:\n  {example}",
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=__version__)
    parser.add_argument(
        "--data-dir",
        type=Path,
        default=Path("data"),
        metavar="DIR",
        help="folder with video/, segment/, the vocabulary and cache/ (default: data)",
    )
    if "device" in options:
        parser.add_argument(
            "--device",
            default="auto",
            metavar="auto|cpu|cuda[:i]",
            help="where to compute (default: auto, a GPU if there is one)",
        )
    if "seed" in options:
        parser.add_argument(
            "--seed",
            type=count,
            metavar="S",
            help=f"seed of the run (default: the environment variable SEED, else {DEFAULT_SEED})",
        )
    if "workers" in options:
        parser.add_argument(
            "--workers",
            type=count,
            metavar="N",
            help="threads that read ahead; 0 reads between the steps (default: 0 on CPU, 2 with a GPU)",
        )
    if "on-error" in options:
        parser.add_argument(
            "--on-error",
            type=_damage,
            default="raise",
            dest="damage",
            metavar="raise|skip",
            help="a damaged shard or record ends the command, or is left out and reported at the end (default: raise)",
        )
    return parser


def add_training_options(parser: argparse.ArgumentParser, folder: str) -> None:
    """What the three trainers have in common: CONFIG, `--name`, and how to train."""
    parser.add_argument("config", type=Path, metavar="CONFIG", help="YAML configuration, such as those in scripts/")
    parser.add_argument("--name", required=True, type=_name, help=f"the model is exported to {folder}")
    parser.add_argument("--steps", type=positive, metavar="S", help="optimizer steps (default: the configuration's)")
    parser.add_argument(
        "--patience", type=positive, metavar="N", help="stop after N evaluations without improvement (default: never)"
    )
    parser.add_argument(
        "--save-every",
        type=positive,
        default=500,
        metavar="N",
        help="save the state of the run every N steps and at each evaluation; the same command goes on "
        "from there (default: 500)",
    )
    parser.add_argument(
        "--log-every", type=positive, default=100, metavar="N", help="log a line every N steps (default: 100)"
    )
    parser.add_argument("--restart", action="store_true", help="begin anew, whatever there is under this name")
    add_amp(parser, "auto", "auto, bf16 or else fp16 on a GPU, off on a CPU")
    parser.add_argument(
        "--accumulate",
        type=positive,
        default=1,
        metavar="N",
        help="take each batch in N parts, to need less memory (default: 1)",
    )
    parser.add_argument("--compile", action="store_true", help="train through torch.compile")


def add_fold(parser: argparse.ArgumentParser) -> None:
    """`--fold`, for the trainers on rated segments."""
    parser.add_argument(
        "--fold",
        type=fold,
        required=True,
        metavar=f"K|{NO_FOLD}",
        help=f"which of the {N_FOLDS} folds to validate on, 0 to {N_FOLDS - 1}; {NO_FOLD}: train on "
        "all shards, without validation, and export the weights of the last step",
    )


def add_amp(parser: argparse.ArgumentParser, default: str, explanation: str) -> None:
    """`--amp`."""
    parser.add_argument(
        "--amp",
        choices=("auto", "bf16", "fp16", "off"),
        default=default,
        help=f"mixed precision (default: {explanation})",
    )


def add_model_names(parser: argparse.ArgumentParser, purpose: str, default: str = "all") -> None:
    """`--model-names`, for a command that works on all models unless told otherwise."""
    parser.add_argument(
        "--model-names", nargs="+", metavar="NAME", action=Distinct, help=f"{purpose} (default: {default})"
    )


def add_model_dir(parser: argparse.ArgumentParser) -> None:
    """`--model-dir`."""
    parser.add_argument(
        "--model-dir",
        type=Path,
        metavar="D",
        help="folder of segment models (default: cache/segment of the data folder)",
    )


def add_prediction_options(parser: argparse.ArgumentParser, purpose: str) -> None:
    """Which segment models predict, and how: what the commands have in common that predict with all their models."""
    add_model_dir(parser)
    add_model_names(parser, purpose)
    parser.add_argument(
        "--offset",
        type=count,
        metavar="N",
        help="frames on either side of a segment (default: what each model was trained with)",
    )
    parser.add_argument(
        "--shifts",
        type=int,
        nargs="+",
        default=[0],
        metavar="S",
        action=Distinct,
        help="average the predictions for segments so many seconds later, or earlier, such as "
        "-2 -1 0 1 2 (default: 0, the segments alone)",
    )
    add_amp(parser, "off", "off, float32; auto is bf16 or else fp16 on a GPU")


class Distinct(argparse.Action):
    """An option's values, of which none may come twice: what is named twice would count twice."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        for value in values:
            if values.count(value) > 1:
                parser.error(f"argument {option_string}: {value} is named more than once")
        setattr(namespace, self.dest, values)


def _name(text: str) -> str:
    if not text or text.startswith(".") or "/" in text:
        raise ValueError
    return text


_name.__name__ = "folder name"


def count(text: str) -> int:
    """An option's value as an integer of at least 0."""
    value = int(text)
    if value < 0:
        raise ValueError
    return value


count.__name__ = "number of at least 0"  # argparse names the type in its message


def _damage(text: str) -> Damage:
    if text not in ("raise", "skip"):
        raise ValueError
    return Damage(skip=text == "skip")


_damage.__name__ = "raise or skip"


def positive(text: str) -> int:
    """An option's value as an integer of at least 1."""
    value = int(text)
    if value < 1:
        raise ValueError
    return value


positive.__name__ = "number of at least 1"


def fold(text: str) -> Fold:
    """An option's value as the number of a fold, or "none" for no fold."""
    if text == NO_FOLD:
        return NO_FOLD
    if text not in map(str, range(N_FOLDS)):
        raise argparse.ArgumentTypeError(f"expected 0 to {N_FOLDS - 1} or {NO_FOLD}, found {text!r}")
    return int(text)


def nonnegative(text: str) -> float:
    """An option's value as a finite number of at least 0."""
    value = float(text)
    if not 0 <= value < float("inf"):
        raise ValueError
    return value


nonnegative.__name__ = "number of at least 0"


def probability(text: str) -> float:
    """An option's value as a number in 0..1."""
    value = float(text)
    if not 0 <= value <= 1:
        raise ValueError
    return value


probability.__name__ = "number from 0 to 1"


def run(main: Callable[[argparse.Namespace], None], parser: argparse.ArgumentParser) -> None:
    """Parse the command line and run a command.

    A `UserError`, or a file that cannot be read or written, ends it with one line and status 2, Ctrl-C with
    status 130.
    """
    args = parser.parse_args()
    try:
        if "seed" in args and args.seed is None:
            args.seed = _seed_from_environment()
        logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
        main(args)
    except UserError as error:
        print(f"{parser.prog}: error: {error}", file=sys.stderr)
        sys.exit(2)
    except OSError as error:  # a full disk, a folder without permission, a file where a folder should be
        if error.filename is None:
            raise
        print(f"{parser.prog}: error: {error.filename}: {error.strerror}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
    finally:
        if "damage" in args:
            args.damage.report()
        gc.freeze()  # the end of the process would look through all of torch for garbage, for half a second


def _seed_from_environment() -> int:
    text = os.environ.get("SEED", str(DEFAULT_SEED))
    if not text.isdecimal():
        raise UserError(f"environment variable SEED: expected a number of at least 0, found {text!r}")
    return int(text)
