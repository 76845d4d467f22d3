"""TensorFlow, imported where it is needed and without the notices it prints while starting."""

import importlib
import os
import sys
import tempfile
import threading
from contextlib import suppress
from types import ModuleType

_LOCK = threading.Lock()


def import_tensorflow() -> ModuleType:
    """The `tensorflow` module. What its libraries write to stderr meanwhile is shown only if the import fails."""
    with _LOCK:  # a thread that came second would find the module half made
        return sys.modules["tensorflow"] if "tensorflow" in sys.modules else _import_quietly()


def _import_quietly() -> ModuleType:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # later warnings and errors still show
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as notices:
        os.dup2(notices.fileno(), 2)
        try:
            _import_triton()
            module = importlib.import_module("tensorflow")
            importlib.import_module("tensorflow.train")  # submodules load late, with notices of their own
        except BaseException:
            notices.seek(0)
            os.write(kept, notices.read())
            raise
        finally:
            os.dup2(kept, 2)
            os.close(kept)
    return module


def _import_triton() -> None:
    """Triton, where torch has brought it along: loaded by torch when TensorFlow is there, it crashes the process
    (triton 3.7.1, TensorFlow 2.21.0)."""
    with suppress(ImportError):  # then torch does without it, too
        importlib.import_module("triton")
