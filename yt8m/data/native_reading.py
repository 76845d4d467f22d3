"""Compiled loops over the videos of a batch, which release the GIL while reading.

Numba is slow to import, so this module is imported only when batches are read. Compiled code is cached in `__pycache__`
beside this file or, if that is not writable, in the user's cache; the environment variable NUMBA_CACHE_DIR names
another folder. If none is writable, each start compiles again.
"""

import logging
import pickle
from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from numba import types

LOGGER = logging.getLogger(__name__)

PIECE = 128 << 10  # bytes read at a time, few enough to stay in the processor's cache
_GAP = 16 << 10  # bytes between two frames above which skipping is faster than reading
_WILL_NEED = 3  # POSIX_FADV_WILLNEED

# C library functions. Pointers are integers.
_pread: Any = types.ExternalFunction("pread", types.intp(types.int32, types.intp, types.uintp, types.int64))
_posix_fadvise: Any = types.ExternalFunction(
    "posix_fadvise", types.int32(types.int32, types.int64, types.int64, types.int32)
)
_memcmp: Any = types.ExternalFunction("memcmp", types.int32(types.intp, types.intp, types.uintp))
_memcpy: Any = types.ExternalFunction("memcpy", types.intp(types.intp, types.intp, types.uintp))


def _read(  # pragma: no cover  # compiled code is not traced
    files: np.ndarray,
    blocks: np.ndarray,
    widths: np.ndarray,
    headers: np.ndarray,
    header_sizes: np.ndarray,
    seconds: np.ndarray,
    begins: np.ndarray,
    ends: np.ndarray,
    rows: np.ndarray,
    out: np.ndarray,
    met: np.ndarray,
    piece: np.ndarray,
) -> None:
    for request, file in enumerate(files):
        begin, end = begins[request], ends[request]
        if file < 0 or begin >= end:
            continue
        for feature, width in enumerate(widths):
            stride = header_sizes[feature] + width
            place = blocks[feature, request] + seconds[begin] * stride
            _posix_fadvise(file, place, (seconds[end - 1] + 1 - seconds[begin]) * stride, _WILL_NEED)
    read = piece.ctypes.data
    for request, file in enumerate(files):
        end, column = ends[request], 0
        good = file >= 0
        for feature, width in enumerate(widths):
            header_size = header_sizes[feature]
            stride = header_size + width
            header = headers.ctypes.data + feature * headers.shape[1]
            target = out.ctypes.data + rows[request] * out.shape[1] + column
            first = begins[request]
            while good and first < end:
                behind = first + 1  # the end of the frames read together
                while (
                    behind < end
                    and 0 < (seconds[behind] - seconds[behind - 1]) * stride <= _GAP
                    and (seconds[behind] + 1 - seconds[first]) * stride <= len(piece)
                ):
                    behind += 1
                size = (seconds[behind - 1] + 1 - seconds[first]) * stride
                place = blocks[feature, request] + seconds[first] * stride
                good = _pread(file, read, size, place) == size
                if good:
                    for number in range(first, behind):
                        source = read + (seconds[number] - seconds[first]) * stride
                        good &= _memcmp(source, header, header_size) == 0
                        _memcpy(target, source + header_size, width)
                        target += out.shape[1]
                first = behind
            column += width
        met[request] = good


def _mix(value: np.uint64) -> np.uint64:  # pragma: no cover
    """The output function of SplitMix64, a permutation of 64-bit numbers."""
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))


def _choose(  # pragma: no cover
    seed: np.uint64,
    epochs: np.ndarray,
    records: np.ndarray,
    starts: np.ndarray,
    stops: np.ndarray,
    ends: np.ndarray,
    seconds: np.ndarray,
) -> None:
    step, half = np.uint64(0x9E3779B97F4A7C15), np.uint64(32)
    number = 0
    for video, record in enumerate(records):
        state = seed
        for part in (epochs[video], record):
            state = _mixed(state + step) ^ np.uint64(part)
        state = _mixed(state + step)
        for second in range(starts[video], stops[video]):
            wanted, left = ends[video] - number, stops[video] - second
            if wanted == 0:
                break
            state += step
            # With probability wanted / left, so that every choice of frames is equally likely.
            if (_mixed(state) >> half) * np.uint64(left) < np.uint64(wanted) << half:
                seconds[number] = second
                number += 1


def _place(lengths: np.ndarray, longest: int, places: np.ndarray) -> None:  # pragma: no cover
    number = 0
    for video, length in enumerate(lengths):
        for place in range(video * longest, video * longest + length):
            places[number] = place
            number += 1


def _list_seconds(firsts: np.ndarray, ends: np.ndarray, seconds: np.ndarray) -> None:  # pragma: no cover
    number = 0
    for row, first in enumerate(firsts):
        for second in range(first, first + ends[row] - number):
            seconds[number] = second
            number += 1


def _mark(  # pragma: no cover
    target: np.ndarray, background: bool, records: np.ndarray, classes: np.ndarray, ends: np.ndarray
) -> int:
    target[:] = background
    marked = 0
    for row, record in enumerate(records):
        for entry in range(ends[record - 1] if record > 0 else 0, ends[record]):
            number = classes[entry]
            if number >= 0 and target[row, number] == background:
                target[row, number] = not background
                marked += 1
    return marked


_mixed: Any = numba.njit(_mix)
_NUMBERS = "int64[::1]"
_READ = (
    f"void(int32[::1], int64[:, ::1], {_NUMBERS}, uint8[:, ::1], {_NUMBERS}, {_NUMBERS}, {_NUMBERS}, {_NUMBERS}, "
    f"{_NUMBERS}, uint8[:, ::1], boolean[::1], uint8[::1])"
)
_CHOOSE = f"void(uint64, {_NUMBERS}, {_NUMBERS}, {_NUMBERS}, {_NUMBERS}, {_NUMBERS}, {_NUMBERS})"
_PLACE = f"void({_NUMBERS}, int64, {_NUMBERS})"
_LIST_SECONDS = f"void({_NUMBERS}, {_NUMBERS}, {_NUMBERS})"
_MARK = f"int64(boolean[:, ::1], boolean, {_NUMBERS}, {_NUMBERS}, {_NUMBERS})"


def _compiled(cache: bool) -> tuple[Callable[..., Any], ...]:
    """`_read` without the GIL, and the others, which are too short to release it: getting it back takes longer."""
    reading = numba.njit(_READ, nogil=True, cache=cache)(_read)
    short = ((_CHOOSE, _choose), (_PLACE, _place), (_LIST_SECONDS, _list_seconds), (_MARK, _mark))
    return reading, *(numba.njit(signature, cache=cache)(function) for signature, function in short)


try:
    read_frames, choose_frames, place_frames, list_seconds, mark_classes = _compiled(cache=True)
except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as reason:
    LOGGER.info("compiled reading code cannot be cached (%s); set NUMBA_CACHE_DIR to a writable folder", reason)
    read_frames, choose_frames, place_frames, list_seconds, mark_classes = _compiled(cache=False)
