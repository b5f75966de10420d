"""Files that users name, opened without surprises: regular files, UTF-8 text and CSV tables."""

import csv
import io
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from ltcli.core.errors import LtcliError, cause


def open_regular(path: Path) -> BinaryIO:
    """Return a regular file, open for reading bytes.

    Raises:
        OSError: It is missing, not readable, or a folder, pipe or device.
        ValueError: The path holds a NUL.
    """
    # Without O_NONBLOCK, opening a pipe waits for a writer.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(None, "not a regular file")
    return os.fdopen(descriptor, "rb")


def is_file_name(text: str) -> bool:
    """Return whether a text can be a path: opening others raises ValueError, not OSError."""
    if text.isascii():  # Nearly all are.
        return "\0" not in text
    try:
        return b"\0" not in text.encode()
    except UnicodeEncodeError:
        return False


@contextmanager
def _named(path: Path, error: type[LtcliError]) -> Iterator[None]:
    """Turn a failure of the system into an error that names the file."""
    try:
        yield
    except FileNotFoundError:
        raise error(path, "no such file") from None
    except (OSError, ValueError) as found:
        raise error(path, f"cannot be read: {cause(found)}") from None


def read_text(path: Path, error: type[LtcliError], max_bytes: int | None = None) -> str:
    """Return the text of a UTF-8 file, without a byte order mark, with Unix line ends.

    A file that is missing, not readable, not UTF-8 or larger than ``max_bytes`` raises ``error``.
    """
    with _named(path, error), open_regular(path) as file:
        # One byte more than allowed tells that the file is too large, however large it is.
        content = file.read(-1 if max_bytes is None else max_bytes + 1)
    if max_bytes is not None and len(content) > max_bytes:
        raise error(path, f"must be at most {max_bytes} bytes, got more")
    try:
        return content.decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")
    except UnicodeDecodeError as found:
        line = content.count(b"\n", 0, found.start) + 1
        message = f"must be UTF-8 text, got byte 0x{content[found.start]:02x}"
        raise error(f"{path}:{line}", message, "save the file as UTF-8") from None


def read_table(path: Path, error: type[LtcliError]) -> Iterator[tuple[int, list[str]]]:
    """Yield line number and cells of each row of a CSV file (RFC 4180), but of no empty line.

    The header comes first. Rows are read one by one, as a matrix of features may be larger than
    memory as text. A file that is missing, not readable, not UTF-8 or not CSV raises ``error``.
    """
    with _named(path, error), open_regular(path) as file:
        rows = csv.reader(io.TextIOWrapper(file, "utf-8-sig", newline=""), strict=True)
        try:
            for cells in rows:
                if cells:
                    yield rows.line_num, cells
        except csv.Error as found:
            raise error(f"{path}:{rows.line_num}", f"must be CSV: {found}") from None
        except UnicodeDecodeError:
            # Text is decoded in blocks of many lines, so the line is not known.
            hint = "save the file as UTF-8"
            raise error(path, "must be UTF-8 text, got other bytes", hint) from None
