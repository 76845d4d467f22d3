"""The data folder of a fit, with a record of its inputs: the same command resumes, a different one is refused."""

import hashlib
import json
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from helperbot.files import locked, remove_leftovers, replacing

from yt8m.common.errors import UserError
from yt8m.training.resume import differences

RECORD = "fit.json"
FILMS = "films"  # features of films, which survive a restart


class FitFolder:
    """The data folder of a fit.

    Attributes:
        path: of the folder, which is a data folder for all commands.
        films: features of films, in the layout of `extract_features`.
        scratch: data folders and models of trials, which other commands ignore.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.films = path / FILMS
        self.scratch = path / "cache" / "fit"
        self._record = path / RECORD

    def require(self, **inputs: Any) -> None:
        """Record inputs, plain values. Raises `UserError` if they differ from recorded ones."""
        known = self._compared(inputs)
        given = json.loads(json.dumps(inputs))
        if given.keys() - known.keys():
            with replacing(self._record) as temporary:
                temporary.write_text(json.dumps(known | given, indent=1) + "\n", encoding="utf-8")

    def compare(self, **inputs: Any) -> None:
        """Raise `UserError` if inputs, plain values, differ from recorded ones."""
        self._compared(inputs)

    def _compared(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """The recorded inputs, from which these do not differ."""
        known = self._known()
        given = json.loads(json.dumps(inputs))
        changed = [text for key in given if key in known for text in differences(known[key], given[key], key)]
        if changed:
            raise UserError(
                f"{self.path}: was made with other inputs: {'; '.join(changed)}; choose another --name, or start over "
                "with --restart"
            )
        return known

    def _known(self) -> dict[str, Any]:
        try:
            found = json.loads(self._record.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            raise UserError(
                f"{self._record}: cannot be read ({error}); choose another --name, or start over with --restart"
            ) from None
        return found if isinstance(found, dict) else {}


@contextmanager
def open_fit_folder(path: Path, restart: bool) -> Iterator[FitFolder]:
    """The folder, created if missing and locked against other fits.

    `restart` removes everything from earlier fits except features of films. Raises `UserError` for a folder not
    made by a fit.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = path.with_name(f".{path.name}.fit.lock")
    with locked(lock, UserError(f"{path}: another process is fitting to it; wait for it or stop it")):
        try:
            if path.exists() and not (path / RECORD).exists() and (not path.is_dir() or any(path.iterdir())):
                raise UserError(f"{path}: exists and was not made by this command; choose another --name")
            if restart and path.exists():
                _empty(path)
            path.mkdir(exist_ok=True)
            remove_leftovers(path, RECORD)
            if not (path / RECORD).exists():
                _mark(path)
            yield FitFolder(path)
        finally:
            lock.unlink()


def _empty(path: Path) -> None:
    """Remove everything except films' features, and empty the record, which marks the folder as a fit's."""
    for entry in path.iterdir():
        if entry.name not in (FILMS, RECORD):
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()  # pylint: disable=expression-not-assigned
    _mark(path)


def _mark(path: Path) -> None:
    """Make a folder a fit's, of no inputs yet."""
    (path / RECORD).write_text("{}\n", encoding="utf-8")


def digest_files(paths: Iterable[Path]) -> str:
    """SHA-256 of the names and contents of files."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            digest.update(f"{path.name} {hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return digest.hexdigest()
