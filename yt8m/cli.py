"""Options, logging and error handling shared by the commands. Imports nothing heavy, so that `--help` is instant."""

import argparse
import gc
import logging
import math
import os
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypedDict

from yt8m import __version__
from yt8m.common.errors import UserError, counted
from yt8m.common.exits import INTERRUPTED, Terminated, ending_of, named_output, raised_terminations, settle
from yt8m.data.partitions import N_FOLDS, NO_FOLD, Fold
from yt8m.data.records import Damage

if TYPE_CHECKING:
    from yt8m.data.frames import Trim
    from yt8m.prediction.inference import Computation, ModelChoice
    from yt8m.training.experiments import Builder
    from yt8m.training.trainer import TrainingOptions

LOGGER = logging.getLogger(__name__)
SPIN_COUNT = "3000"  # rounds of waiting, see benchmarks/busy_machine.py
DEFAULT_SEED = 0
DEFAULT_EXTRACTOR = "efficientnet-lite0"
MODULE_PREFIX = "python -m yt8m."
_TIMES = {"s": "seconds", "m": "minutes", "h": "hours"}
_SEGMENT_METRICS = """\
An evaluation logs, for the validation shards: loss; auc, how often a segment rated 1 gets a higher probability for its
class than one rated 0; accuracy of the ratings at probability 0.5; negative_accuracy, the share of the mined negatives,
classes certainly absent from a segment's video, below 0.5.
"""
_ID_OPTIONS = "--videos", "--video-id"
_ID_WITH_DASH = re.compile(r"(?!--[a-z]+(-[a-z]+)*\Z)-[\w-]{10}", re.ASCII)  # but no option of that length


class _OptionGroup(Protocol):  # pylint: disable=too-few-public-methods
    """A parser, or a group of its options."""

    def add_argument(self, *names: Any, **properties: Any) -> Any:
        """See `argparse.ArgumentParser`."""


class Parser(argparse.ArgumentParser):
    """A parser that reports failure to print its help, and accepts YouTube ids that begin with a dash as values of
    --videos."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """See `argparse.ArgumentParser`."""
        return super().parse_known_args(_with_named_ids(sys.argv[1:] if args is None else args), namespace)

    def print_help(self, file: Any = None) -> None:
        """Print the help to a file, by default to standard output."""
        print(self.format_help(), end="", file=file)


def _with_named_ids(arguments: Sequence[str]) -> list[str]:
    """Rewrite each id after --videos that begins with a dash as `--videos=ID`, which argparse accepts."""
    named: list[str] = []
    option = ""  # the id option whose values are being read, if any
    for argument in arguments:
        if option and _ID_WITH_DASH.fullmatch(argument):
            if named[-1] == option:  # no value yet
                named.pop()
            named.append(f"{option}={argument}")
            continue
        if argument.startswith("-"):
            option = argument if argument in _ID_OPTIONS else ""
        elif option and named[-1].startswith(f"{option}="):
            named.append(option)
        named.append(argument)
    return named


def make_parser(
    description: str | None, examples: str | tuple[str, ...], *options: str, folder: str = "--data-dir"
) -> argparse.ArgumentParser:
    """Build a parser with the options of all commands and the shared `options`: device, seed, workers, on-error.

    `examples`: command lines of the form `python -m yt8m.COMMAND ...`; `folder`: name of the data folder's option,
    which is required under any name but the default, for commands that create a data folder.
    """
    lines = [examples] if isinstance(examples, str) else list(examples)
    parser = Parser(
        prog=f"{MODULE_PREFIX}{Path(sys.argv[0]).stem}",
        description=description,
        epilog="\n  ".join(["example:" if len(lines) == 1 else "examples:", *lines]),
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=__version__)
    loudness = parser.add_mutually_exclusive_group()
    more = "log more: versions, device, time and memory; for an error, also where it was raised"
    less = "show only results, warnings and errors, no progress; log files stay complete"
    for short, name, level, text in (
        ("-v", "--verbose", logging.DEBUG, more),
        ("-q", "--quiet", logging.WARNING, less),
    ):
        loudness.add_argument(
            short, name, action="store_const", const=level, default=logging.INFO, dest="console_level", help=text
        )
    usual = folder == "--data-dir"
    what = "folder with video/, segment/, the vocabulary and cache/"
    parser.add_argument(
        folder,
        type=Path,
        default=Path("data") if usual else None,
        required=not usual,
        dest="data_dir",
        metavar="DIR",
        help=f"{what} (default: data)" if usual else f"data folder to write to, created if missing: {what}",
    )
    add_shared(parser, *options)
    return parser


def add_shared(options: _OptionGroup, *names: str) -> None:
    """Add the shared options of these names, see `make_parser`, to a parser or a group of it."""
    if "device" in names:
        options.add_argument(
            "--device",
            default="auto",
            metavar="auto|cpu|cuda[:i]",
            help="device to compute on (default: auto, a GPU if there is one)",
        )
    if "seed" in names:
        options.add_argument(
            "--seed",
            type=count,
            metavar="S",
            help=f"seed of the run (default: the environment variable SEED, else {DEFAULT_SEED})",
        )
    if "workers" in names:
        options.add_argument(
            "--workers",
            type=count,
            metavar="N",
            help="threads that read ahead; 0 reads between steps (default: 0 on a CPU; for a GPU half the processor "
            "cores, from 2 to 8)",
        )
    if "on-error" in names:
        options.add_argument(
            "--on-error",
            type=_damage,
            default="raise",
            dest="damage",
            metavar="raise|skip",
            help="at a damaged shard, record or film, stop, or skip it and report it at the end (default: raise)",
        )


def add_top_k(parser: argparse.ArgumentParser, purpose: str) -> None:
    """Add `--top-k`, by default the challenge's 100,000."""
    parser.add_argument("--top-k", type=positive, default=100_000, metavar="K", help=f"{purpose} (default: 100000)")


def add_truth(options: _OptionGroup, purpose: str) -> None:
    """Add `--truth`."""
    options.add_argument(
        "--truth",
        type=Path,
        metavar="CSV",
        help="ratings of test segments, columns vid,start,label,score (label: an id, or a name in "
        f"DIR/vocabulary.csv){purpose}",
    )


def add_config(parser: argparse.ArgumentParser) -> None:
    """Add CONFIG, for commands that train."""
    parser.add_argument("config", type=Path, metavar="CONFIG", help="YAML configuration, such as those in scripts/")


def make_training_parser(
    description: str | None, examples: str | tuple[str, ...], folder: str
) -> argparse.ArgumentParser:
    """Build a parser with the options common to the three trainers; `folder`: where the help says that models go."""
    parser = make_parser(description, examples, "device", "seed", "workers", "on-error")
    add_config(parser)
    parser.add_argument(
        "--name", required=True, type=folder_name, help=f"name of the model, which is exported to {folder}"
    )
    parser.add_argument("--steps", type=positive, metavar="S", help="optimizer steps (default: the configuration's)")
    parser.add_argument(
        "--patience", type=positive, metavar="N", help="stop after N evaluations without improvement (default: never)"
    )
    parser.add_argument(
        "--save-every",
        type=save_interval,
        default="10m",
        metavar="N|TIME",
        help="save the state of the run every N steps or after a time, such as 30s, 10m or 2h, and at each evaluation; "
        "the same command resumes from it (default: 10m)",
    )
    parser.add_argument(
        "--log-every", type=positive, default=100, metavar="N", help="log a line every N steps (default: 100)"
    )
    parser.add_argument("--restart", action="store_true", help="start over, even if there is a run of this name")
    parser.add_argument(
        "--allow-other-code",
        action="store_true",
        help="resume a run begun by another version of this software, which may lead to other weights",
    )
    add_amp(parser)
    parser.add_argument(
        "--accumulate",
        type=positive,
        default=1,
        metavar="N",
        help="split each batch into N parts, to save memory (default: 1)",
    )
    parser.add_argument("--compile", action="store_true", help="train with torch.compile")
    return parser


def training_options(args: argparse.Namespace) -> "TrainingOptions":
    """How to train, from the options common to the trainers."""
    from yt8m.training.trainer import TrainingOptions

    return TrainingOptions(
        seed=args.seed,
        device=args.device,
        amp=args.amp,
        workers=args.workers,
        damage=args.damage,
        patience=args.patience,
        save_every=args.save_every,
        log_every=args.log_every,
        accumulate=args.accumulate,
        compiled=args.compile,
        restart=args.restart,
        allow_other_code=args.allow_other_code,
        console_level=args.console_level,
    )


def add_numbers(parser: argparse.ArgumentParser, numbers: Mapping[str, tuple[int, str]]) -> None:
    """Add options for positive numbers, given by name with their default and help text."""
    for name, (default, what) in numbers.items():
        parser.add_argument(
            f"--{name}", type=positive, default=default, metavar="N", help=f"{what} (default: {default})"
        )


def add_fold(parser: argparse.ArgumentParser) -> None:
    """Add `--fold`, for the trainers on rated segments."""
    parser.add_argument(
        "--fold",
        type=fold,
        required=True,
        metavar=f"K|{NO_FOLD}",
        help=f"the fold to validate on, 0 to {N_FOLDS - 1}; {NO_FOLD}: train on all shards, without "
        "validation, and export the weights of the last step",
    )


def make_fine_tuning_parser(description: str | None, examples: str | tuple[str, ...]) -> argparse.ArgumentParser:
    """Build a parser with the options common to the trainers on rated segments, all but the base models."""
    parser = make_training_parser(f"{description}\n\n{_SEGMENT_METRICS}", examples, "cache/segment/NAME_FOLD")
    add_fold(parser)
    add_vocabulary(parser)
    return parser


class FineTuningOptions(TypedDict):
    """Arguments of the experiments of both trainers on rated segments, all but the base models."""

    config: Path
    fold: Fold
    steps: int | None
    vocabulary_file: Path | None


def fine_tuning_options(args: argparse.Namespace) -> FineTuningOptions:
    """The arguments, from the options common to both trainers."""
    return {"config": args.config, "fold": args.fold, "steps": args.steps, "vocabulary_file": args.vocabulary}


def run_training(args: argparse.Namespace, build: "Builder") -> None:
    """Train and export the experiment that `build` makes. Raises `UserError`."""
    from yt8m.training.trainer import train

    train(model_folder(args), args.data_dir, build, training_options(args))


def model_folder(args: argparse.Namespace) -> Path:
    """The folder that a trainer exports its model to."""
    cache = Path(args.data_dir, "cache")
    return cache / "segment" / f"{args.name}_{args.fold}" if "fold" in args else cache / "video" / args.name


def add_amp(
    parser: argparse.ArgumentParser,
    default: str = "auto",
    explanation: str = "auto, i.e. bf16, else fp16, on a GPU, and off on a CPU",
) -> None:
    """Add `--amp`, by default for training."""
    parser.add_argument(
        "--amp",
        choices=("auto", "bf16", "fp16", "off"),
        default=default,
        help=f"mixed precision (default: {explanation})",
    )


def add_model_names(parser: argparse.ArgumentParser, purpose: str, default: str = "all") -> None:
    """Add `--model-names`, by default all models."""
    parser.add_argument(
        "--model-names", nargs="+", metavar="NAME", action=Distinct, help=f"{purpose} (default: {default})"
    )


def add_vocabulary(options: _OptionGroup) -> None:
    """Add `--vocabulary`, for commands that use models."""
    options.add_argument(
        "--vocabulary",
        type=Path,
        metavar="CSV",
        help="segment_vocabulary.csv with the classes of models whose folders do not list them (default: for 1,000 "
        "classes, the challenge's)",
    )


def add_model_dir(options: _OptionGroup) -> None:
    """Add `--model-dir`."""
    options.add_argument(
        "--model-dir",
        type=Path,
        metavar="DIR",
        help="folder of segment models (default: cache/segment of the data folder)",
    )


def add_prediction_options(parser: argparse.ArgumentParser, purpose: str) -> None:
    """Add the options common to the commands that predict with all segment models: which models, and how."""
    add_model_dir(parser)
    add_model_names(parser, purpose)
    add_vocabulary(parser)
    parser.add_argument(
        "--offset",
        type=_offset,
        metavar="N",
        help="frames on either side of a segment (default: what each model was trained with)",
    )
    parser.add_argument(
        "--shifts",
        type=_shift,
        nargs="+",
        default=[0],
        metavar="S",
        action=Distinct,
        help="average the predictions for segments shifted by S seconds, such as -2 -1 0 1 2 (default: 0, no shift)",
    )
    add_amp(parser, "off", "off, float32; auto: bf16, else fp16, on a GPU")


def model_choice(args: argparse.Namespace) -> "ModelChoice":
    """The models selected by `--model-dir`, `--model-names` and `--vocabulary`."""
    from yt8m.prediction.inference import ModelChoice

    return ModelChoice(args.model_dir or args.data_dir / "cache" / "segment", args.model_names, args.vocabulary)


def computation(args: argparse.Namespace, trim: "Trim | None" = None) -> "Computation":
    """How to predict, from `--device`, `--amp` and `--shifts`; `trim`: the segments of a video to leave out, by default
    those that the challenge does not rank."""
    from yt8m.common.devices import resolve_device, resolve_half
    from yt8m.data.frames import CANDIDATES
    from yt8m.prediction.inference import Computation

    device = resolve_device(args.device)
    return Computation(device, resolve_half(args.amp, device), tuple(sorted(args.shifts)), trim or CANDIDATES)


class Distinct(argparse.Action):
    """Store an option's values; refuse duplicates, which would count twice."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        given = getattr(namespace, self.dest, None)
        values = values if given is self.default or given is None else [*given, *values]  # the option is repeated
        for value in values:
            if values.count(value) > 1:
                parser.error(f"argument {option_string}: {value} is named more than once")
        setattr(namespace, self.dest, values)


def folder_name(text: str) -> str:
    """Parse the name of a folder, not a hidden one."""
    if not text or text.startswith(".") or "/" in text:
        raise ValueError
    return text


folder_name.__name__ = "folder name"


def integer_type(name: str, low: int, end: int) -> Callable[[str], int]:
    """Make an option type for integers from `low` to below `end`; `name` is for error messages."""

    def convert(text: str) -> int:
        value = int(text)
        if not low <= value < end:
            raise ValueError
        return value

    convert.__name__ = name  # argparse names the type in its message
    return convert


count = integer_type("number from 0 to 2^63 - 1", 0, 2**63)  # fits 64 bits, as a seed must
_offset = integer_type("number from 0 to 3600", 0, 3601)
_shift = integer_type("number from -3600 to 3600", -3600, 3601)
positive = integer_type("number from 1 to 2^31 - 1", 1, 2**31)


def _damage(text: str) -> Damage:
    if text not in ("raise", "skip"):
        raise ValueError
    return Damage(skip=text == "skip")


_damage.__name__ = "raise or skip"


def save_interval(text: str) -> int | timedelta:
    """Parse a number of steps, or a time: seconds (`30s`), minutes (`10m`) or hours (`2h`)."""
    unit = _TIMES.get(text[-1:])
    try:
        number = positive(text if unit is None else text[:-1])
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"expected a number of steps, such as 500, or a time, such as 30s, 10m or 2h, both above 0, found {text!r}"
        ) from None
    return number if unit is None else timedelta(**{unit: number})


def fold(text: str) -> Fold:
    """Parse the number of a fold, or "none" for no fold."""
    if text == NO_FOLD:
        return NO_FOLD
    if text not in map(str, range(N_FOLDS)):
        raise argparse.ArgumentTypeError(f"expected 0 to {N_FOLDS - 1} or {NO_FOLD}, found {text!r}")
    return int(text)


def number_type(name: str, accepts: Callable[[float], bool] = lambda value: True) -> Callable[[str], float]:
    """Make an option type for the finite numbers that `accepts` allows; `name` is for error messages."""

    def convert(text: str) -> float:
        value = float(text)
        if not math.isfinite(value) or not accepts(value):
            raise ValueError
        return value

    convert.__name__ = name
    return convert


nonnegative = number_type("number of at least 0", lambda value: value >= 0)
probability = number_type("number from 0 to 1", lambda value: 0 <= value <= 1)


@contextmanager
def resumable(what: object) -> Iterator[None]:
    """Log on Ctrl-C, SIGTERM and SIGHUP that the same command resumes what is done in the block, on or in `what`."""
    try:
        with raised_terminations():
            yield
    except (KeyboardInterrupt, Terminated):
        LOGGER.warning("%s: interrupted; the same command resumes", what)
        raise


def run(
    main: Callable[[argparse.Namespace], None], parser: argparse.ArgumentParser, arguments: Sequence[str] | None = None
) -> None:
    """Parse a command line (by default the process's own) and run a command.

    Returns if the command succeeds and its output is written. Otherwise exits: for errors that `ending_of` knows with
    one line and their status, for Ctrl-C with status 130; a bug shows its traceback, with status 1.
    """
    start = time.monotonic()
    args = argparse.Namespace()
    try:
        with named_output():
            _parse_and_call(main, parser, arguments, args)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    except Exception as error:  # pylint: disable=broad-exception-caught  # bugs are raised again
        ending = ending_of(error, _less_memory(args), _fewer_threads(args))
        if ending is None:
            raise
        LOGGER.debug("%s was raised here:", type(error).__name__, exc_info=True)
        if ending.text:
            _complain(f"{parser.prog}: error: {as_typed(ending.text, parser.prog)}")
        sys.exit(ending.status)
    finally:
        if "damage" in args:
            args.damage.report()
        LOGGER.debug("%s", _spent(start))
        settle(sys.stdout)
        settle(sys.stderr)
        gc.freeze()  # at exit, collecting garbage in all of torch would take half a second


def _parse_and_call(
    main: Callable[[argparse.Namespace], None],
    parser: argparse.ArgumentParser,
    arguments: Sequence[str] | None,
    args: argparse.Namespace,
) -> None:
    """Fill `args` and run the command."""
    if sys.platform != "linux":
        raise UserError(f"runs only on Linux, not on {sys.platform}; use the Docker image, or WSL 2 on Windows")
    vars(args).update(vars(parser.parse_args(arguments)), prog=parser.prog)  # all of them, or none
    if "console_level" in args:
        _set_up_console(args.console_level)
    LOGGER.debug("%s", _versions())
    if "seed" in args and args.seed is None:
        args.seed = _seed_from_environment()
    options = {name: value for name, value in vars(args).items() if name not in ("console_level", "damage", "prog")}
    LOGGER.debug("%s", ", ".join(f"{name} {value}" for name, value in options.items()))
    _spin_briefly()
    main(args)


def _spin_briefly() -> None:
    """Make OpenMP threads spin only briefly while they wait for each other, unless the environment says otherwise.

    By default they spin for milliseconds, on cores that other programs, and the threads they wait for, need: training
    beside another program can become ten times slower. Only effective before torch is imported.
    """
    if not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & os.environ.keys():
        os.environ["GOMP_SPINCOUNT"] = SPIN_COUNT


def _less_memory(args: argparse.Namespace) -> str:
    """The remedy for a lack of memory."""
    if "accumulate" in args:
        return f"start over with --accumulate {2 * args.accumulate} --restart, or set a lower training.batch_size"
    if "batch_size" in args:
        return f"try a lower --batch-size than {args.batch_size}"
    if "config" in args:
        return f"set a lower training.batch_size in {args.config}"
    if "device" in args:
        return "free some, try --device cpu if the GPU ran out, or name fewer models"
    return "free some, or use a machine with more"


def _fewer_threads(args: argparse.Namespace) -> str:
    """The remedy for a lack of threads."""
    fewer = "set a lower --workers or OMP_NUM_THREADS" if "workers" in args else "set a lower OMP_NUM_THREADS"
    return f"{fewer}, end other processes, or raise the limit (ulimit -u)"


def _set_up_console(level: int) -> None:
    """Show log lines from `level` on, on standard error; those of other packages from INFO on."""
    logging.basicConfig(level=max(level, logging.INFO), format="%(message)s", stream=sys.stderr)
    if level < logging.INFO:
        for name in ("yt8m", __name__):  # both, as commands may set the level of the first
            logging.getLogger(name).setLevel(level)


def as_typed(text: str, prog: str) -> str:
    """Spell the commands in a text as the user typed the running one: `yt8m X` or `python -m yt8m.X`."""
    return text.replace(MODULE_PREFIX, "yt8m ") if prog.startswith("yt8m") else text


def _complain(line: str) -> None:
    """Print to standard error, if it is open."""
    with suppress(OSError):
        print(line, file=sys.stderr, flush=True)


def _versions() -> str:
    """Versions of this software and its packages, and the machine."""
    import platform
    from importlib import metadata

    packages = []
    for name in ("torch", "numpy", "pandas", "tensorflow"):
        with suppress(metadata.PackageNotFoundError):  # some builds have another name
            packages.append(f"{name} {metadata.version(name)}")
    system = f"{platform.system()} {platform.machine()}, {counted(os.cpu_count() or 1, 'CPU core')}"
    return f"yt8m {__version__}, Python {platform.python_version()}, {', '.join(packages)}; {system}"


def _spent(start: float) -> str:
    """The time since `start`, and the peak memory."""
    import resource

    own, children = (
        resource.getrusage(who).ru_maxrss * 1024 / 1e9 for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )
    parts = [f"{time.monotonic() - start:.1f} s", f"at most {own:.2f} GB of memory"]
    if children:
        parts.append(f"{children:.2f} GB in a child process")
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        parts += [
            f"{torch.cuda.max_memory_allocated(index) / 1e9:.2f} GB on {torch.cuda.get_device_name(index)}"
            for index in range(torch.cuda.device_count())
            if torch.cuda.max_memory_allocated(index)
        ]
    return ", ".join(parts)


def _seed_from_environment() -> int:
    text = os.environ.get("SEED", str(DEFAULT_SEED))
    try:
        return count(text)
    except ValueError:
        raise UserError(f"environment variable SEED: expected a {count.__name__}, found {text!r}") from None
