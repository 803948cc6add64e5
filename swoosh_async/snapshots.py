"""Typed snapshots over a backend: save, load, and look back.

A save is isolated when it is called, stands in line in call order, and is one hop into a worker thread. What a backend
or a codec does is not known here; that an outcome is unknown is, and from then on nothing is believed until a new store
is made.
"""

from __future__ import annotations

import logging
import os
import time
import warnings
from collections.abc import Callable, Coroutine, Generator
from contextlib import contextmanager
from typing import Any, Generic, Protocol, TypeVar, Unpack, overload

import msgspec
from anyio.lowlevel import checkpoint_if_cancelled

from ._breather import Breather
from ._hop import Hop, failed, readers
from ._lane import Lane
from .backends.base import SnapshotBackend, Source, Stored
from .backends.file import LOCK_TIMEOUT_S, MAX_FILE_BYTES, Generations
from .backends.memory import MemoryBackend
from .codec import MAX_DECODED_BYTES, CodecOptions, Decoded, EncodedSnapshot, Facts, SnapshotCodec
from .errors import (
    CorruptSnapshotError,
    FormatVersionError,
    LimitExceededError,
    OutcomeUnknownError,
    PoisonedError,
    SchemaVersionError,
    SnapshotNotFoundError,
)
from .models import Cursor, OrchestratorState, Snapshot

__all__ = [
    "AsyncReader",
    "AsyncWriter",
    "FallbackWarning",
    "FileSnapshotStore",
    "InMemorySnapshotStore",
    "Newest",
    "SnapshotRef",
    "SnapshotStore",
]

S = TypeVar("S")
T = TypeVar("T")

SLOW_ISOLATION_S = 0.05
"""How long a state may be encoded on the loop, in seconds, before a warning is given, once for each state type."""

_PIECE_BYTES = 1 << 20

_log = logging.getLogger("swoosh_async")
_warned: set[object] = set()


class FallbackWarning(UserWarning):
    """The latest snapshot is damaged, and an older one was loaded in its place, as was asked for."""


class AsyncWriter(Protocol):
    """Anything to write bytes to: a file of aiofiles or of anyio, opened in binary mode."""

    async def write(self, data: bytes, /) -> Any:
        """Write these bytes."""
        ...


class AsyncReader(Protocol):
    """Anything to read bytes from: a file of aiofiles or of anyio, opened in binary mode."""

    async def read(self, size: int, /) -> bytes:
        """Up to `size` bytes; none at the end."""
        ...


class SnapshotRef(msgspec.Struct, frozen=True):
    """A stored snapshot, without its state.

    Attributes:
        index: The index of the last event that is in it.
        hlc: That event's hybrid logical timestamp, as text.
        size_bytes: How long it is, as it is stored.
        checksum: ``sha256:`` and 64 hexadecimal digits; "" where it carries none, as a file of the Go package.
        duration_s: How long the save took, in seconds, from the call until it was durable; None where it was found.
        name: What the backend calls it.
    """

    index: int
    hlc: str
    size_bytes: int
    checksum: str
    duration_s: float | None = None
    name: str = ""

    @property
    def cursor(self) -> Cursor:
        """Where in the journal it stands."""
        return Cursor(self.index, self.hlc)


class Newest(msgspec.Struct, Generic[S], frozen=True):
    """What there is to begin with.

    Attributes:
        snapshot: The newest snapshot that is whole, and that this program can read; None where there is none.
        ref: Which one that is.
        damaged: What is wrong with those that are newer, the newest first.
    """

    snapshot: Snapshot[S] | None
    ref: SnapshotRef | None
    damaged: tuple[CorruptSnapshotError, ...]


class SnapshotStore(Generic[S]):
    """Snapshots of one state type in a backend.

    One store may be used from several event loops and threads, and by any number of tasks. Its constructor does no I/O.

    Args:
        backend: Where the bytes are kept.
        state_type: Any type that msgspec can encode and decode.
        keep: How many snapshots are kept, the latest among them, ≥ 1.
        options: As `SnapshotCodec` has them.

    Raises:
        ValueError: `keep` is below 1, or an option is wrong.
        TypeError: msgspec does not support the type.
    """

    @overload
    def __init__(
        self: SnapshotStore[OrchestratorState],
        backend: SnapshotBackend,
        *,
        keep: int = ...,
        **options: Unpack[CodecOptions],
    ) -> None: ...

    @overload
    def __init__(
        self, backend: SnapshotBackend, state_type: type[S], *, keep: int = ..., **options: Unpack[CodecOptions]
    ) -> None: ...

    @overload
    def __init__(
        self,
        backend: SnapshotBackend,
        state_type: Any,
        *,
        keep: int = ...,
        **options: Unpack[CodecOptions],
    ) -> None: ...

    def __init__(
        self,
        backend: SnapshotBackend,
        state_type: Any = OrchestratorState,
        *,
        keep: int = 1,
        **options: Unpack[CodecOptions],
    ) -> None:
        self._backend = backend
        self._codec: SnapshotCodec[S] = SnapshotCodec(state_type, **options)
        self._state_type = state_type
        self._keep = _at_least_one(keep)
        self._max_import_bytes = options.get("max_decoded_bytes", MAX_DECODED_BYTES)
        self._lane: Lane[Callable[[], Any], Any] = Lane(lambda jobs: [job() for job in jobs])
        self._poison: str | None = None

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._backend.where}>"

    @property
    def codec(self) -> SnapshotCodec[S]:
        """What encodes and decodes."""
        return self._codec

    # ------------------------------------------------------------------ save

    def save(self, snapshot: Snapshot[S], *, allow_rollback: bool = False) -> Coroutine[Any, Any, SnapshotRef]:
        """Make a snapshot the latest, durably; to be awaited.

        What is saved is the state as it is now, at the call, whatever is done to it before the await returns. On return
        it survives a kill, a kernel crash and a power cut. Saves are carried out in the order in which they are first
        awaited. Cancelled, it has either changed nothing or is durable, and nothing of it runs on.

        Args:
            snapshot: What to save.
            allow_rollback: Whether it may replace a snapshot with a higher index.

        Returns:
            What was stored.

        Raises:
            InvalidStateError: The state would not come back as it is; nothing has changed.
            StaleSnapshotError: A snapshot with a higher index is stored; nothing has changed.
            LockedError: Another process's save did not end in time; nothing has changed.
            FormatVersionError: A newer version of this package wrote what is stored; nothing has changed.
            SchemaVersionError: A newer version of the program wrote what is stored; nothing has changed.
            LimitExceededError: It is larger than may be read again; nothing has changed.
            BackendError: A step failed; nothing has changed.
            OutcomeUnknownError: A step failed after which it may be the latest; from now on the store is poisoned.
            PoisonedError: An earlier outcome is unknown; make a new store.
        """
        begun = time.monotonic()
        try:
            encoded = self._codec.encode(snapshot, breathe=self._breather())
        except Exception as error:  # noqa: BLE001  an enc_hook may raise anything
            return failed(error)
        if encoded.eager and time.monotonic() - begun > SLOW_ISOLATION_S:
            self._warn_slow(time.monotonic() - begun)
        return self._save(encoded, begun, allow_rollback=allow_rollback)

    async def _save(self, encoded: EncodedSnapshot, begun: float, *, allow_rollback: bool) -> SnapshotRef:
        def put() -> Stored:
            self._check_poison()
            try:
                return self._backend.put(encoded, keep=self._keep, allow_rollback=allow_rollback)
            except OutcomeUnknownError as error:
                self._poison = error.step
                raise

        stored: Stored = await self._lane.submit(put)
        cursor = encoded.cursor
        duration_s = time.monotonic() - begun
        return SnapshotRef(cursor.index, cursor.hlc, stored.size_bytes, encoded.checksum, duration_s, stored.name)

    # ------------------------------------------------------------------ load

    async def load_latest(self, *, fallback: bool = False) -> Snapshot[S]:
        """The latest snapshot, verified; what is returned survives a power cut.

        Args:
            fallback: Whether to return the newest valid older generation, with a `FallbackWarning`, where the latest is
                damaged or missing. That is a step back: what was saved since is lost.

        Raises:
            SnapshotNotFoundError: There is none.
            CorruptSnapshotError: It is damaged (with `fallback`: all of them are).
            FormatVersionError: A newer version of this package wrote it.
            SchemaVersionError: A newer version of the program wrote it, or no migrations lead from it.
            LimitExceededError: It is larger than may be read.
            BackendError: It cannot be read.
            PoisonedError: An earlier outcome is unknown; make a new store.
        """
        return (await self._read(lambda: self._latest(fallback=fallback))).snapshot

    async def load(self, ref: SnapshotRef) -> Snapshot[S]:
        """The snapshot of that reference, as `save` or `history` gave it.

        Raises:
            SnapshotNotFoundError: It was pruned or replaced.
            SwooshError: As `load_latest`.
        """
        return (await self._read(lambda: self._referred(ref))).snapshot

    async def history(self) -> list[SnapshotRef]:
        """What is kept, newest first, the latest before all; one whose head is damaged is left out, and logged.

        Raises:
            FormatVersionError: A newer version of this package wrote one of them.
            SchemaVersionError: A newer version of the program wrote one of them.
            LimitExceededError: One of them is larger than may be read.
            BackendError: It cannot be listed or read.
            PoisonedError: An earlier outcome is unknown; make a new store.
        """
        return await self._read(self._refs)

    async def prune(self, keep: int | None = None) -> list[SnapshotRef]:
        """Remove all but the newest snapshots.

        Args:
            keep: How many stay, ≥ 1; None for the store's own number.

        Returns:
            What was removed, newest first.

        Raises:
            ValueError: `keep` is below 1.
            LockedError: Another process's save did not end in time.
            SwooshError: As `history`.
            PoisonedError: An earlier outcome is unknown; make a new store.
        """
        stay = self._keep if keep is None else _at_least_one(keep)

        def prune() -> list[SnapshotRef]:
            self._check_poison()
            before = self._refs()
            gone = frozenset(self._backend.prune(stay))
            return [ref for ref in before if ref.name in gone]

        removed: list[SnapshotRef] = await self._lane.submit(prune)
        return removed

    async def newest(self) -> Newest[S]:
        """The newest snapshot that is whole, and what is wrong with those newer than it.

        Raises:
            FormatVersionError: A newer version of this package wrote one that would come first.
            SchemaVersionError: A newer version of the program wrote it.
            LimitExceededError: It is larger than may be read.
            BackendError: It cannot be read.
            PoisonedError: An earlier outcome is unknown; make a new store.
        """
        return await self._read(self._newest)

    async def verify(self, ref: SnapshotRef) -> None:
        """Check every byte of a snapshot, without decoding its state.

        Raises:
            SwooshError: As `load`.
        """

        def verify() -> None:
            with self._open(ref.name) as source:
                if self._codec.verify(source).checksum != ref.checksum:
                    raise SnapshotNotFoundError(f"{self._backend.where}: index {ref.index}", detail="it was replaced")

        await self._read(verify)

    # ------------------------------------------------------------------ in and out

    async def export(self, file: AsyncWriter) -> SnapshotRef:
        """Write the latest snapshot, verified and as it is stored, to an open file.

        Args:
            file: Anything with an async ``write(bytes)``. It is neither flushed nor closed here.

        Raises:
            SwooshError: As `load_latest`.
            OSError: What the file's own write raises.
        """
        data, ref = await self._read(self._raw_latest)
        for at in range(0, len(data), _PIECE_BYTES):
            await file.write(data[at : at + _PIECE_BYTES])
        return ref

    async def import_(self, file: AsyncReader, *, allow_rollback: bool = False) -> SnapshotRef:
        """Save the snapshot that an open file holds, in whatever format it is, in this store's own.

        Args:
            file: Anything with an async ``read(size) -> bytes``, read to its end.
            allow_rollback: Whether it may replace a snapshot with a higher index.

        Raises:
            CorruptSnapshotError: The file is not what was written.
            LimitExceededError: It is larger than `max_decoded_bytes`.
            SwooshError: As `save` and `load_latest`.
            OSError: What the file's own read raises.
        """
        data = bytearray()
        while piece := await file.read(_PIECE_BYTES):
            data += piece
            if len(data) > self._max_import_bytes:
                raise LimitExceededError("import", limit="max_decoded_bytes", found=None, bound=self._max_import_bytes)
        decoded: Decoded[S] = await self._read(lambda: self._codec.decode(data, where="import"))
        return await self.save(decoded.snapshot, allow_rollback=allow_rollback)

    # ------------------------------------------------------------------ in the worker thread

    @contextmanager
    def _open(self, name: str | None = None) -> Generator[Source, None, None]:
        """A stored snapshot; that it is damaged is told with its whole path, and with what older ones there are."""
        with self._backend.open(name) as source:
            try:
                yield source
            except CorruptSnapshotError as error:
                names = list(self._backend.names())
                others = names[names.index(source.name) + 1 :] if source.name in names else names[1:]
                raise CorruptSnapshotError(source.path, error.reason, others=tuple(others)) from error

    def _latest(self, *, fallback: bool) -> Decoded[S]:
        try:
            with self._open() as source:
                return self._codec.read(source)
        except (CorruptSnapshotError, SnapshotNotFoundError) as error:
            if not fallback:
                raise
            return self._older(error)

    def _newest(self) -> Newest[S]:
        damaged: list[CorruptSnapshotError] = []
        for name in self._backend.names():
            try:
                with self._open(name) as source:
                    decoded = self._codec.read(source)
            except SnapshotNotFoundError:
                continue
            except CorruptSnapshotError as error:
                damaged.append(error)
                continue
            except SchemaVersionError as error:
                if error.found > error.supported:
                    raise
                damaged.append(CorruptSnapshotError(name, str(error), others=()))
                continue
            return Newest(decoded.snapshot, _ref(name, decoded.facts), tuple(damaged))
        return Newest(None, None, tuple(damaged))

    def _older(self, damage: CorruptSnapshotError | SnapshotNotFoundError) -> Decoded[S]:
        """The newest valid generation behind the latest; raises `damage` where there is none."""
        for name in self._backend.names():
            try:
                with self._open(name) as source:
                    decoded = self._codec.read(source)
            except (CorruptSnapshotError, SnapshotNotFoundError):
                continue
            message = f"{damage}; index {decoded.snapshot.last_applied_index} ({name}) was loaded in its place"
            _log.warning("%s", message)
            warnings.warn(message, FallbackWarning, stacklevel=2)
            return decoded
        raise damage

    def _referred(self, ref: SnapshotRef) -> Decoded[S]:
        names = [ref.name, *(name for name in self._backend.names() if name != ref.name)]
        for name in names:
            try:
                with self._open(name) as source:
                    facts = self._codec.facts(source)
                    if (facts.cursor, facts.checksum) == (ref.cursor, ref.checksum):
                        return self._codec.read(source)
                    if name == ref.name:
                        self._codec.verify(source)  # replaced by another, or damaged in its head?
            except SnapshotNotFoundError:
                continue
            except (CorruptSnapshotError, FormatVersionError, SchemaVersionError):
                if name == ref.name:
                    raise
        raise SnapshotNotFoundError(f"{self._backend.where}: index {ref.index}", detail="it was pruned or replaced")

    def _refs(self) -> list[SnapshotRef]:
        refs: list[SnapshotRef] = []
        for name in self._backend.names():
            try:
                with self._open(name) as source:
                    refs.append(_ref(name, self._codec.facts(source)))
            except SnapshotNotFoundError:  # pruned by another process meanwhile
                continue
            except CorruptSnapshotError as error:
                _log.warning("left out of the history: %s", error)
        return refs

    def _raw_latest(self) -> tuple[bytes, SnapshotRef]:
        with self._open() as source:
            data, facts = self._codec.read_verified(source)
            return data, _ref(source.name, facts)

    # ------------------------------------------------------------------ helpers

    def _breather(self) -> Breather:
        """What a save calls as it goes."""
        return Breather()

    async def _read(self, call: Callable[[], T]) -> T:
        self._check_poison()
        await checkpoint_if_cancelled()
        return await Hop(call).run(readers())

    def _check_poison(self) -> None:
        if self._poison is not None:
            raise PoisonedError(self._backend.where, reason=self._poison)

    def _warn_slow(self, took_s: float) -> None:
        if self._state_type in _warned:
            return
        _warned.add(self._state_type)
        name = getattr(self._state_type, "__name__", self._state_type)
        warnings.warn(
            f"a state of type {name} can be changed deep inside, so it was encoded on the event loop,"
            f" for {took_s * 1e3:.0f} ms; make its parts values: frozen Structs, tuples, and Mapping, Sequence or Set"
            " in place of dict, list or set",
            RuntimeWarning,
            stacklevel=3,
        )


class FileSnapshotStore(SnapshotStore[S]):
    """Snapshots in a file of a local file system; older ones stay beside it as immutable files.

    Args:
        path: The latest snapshot's path; its directory is created, with its parents, at the first save.
        state_type: Any type that msgspec can encode and decode.
        keep: How many snapshots are kept, the latest among them, ≥ 1.
        mode: The permissions of the files; None for 0600, or those of the file that is replaced.
        lock_timeout_s: How long a save waits for another process's, in seconds.
        max_file_bytes: The largest file that is written or read.
        options: As `SnapshotCodec` has them.

    Raises:
        ValueError: `keep` is below 1, the path has no file name, or an option is wrong.
        TypeError: msgspec does not support the type.
        BackendError: The system is Windows.
    """

    @overload
    def __init__(
        self: FileSnapshotStore[OrchestratorState],
        path: str | os.PathLike[str],
        *,
        keep: int = ...,
        mode: int | None = ...,
        lock_timeout_s: float = ...,
        max_file_bytes: int = ...,
        **options: Unpack[CodecOptions],
    ) -> None: ...

    @overload
    def __init__(
        self,
        path: str | os.PathLike[str],
        state_type: type[S],
        *,
        keep: int = ...,
        mode: int | None = ...,
        lock_timeout_s: float = ...,
        max_file_bytes: int = ...,
        **options: Unpack[CodecOptions],
    ) -> None: ...

    @overload
    def __init__(
        self,
        path: str | os.PathLike[str],
        state_type: Any,
        *,
        keep: int = ...,
        mode: int | None = ...,
        lock_timeout_s: float = ...,
        max_file_bytes: int = ...,
        **options: Unpack[CodecOptions],
    ) -> None: ...

    def __init__(
        self,
        path: str | os.PathLike[str],
        state_type: Any = OrchestratorState,
        *,
        keep: int = 1,
        mode: int | None = None,
        lock_timeout_s: float = LOCK_TIMEOUT_S,
        max_file_bytes: int = MAX_FILE_BYTES,
        **options: Unpack[CodecOptions],
    ) -> None:
        backend = Generations(path, mode=mode, lock_timeout_s=lock_timeout_s, max_file_bytes=max_file_bytes)
        super().__init__(backend, state_type, keep=keep, **options)


class InMemorySnapshotStore(SnapshotStore[S]):
    """Snapshots in memory, for tests: it keeps encoded bytes, and refuses what the file store refuses.

    Args:
        state_type: Any type that msgspec can encode and decode.
        keep: How many snapshots are kept, the latest among them, ≥ 1.
        options: As `SnapshotCodec` has them.

    Raises:
        ValueError: `keep` is below 1, or an option is wrong.
        TypeError: msgspec does not support the type.
    """

    @overload
    def __init__(
        self: InMemorySnapshotStore[OrchestratorState], *, keep: int = ..., **options: Unpack[CodecOptions]
    ) -> None: ...

    @overload
    def __init__(self, state_type: type[S], *, keep: int = ..., **options: Unpack[CodecOptions]) -> None: ...

    @overload
    def __init__(self, state_type: Any, *, keep: int = ..., **options: Unpack[CodecOptions]) -> None: ...

    def __init__(self, state_type: Any = OrchestratorState, *, keep: int = 1, **options: Unpack[CodecOptions]) -> None:
        super().__init__(MemoryBackend(), state_type, keep=keep, **options)


def _ref(name: str, facts: Facts) -> SnapshotRef:
    return SnapshotRef(facts.cursor.index, facts.cursor.hlc, facts.size_bytes, facts.checksum, None, name)


def _at_least_one(keep: int) -> int:
    if type(keep) is not int or keep < 1:
        raise ValueError("keep must be an int >= 1")
    return keep
