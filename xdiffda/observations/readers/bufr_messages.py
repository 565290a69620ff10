"""BUFR messages: where they are in a file, and their data as columns, decoded by ``earth2bufr``.

The decoder works on runs of messages of one template. In files as they come from the network
templates alternate from message to message, so messages are put in order of their templates
first: 15,824 SYNOP messages take 0.3 s instead of 14 s, and 36 s through pdbufr.
"""

from __future__ import annotations

import functools
import importlib
import json
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from xdiffda.errors import StorageError
from xdiffda.observations.readers.files import damaged, plain_file

TABLES = 11  # data category of messages that hold the tables of those after them
EDITIONS = (2, 3, 4)
_INSTALL = 'pip install "xdiffda[obs]"'
_END = b"7777"
_LARGEST_TEMPLATE = 20_000  # elements; radiances of 8,461 channels have 17,000
_MOST_LOST = 64  # messages of one template; of a file with more of them nothing can be trusted


@dataclass(frozen=True)
class Message:
    """One message: its number in the file, where it begins, its bytes, and what they say."""

    number: int
    offset: int
    data: bytes
    category: int
    subsets: int
    compressed: bool
    descriptors: bytes  # section 3: two bytes each
    tables: bytes  # centre and versions of tables, which say what descriptors mean

    @property
    def template(self) -> tuple[int, bool, bytes, bytes]:
        """What messages share that can be decoded in one run."""
        return self.category, self.compressed, self.tables, self.descriptors

    @property
    def place(self) -> str:
        """Where it is, for error messages."""
        return f"message {self.number} at byte {self.offset}"


Repair = Callable[[list[Message]], "tuple[bytes, str] | None"]


@dataclass
class Messages:
    """Messages of a file, and those that are damaged, with the reason."""

    found: list[Message] = field(default_factory=list)
    lost: list[tuple[str, str]] = field(default_factory=list)
    number: int = 0

    def loss(self, path: Path) -> str:
        """In words what was lost, for a warning; empty where nothing was."""
        if not self.lost:
            return ""
        place, reason = self.lost[0]
        return (
            f"{path}: {len(self.lost)} of {self.number} messages cannot be "
            f"decoded and are left out; the first is {place}: {reason}"
        )


def messages_of(path: Path, data: bytes) -> Messages:
    """All messages of a file.

    Raises
    ------
    StorageError
        If the last one is cut off, or none is whole.
    """
    messages = Messages()
    at = number = 0
    while (at := data.find(b"BUFR", at)) >= 0:
        edition = data[at + 7] if at + 8 <= len(data) else 0
        size = int.from_bytes(data[at + 4 : at + 7], "big")
        if edition not in EDITIONS:
            at += 4  # four letters inside of other data
            continue
        messages.number = number = number + 1
        place = f"message {number} at byte {at}"
        whole = data[at + size - 4 : at + size] == _END
        if not whole and at + size > len(data) and data.find(b"BUFR", at + 4) < 0:
            raise damaged(path, f"{place}, the last message, has {len(data) - at} of {size} bytes")
        try:
            if not whole:
                raise ValueError(f"no end mark after its {size} bytes")
            messages.found.append(_message(number, at, data[at : at + size]))
            at += size
        except (ValueError, IndexError) as error:
            messages.lost.append((place, str(error)))
            at += 4
    if not messages.found:
        text = messages.loss(path).removeprefix(f"{path}: ") or "no message of edition 2, 3 or 4"
        raise damaged(path, text)
    return messages


def _message(number: int, offset: int, data: bytes) -> Message:
    """Read sections 1 and 3; a ValueError or IndexError where their lengths contradict."""
    edition, at = data[7], 8
    length = int.from_bytes(data[at : at + 3], "big")
    if edition == 4:
        optional, category, tables = data[at + 9], data[at + 10], data[at + 3 : at + 8]
        tables += data[at + 13 : at + 15]
    else:
        optional, category, tables = data[at + 7], data[at + 8], data[at + 3 : at + 6]
        tables += data[at + 10 : at + 12]
    at += length
    if optional & 128:
        at += int.from_bytes(data[at : at + 3], "big")
    length = int.from_bytes(data[at : at + 3], "big")
    subsets, flags = int.from_bytes(data[at + 4 : at + 6], "big"), data[at + 6]
    descriptors = data[at + 7 : at + 7 + 2 * ((length - 7) // 2)]
    if descriptors.endswith(b"\0\0"):  # a byte or two that make the length even
        descriptors = descriptors[:-2]
    after = at + length
    body = int.from_bytes(data[after : after + 3], "big")
    if length < 9 or body < 4 or after + body + 4 > len(data):
        raise ValueError("the lengths of its sections contradict the length of the message")
    if not flags & 64 and subsets > 8 * body:
        raise ValueError(f"{subsets} subsets in {body} bytes")
    return Message(
        number,
        offset,
        data,
        category,
        subsets,
        bool(flags & 64),
        descriptors,
        bytes([edition]) + tables,
    )


def shortened(message: Message) -> Message:
    """The message without the marks of quality that follow its data, where it can be cut.

    Operators 2 22 to 2 25 and 2 32 begin blocks about the data before them. Of one subset, and of
    compressed subsets, these come after all data, so that a template that ends before them is as
    good; it decodes faster, and with fewer ways to fail.
    """
    pairs = [message.descriptors[i : i + 2] for i in range(0, len(message.descriptors), 2)]
    ends = [
        i
        for i, (a, b) in enumerate(pairs)
        if a in (0x80 + 22, 0x80 + 23, 0x80 + 24, 0x80 + 25, 0x80 + 32) and b == 0
    ]
    if not ends or not ends[0] or not (message.subsets == 1 or message.compressed):
        return message
    return with_template(message, b"".join(pairs[: ends[0]]))


def with_template(message: Message, descriptors: bytes) -> Message:
    """The message with other descriptors in section 3, and the same data."""
    at = message.data.index(message.descriptors, 8) - 7
    length = int.from_bytes(message.data[at : at + 3], "big")
    head, section = message.data[8:at], message.data[at + 3 : at + 7]
    body = (7 + len(descriptors)).to_bytes(3, "big") + section + descriptors
    body += message.data[at + length :]
    size = (8 + len(head) + len(body)).to_bytes(3, "big")
    data = b"BUFR" + size + message.data[7:8] + head + body
    return replace(message, data=data, descriptors=descriptors)


def decoder(path: Path) -> Any:
    """The package that decodes BUFR; a StorageError where it is not installed."""
    try:
        return importlib.import_module("earth2bufr")
    except ImportError as error:
        raise StorageError(
            f"{path}: BUFR, which earth2bufr decodes; it is not installed ({error}); repair: "
            f"`{_INSTALL}`, then `xdiffda.read_obs({str(path)!r})`"
        ) from error


def decode(
    path: Path,
    messages: Messages,
    chosen: Iterable[Message],
    tables: bytes = b"",
    repair: Repair | None = None,
) -> Iterator[tuple[Any, list[Message]]]:
    """Columns of messages of one template, with the message of each row.

    Parameters
    ----------
    path
        The file, for error messages.
    messages
        Takes what cannot be decoded.
    chosen
        Messages of one template.
    tables
        Messages that hold their tables.
    repair
        Messages whose template is not in the decoder's tables -> the template in elements that are,
        and local tables as JSON; None where that is not known either.

    Yields
    ------
    batch : pyarrow.RecordBatch
        One row for each subset.
    of_row : list of Message
        The message of each row.
    """
    decoder(path)  # where it is not installed, nothing is lost by damage
    todo = [list(chosen)]
    if todo[0] and not tables and (reason := _too_large(path, todo[0][0])):
        messages.lost += [(message.place, reason) for message in todo[0]]
        return
    n_lost = 0
    local: tuple[bytes, str] | None = None
    while todo:
        group = todo.pop()
        try:
            yield from _decode(path, group, tables)
            continue
        except ValueError as error:
            reason = str(error)
        if repair is not None and re.search(
            "Table|[Uu]nknown", reason
        ):  # what is damaged is given to nobody else
            local, repair = repair(group), None
        variants = [[shortened(m) for m in group]]
        if local is not None:
            described = [with_template(m, local[0]) for m in group]
            variants = [described, [shortened(m) for m in described]]
        for variant in variants:
            if variant == group:
                continue
            try:
                yield from _decode(path, variant, tables, local[1] if local else None)
                break
            except ValueError as error:
                reason = str(error)
        else:
            if len(group) > 1:
                todo += [group[len(group) // 2 :], group[: len(group) // 2]]
                continue
            messages.lost.append((group[0].place, reason))
            n_lost += 1
            if n_lost == _MOST_LOST:
                left = [m for rest in todo for m in rest]
                messages.lost += [(m.place, "as many before it") for m in left]
                return


def _too_large(path: Path, message: Message) -> str:
    """Why the decoder must not have this template: it may want all memory there is.

    Lists inside of lists cost it gigabytes for a few kilobytes, and no report needs them; damaged
    descriptors may ask for any number of repetitions.
    """
    sequences = _sequences(path)
    try:
        size = _size(message.descriptors, sequences, 0, inside=False)
    except ValueError as error:
        return str(error)
    return f"its template has {size} elements" if size > _LARGEST_TEMPLATE else ""


def _size(descriptors: bytes, sequences: dict[bytes, bytes], depth: int, *, inside: bool) -> int:
    """Elements of a template; a ValueError where it has lists inside of lists."""
    if depth > 16:
        raise ValueError("its template refers to itself")
    size = at = 0
    while at < len(descriptors):
        kind, y = descriptors[at] >> 6, descriptors[at + 1]
        x = descriptors[at] & 63
        if kind == 1:
            first = at + 2 + (2 if y == 0 else 0)  # after the element that holds the number
            group = descriptors[first : first + 2 * x]
            # a list of at most one entry (0 31 000) only says whether there is something
            several = y == 0 and descriptors[at + 2 : at + 4] != b"\x1f\x00"
            if several and inside:
                raise ValueError("its template has lists inside of lists")
            size += max(y, 1) * _size(group, sequences, depth, inside=inside or several)
            at = first + 2 * x
            continue
        if kind == 3:
            sequence = sequences.get(descriptors[at : at + 2], b"")
            size += _size(sequence, sequences, depth + 1, inside=inside)
        else:
            size += 1
        if size > _LARGEST_TEMPLATE:
            return size
        at += 2
    return size


@functools.lru_cache(1)
def _sequences(path: Path) -> dict[bytes, bytes]:
    """Table D of the decoder: descriptor -> the descriptors that it stands for."""

    _, table = decoder(path).load_tables()
    return {
        bytes([int(code[0]) << 6 | int(code[1:3]), int(code[3:])]): b"".join(
            member.to_bytes(2, "big") for member in entry["descriptors"]
        )
        for code, entry in json.loads(table).items()
        if int(code[1:3]) < 64 and int(code[3:]) < 256
    }


def _decode(
    path: Path, group: list[Message], tables: bytes, local: str | None = None
) -> list[tuple[Any, list[Message]]]:
    """Decode a group; a ValueError if one of its messages cannot be."""
    earth2bufr = decoder(path)
    import pyarrow as pa

    n_tables = _count(tables)
    # Not strict, the decoder takes elements that it does not know for ones without any bits, and
    # reads what follows at the wrong place; messages with tables of their own have none such.
    with plain_file(path, tables + b"".join(m.data for m in group)) as plain:
        try:
            with earth2bufr.open_bufr(plain, local_tables_json=local, strict=not tables) as file:
                batches = [pa.record_batch(b) for b in file.iter_batches(prefetch_batches=1)]
        except Exception as error:
            raise ValueError(f"{type(error).__name__}: {error}".split("\n")[0]) from error
        except BaseException as error:
            # a bug of the decoder, met with damaged bytes, is no reason to end the program
            if type(error).__name__ != "PanicException":
                raise
            raise ValueError(f"the decoder failed: {error}") from error
    out = []
    for batch in batches:
        index = batch.column("_source_message_index").to_numpy(zero_copy_only=False) - n_tables
        out.append((batch, [group[i] for i in index.astype(int)]))
    return out


def _count(tables: bytes) -> int:
    return len(messages_of(Path("tables"), tables).found) if tables else 0


def date_of(message: Message) -> np.datetime64:
    """Date of section 1, to the minute; NaT where it is none."""
    data, at = message.data, 8
    if data[7] == 4:
        year = int.from_bytes(data[at + 15 : at + 17], "big")
        month, day, hour, minute = data[at + 17 : at + 21]
    else:
        year, month, day, hour, minute = data[at + 12 : at + 17]
        # the century stands in the last byte of NCEP's section 1, and nowhere else
        century = data[at + 17] if int.from_bytes(data[at : at + 3], "big") > 17 else 0
        year += 100 * (century - 1) if 19 <= century <= 22 else 2000 - 100 * (year > 70)
    try:
        stamp = f"{year:04d}-{month:02d}-{day:02d}T{hour:02d}:{minute:02d}"
        return np.datetime64(stamp, "ns")
    except ValueError:
        return np.datetime64("NaT", "ns")
