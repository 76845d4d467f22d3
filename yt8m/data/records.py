"""TFRecord shards: file access, records and their checksums, handling of damage.

A shard is a series of records: uint64 length, masked CRC-32C of those 8 bytes, payload, masked CRC-32C of the payload,
all little-endian. `sequence_example` parses payloads.
"""

import errno
import logging
import os
import re
import struct
import threading
import unicodedata
import zlib
from collections.abc import Iterable, Iterator, Sequence
from io import FileIO
from pathlib import Path

from crc32c import crc32c

from yt8m.common.errors import RecordError, UserError, counted

LOGGER = logging.getLogger(__name__)


class Damage:
    """Handles read errors: raises them, or with `skip` collects and logs each once. Thread-safe."""

    def __init__(self, skip: bool = False) -> None:
        self.skip = skip
        self.left_out: dict[str, RecordError] = {}
        self._lock = threading.Lock()

    def handle(self, error: RecordError) -> None:
        """Raise the error, or record that what it names is left out."""
        if not self.skip:
            raise error
        with self._lock:
            known = str(error) in self.left_out
            self.left_out[str(error)] = error
        if not known:
            LOGGER.warning("left out: %s", error)

    def report(self) -> None:
        """Log what has been left out, if anything."""
        if self.left_out:
            names = sorted({str(error.path) for error in self.left_out.values()})
            LOGGER.warning(
                "left out because of damage: %s, ends of shards or films, all named above, of %s. Download again: %s",
                counted(len(self.left_out), "record"),
                counted(len(names), "file"),
                " ".join(names),
            )


RAISE = Damage()

_PAGE = 4096


class Shard:
    """A shard opened for reading; slices of it are bytes. Thread-safe.

    It is not memory-mapped: touching a mapped page of a truncated file, or of a failing disk or server, kills the
    process, whereas reading raises `RecordError`. The last page of small reads is cached, so that parsing costs few
    reads. The file closes when the shard is garbage-collected.
    """

    def __init__(self, path: Path, file: FileIO, size: int) -> None:
        self.path, self._file, self._size, self._handle = path, file, size, file.fileno()
        self._page = 0, b""  # offset and bytes, replaced together
        self._advise(0, 0, os.POSIX_FADV_RANDOM)

    def __del__(self) -> None:
        self._file.close()

    def __len__(self) -> int:
        return self._size

    def fileno(self) -> int:
        """The file descriptor, valid while the shard is referenced."""
        return self._handle

    def __getitem__(self, span: slice) -> bytes:
        start, stop, _ = span.indices(self._size)
        if stop - start > _PAGE:
            return self.read(start, stop)
        first, page = self._page
        if not first <= start <= stop <= first + len(page):
            first = start - start % _PAGE
            page = self.read(first, min(-(-stop // _PAGE) * _PAGE, self._size))
            self._page = first, page
        return page[start - first : stop - first]

    def read(self, start: int, stop: int) -> bytes:
        """Exactly the bytes `start` to `stop`. Raises `RecordError` if they cannot be read."""
        try:
            found = os.pread(self._handle, stop - start, start)
            while len(found) < stop - start:
                more = os.pread(self._handle, stop - start - len(found), start + len(found))
                if not more:
                    what = f"has been cut off before byte {stop} since it was opened; run the command again"
                    raise RecordError(self.path, what)
                found += more
        except OSError as error:
            raise RecordError(self.path, f"byte {start} and those after it cannot be read ({error.strerror})") from None
        return found

    def will_need(self, start: int, stop: int) -> None:
        """Ask the system to read these bytes in the background."""
        self._advise(start, stop - start, os.POSIX_FADV_WILLNEED)

    def _advise(self, start: int, length: int, advice: int) -> None:
        try:
            os.posix_fadvise(self._handle, start, length, advice)
        except OSError:  # reading will report what is wrong
            pass


def stamp_of(stat: os.stat_result) -> tuple[int, int, int, int]:
    """Identifies the version of a shard: size in bytes, modification time in ns, inode, and change time in ns.

    Archives and copies may restore the modification time, but nothing restores the change time.
    """
    return stat.st_size, stat.st_mtime_ns, stat.st_ino, stat.st_ctime_ns


def open_shard(path: Path, stamp: Sequence[int] | None = None) -> Shard:
    """Open a shard for random access.

    Raises `RecordError` for a file that cannot be read or does not match `stamp`, whose change time is ignored: a new
    hard link would otherwise end a run. Raises `UserError` at the limit of open files.
    """
    try:
        file = path.open("rb", buffering=0)
        stat = os.fstat(file.fileno())
    except OSError as error:
        if error.errno in (errno.EMFILE, errno.ENFILE):  # not the shard's fault
            raise UserError(f"{path}: cannot be opened ({error.strerror}); raise the limit, see `ulimit -Hn`") from None
        raise RecordError(path, f"cannot be read ({error.strerror})") from None
    if stamp is not None and stamp_of(stat)[:-1] != tuple(stamp[:-1]):
        file.close()
        raise RecordError(path, "has changed since it was indexed; run the command again")
    return Shard(path, file, stat.st_size)


Buffer = Shard | bytes | memoryview

HEADER_BYTES, FOOTER_BYTES = 12, 4
DOWNLOAD = "download the shard again"


def masked_crc(data: bytes | memoryview) -> int:
    """TFRecord's masked CRC-32C."""
    crc = crc32c(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def framed(payload: bytes) -> tuple[bytes, bytes, bytes]:
    """The record of a payload: header, payload, footer."""
    length = struct.pack("<Q", len(payload))
    return length + struct.pack("<I", masked_crc(length)), payload, struct.pack("<I", masked_crc(payload))


def record_spans(buffer: Buffer, path: Path) -> Iterator[tuple[int, int]]:
    """Offset and payload length of every record of a shard. Reads headers only.

    Raises `RecordError` for an empty file, a truncated record or a damaged length.
    """
    size = len(buffer)
    if size == 0:
        raise RecordError(path, f"empty file; {DOWNLOAD}")
    offset = 0
    while offset < size:
        header = bytes(buffer[offset : offset + HEADER_BYTES])
        if len(header) < HEADER_BYTES:
            raise RecordError(path, f"truncated; {DOWNLOAD}", offset)
        length, crc = struct.unpack("<QI", header)
        if masked_crc(header[:8]) != crc:
            what = _foreign_file(buffer, path) if offset == 0 else f"damaged record length; {DOWNLOAD}"
            raise RecordError(path, what, offset)
        end = offset + HEADER_BYTES + length + FOOTER_BYTES
        if end > size:
            raise RecordError(path, f"truncated, {end - size} bytes are missing; {DOWNLOAD}", offset)
        yield offset, length
        offset = end


_SIGNATURES = {
    b"version https://git-lfs": "a Git LFS pointer, not the shard itself; fetch that with `git lfs pull`",
    b"\x93NUMPY": "a NumPy array; make shards of a folder of arrays with `python -m yt8m.make_records`",
    b"PK\x03\x04": "a zip file, not a TFRecord shard; unpack it",
    b"\x89HDF": "an HDF5 file, not a TFRecord shard; make shards of arrays with `python -m yt8m.make_records`",
}


def _foreign_file(buffer: Buffer, path: Path) -> str:
    """What a file that does not begin with a record is, and the remedy."""
    start = bytes(buffer[:4096])
    is_gzip = start.startswith(b"\x1f\x8b")
    known = next((what for signature, what in _SIGNATURES.items() if start.startswith(signature)), None)
    if known is not None:
        what = known
    elif start.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<"):
        what = f"an HTML or XML page, not a TFRecord shard; {DOWNLOAD}"
    elif is_gzip and _unpacks_to_a_record(start):
        what = f"a shard compressed by gzip; unpack it: gunzip <{path} >{path}.new && mv {path}.new {path}"
    elif is_gzip:
        what = f"a gzip file, not a TFRecord shard; {DOWNLOAD}"
    elif _unpacks_to_a_record(start):
        what = "a shard compressed by zlib; write it without compression"
    elif _is_bare_example(buffer):
        what = (
            "a bare serialized SequenceExample or Example, not a TFRecord shard: a record has its length and checksums "
            "around it; write it with tf.io.TFRecordWriter"
        )
    else:
        what = f"damaged record length, or not a TFRecord shard; {DOWNLOAD}"
    return what


def _unpacks_to_a_record(start: bytes) -> bool:
    """Whether a file with this beginning is a compressed shard."""
    try:
        header = zlib.decompressobj(zlib.MAX_WBITS | 32).decompress(start, HEADER_BYTES)  # 32: zlib or gzip
    except zlib.error:
        return False
    return len(header) == HEADER_BYTES and masked_crc(header[:8]) == struct.unpack("<I", header[8:])[0]


def _is_bare_example(buffer: Buffer) -> bool:
    """Whether a whole file is one message with the fields of a SequenceExample."""
    try:
        fields = [number for number, _, _ in wire_fields(buffer, 0, len(buffer))]
    except (UnusualLayout, IndexError):
        return False
    return bool(fields) and set(fields) <= {1, 2}


def read_payload(buffer: Buffer, offset: int, length: int, path: Path, video_id: bytes | None = None) -> memoryview:
    """The payload of a record, with verified checksum. `video_id`, if known, is for the message of `RecordError`."""
    start = offset + HEADER_BYTES
    found = memoryview(buffer[start : start + length + FOOTER_BYTES])
    payload, footer = found[:length], bytes(found[length:])
    if len(footer) < FOOTER_BYTES or masked_crc(payload) != struct.unpack("<I", footer)[0]:
        raise RecordError(path, f"checksum mismatch, the file is damaged; {DOWNLOAD}", offset, video_id)
    return payload


_LENGTH_DELIMITED = 2  # the wire type of strings, messages and packed numbers
_MOST_OF_VARINT = 10  # bytes


class UnusualLayout(Exception):
    """The payload is not in the layout of known writers; it may still be legal."""


# --- the parts of the protobuf wire format that SequenceExample needs --------------------------------


def read_varint(buffer: bytes | memoryview, position: int) -> tuple[int, int]:
    """An unsigned varint and the position after it."""
    value = shift = 0
    while True:
        byte = buffer[position]
        value |= (byte & 0x7F) << shift
        position += 1
        if byte < 0x80:
            break
        shift += 7
        if shift > 63:
            raise UnusualLayout
    if value >> 64:
        raise UnusualLayout
    return value, position


def wire_fields(buffer: Buffer, position: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Number and value span of each field of a message. Raises `UnusualLayout` if one is not length-delimited."""
    while position < end:
        header = buffer[position : position + 2 * _MOST_OF_VARINT]
        tag, after_tag = read_varint(header, 0)
        if tag & 7 != _LENGTH_DELIMITED:
            raise UnusualLayout
        size, after_size = read_varint(header, after_tag)
        position += after_size
        stop = position + size
        if stop > end:
            raise UnusualLayout
        yield tag >> 3, position, stop
        position = stop


ID_RULE = "an id may have no blank, comma, colon, double quote or unprintable character, and is UTF-8"
_PLAIN = re.compile(rb"[!#-+\--9;-~]+")  # ASCII, like all ids of the published data set
_SEPARATORS = frozenset(' ,:"')


def composed(text: str) -> str:
    """A name or video id with composed accents (NFC), as it is compared: macOS has names of files in parts."""
    return unicodedata.normalize("NFC", text)


def unfit_ids(video_ids: Iterable[bytes]) -> list[bytes]:
    """The ids that a submission cannot hold, in the given order."""
    return [video_id for video_id in video_ids if not _PLAIN.fullmatch(video_id) and not _is_fit(video_id)]


def shown_id(video_id: bytes) -> str:
    """An id in quotation marks, whatever its bytes."""
    try:
        return repr(video_id.decode())
    except UnicodeDecodeError:
        return repr(video_id)


def _is_fit(video_id: bytes) -> bool:
    try:
        text = video_id.decode()
    except UnicodeDecodeError:
        return False
    # The blank is the only printable white space.
    return bool(text) and text.isprintable() and _SEPARATORS.isdisjoint(text)
