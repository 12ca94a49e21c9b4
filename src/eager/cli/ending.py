"""How every command ends: stopped by a signal, with an output that breaks, or with the system's refusal.

Ctrl-C, SIGTERM and SIGHUP end a command alike: the work is left as by an error, so that all that is tidied up and
written on the way out is; one sentence says how to go on; the exit code is 128 and the signal's number, as shells have
it. A second signal ends it at once. A command may take its first Ctrl-C as the wish to come to an end within seconds;
then the second is what the first one else is. What is ignored already (nohup, a shell's `&`) stays ignored.

What a command tells on standard error is narration: where that breaks (a full disk, a closed pipe), it falls silent and
the work goes on. Standard output is what was asked for: where that breaks, the command ends; without a word if nobody
reads any more, as with `| head`.
"""

from __future__ import annotations

import errno
import io
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn, TextIO

import click

from eager.cli.streams import take_any_text

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

_SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
_BY_SIGNAL = 128
_BROKEN_PIPE = _BY_SIGNAL + 13  # as a program that SIGPIPE ends
# `timeout`, and others that hand signals on, send the same one twice.
_ONE_WISH_SECONDS = 1.0
GRACE_SECONDS = 3.0
"""How long work may take to come to an end by itself after Ctrl-C."""


class Stopped(BaseException):
    """A signal asked the command to end; nothing but the command's own end may catch it for good.

    `advice`: how to go on, as a part of a sentence.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.advice = "run the same command again"


class OutputBrokenError(Exception):
    """Standard output takes no more; what would be written after that is dropped."""

    def __init__(self, reason: OSError) -> None:
        super().__init__(str(reason))
        self.reason = reason


class Command(click.Command):
    """A command, or beside click's Group a group of them, that ends as this module says."""

    def main(self, *args: Any, standalone_mode: bool = True, **extra: Any) -> Any:
        """As click's."""
        work = partial(super().main, *args, standalone_mode=False, **extra)
        if not standalone_mode:
            return work()
        sys.exit(_exit_code(work))


def uninterrupted() -> AbstractContextManager[None]:
    """For a command: the block is not left in the middle by a first signal."""
    signals = click.get_current_context().obj
    return signals.held() if isinstance(signals, Signals) else nullcontext()


def coming_to_an_end(
    begin: Callable[[Callable[[], NoReturn]], None], no_error_then: type[Exception]
) -> AbstractContextManager[None]:
    """For a command: a first Ctrl-C calls `begin(stop)`, which has the block come to an end and call `stop`.

    After GRACE_SECONDS the block is left anyway; so it is by an error of that type, which the wish may have caused.
    `begin` is called at any moment: it must not print.
    """
    signals = click.get_current_context().obj
    return signals.coming_to_an_end(begin, no_error_then) if isinstance(signals, Signals) else nullcontext()


def _exit_code(work: Callable[..., int | None]) -> int:
    """Work to the end, and say what is to be said about it."""
    with _standard_streams(), Signals() as signals:
        try:
            code = _told(partial(work, obj=signals))
        except Stopped as stop:
            click.echo(f"stopped; {stop.advice}", err=True)
            code = 1
        return code if signals.number is None else _BY_SIGNAL + signals.number


def _told(work: Callable[[], int | None]) -> int:
    try:
        code = work() or 0
        if sys.stdout is not None:
            sys.stdout.flush()
        return code
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except click.Abort:  # Ctrl-C where no signal can be heeded
        return _BY_SIGNAL + signal.SIGINT
    except OutputBrokenError as error:
        if error.reason.errno == errno.EPIPE:
            return _BROKEN_PIPE
        click.echo(
            f"Error: standard output takes no more ({error.reason.strerror}): what is in files is kept", err=True
        )
        return 1
    except OSError as error:
        click.echo(f"Error: {refusal(error)}", err=True)
        return 1


def refusal(error: OSError) -> str:
    """The system's refusal as a sentence."""
    reason = error.strerror or str(error)
    if error.filename is None:
        return f"the system refuses ({reason}): see that there is room on disk and in memory, and try again"
    name = os.fsdecode(error.filename) if isinstance(error.filename, (str, bytes)) else error.filename
    return f"cannot use '{name}' ({reason}): see that it is there, of the right kind, and yours to use"


# -- signals ----------------------------------------------------------------------------------------------------------


class Signals:
    """Raises Stopped for the first signal, and dies from one that comes later. A context manager."""

    def __init__(self) -> None:
        self.number: int | None = None
        self._since = 0.0
        self._is_held = False
        self._begin_end: Callable[[Callable[[], NoReturn]], None] | None = None
        self._is_ending = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Signals:
        if threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
                if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
                    self._before[number] = signal.signal(number, self._heed)
        return self

    def __exit__(self, *_: object) -> None:
        if self.number is None:
            for number, before in self._before.items():
                signal.signal(number, before)
        # Else what is left is Python's own end, which a traceback out of it would not explain.

    @contextmanager
    def held(self) -> Iterator[None]:
        """A first signal is heeded after the block."""
        self._is_held, earlier = True, self.number
        try:
            yield
        finally:
            self._is_held = False
        if self.number is not None and earlier is None:
            raise Stopped(self.number)

    @contextmanager
    def coming_to_an_end(
        self, begin: Callable[[Callable[[], NoReturn]], None], no_error_then: type[Exception]
    ) -> Iterator[None]:
        """See the function of this name."""
        if signal.SIGINT not in self._before:  # not heeded
            yield
            return
        before = signal.signal(signal.SIGALRM, lambda number, frame: self._stop())
        self._begin_end = begin
        try:
            yield
        except no_error_then:
            if not self._is_ending:
                raise
        finally:
            self._begin_end = None
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
        if self._is_ending:
            self._stop()

    def _stop(self) -> NoReturn:
        self._is_ending = False
        raise Stopped(signal.SIGINT)

    def _heed(self, number: int, frame: FrameType | None) -> None:
        del frame
        now = time.monotonic()
        if self.number is None:
            self.number, self._since = number, now
            if number == signal.SIGINT and self._begin_end is not None:
                self._is_ending = True
                signal.setitimer(signal.ITIMER_REAL, GRACE_SECONDS)
                self._begin_end(self._stop)
            elif not self._is_held:
                raise Stopped(number)
        elif now - self._since > _ONE_WISH_SECONDS:
            if self._is_ending:
                self._since = now
                self._stop()
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)


# -- standard streams -------------------------------------------------------------------------------------------------


class _Narration(io.FileIO):
    """Standard error, which may break without harm."""

    def write(self, data: ReadableBuffer, /) -> int:
        try:
            return super().write(data)
        except OSError:
            return memoryview(data).nbytes


class _Output(io.FileIO):
    """Standard output. Raises OutputBrokenError, once."""

    _is_broken = False

    def write(self, data: ReadableBuffer, /) -> int:
        if self._is_broken:
            return memoryview(data).nbytes
        try:
            return super().write(data)
        except OSError as error:
            self._is_broken = True
            raise OutputBrokenError(error) from None


@contextmanager
def _standard_streams() -> Iterator[None]:
    """Standard output and error as above, of any text."""
    _fill_gaps()
    take_any_text()
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = _remade(sys.stdout, _Output), _remade(sys.stderr, _Narration)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before


def _fill_gaps() -> None:
    """A closed standard stream leads nowhere: else the next file, a journal, takes its number, and what is printed."""
    for number in range(3):
        if not _is_open(number):
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # it gets the lowest number that is free


def _is_open(number: int) -> bool:
    try:
        os.fstat(number)
    except OSError:
        return False
    return True


def _remade(stream: TextIO, raw: type[io.FileIO]) -> TextIO:
    """The stream over `raw`; as it is where it is not the system's own, but a test's or a notebook's."""
    buffer = getattr(stream, "buffer", None)
    if type(getattr(buffer, "raw", buffer)) is not io.FileIO:
        return stream
    stream.flush()
    file = io.BufferedWriter(raw(stream.fileno(), "w", closefd=False))
    is_seen_at_once = stream.isatty() or stream is sys.stderr
    return io.TextIOWrapper(file, stream.encoding, stream.errors, line_buffering=is_seen_at_once)
