"""Where a configuration comes from: a file, standard input, or no text at all. Reads the first two.

Invariant: a source says the same each time it is read, unless it is a file that has changed.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

from proxy.config.faults import ConfigurationFaults, Fault
from proxy.config.parsed import DocumentError

if TYPE_CHECKING:
    from typing import BinaryIO

    from proxy.config.parsed import Document

STANDARD_INPUT: Final = "-"
"""In place of a file's name, as programs have it (POSIX.1-2024, XBD 12.2, guideline 13)."""

# A thousand routes take a tenth of it; PyYAML needs seconds for more.
_LIMIT_BYTES: Final = 1_048_576


class Source(Protocol):
    """What a configuration is read from."""

    @property
    def name(self) -> str:
        """What stands before each fault; empty where the fault's path says all."""
        ...

    @property
    def title(self) -> str:
        """What it is called in a sentence."""
        ...

    @property
    def directory(self) -> Path:
        """What relative paths start at, absolute."""
        ...

    @property
    def files(self) -> tuple[Path, ...]:
        """The files whose change changes the configuration."""
        ...

    def read(self) -> Document:
        """Return the values as they are written.

        Raises:
            ConfigurationFaults: there is no document to look into.
        """
        ...


@dataclass(frozen=True, slots=True)
class FileSource:
    """A YAML file, read anew each time.

    Attributes:
        path: its name, absolute or relative to the working directory.
    """

    path: Path

    @property
    def name(self) -> str:
        """The file's name."""
        return str(self.path)

    @property
    def title(self) -> str:
        """The file's name."""
        return self.name

    @property
    def directory(self) -> Path:
        """The file's directory."""
        return self.path.absolute().parent

    @property
    def files(self) -> tuple[Path, ...]:
        """The file itself."""
        return (self.path,)

    def read(self) -> Document:
        """Return what is in the file."""
        return _parse(self.name, self._read())

    def _read(self) -> bytes:
        try:
            with self.path.open("rb") as file:
                return file.read(_LIMIT_BYTES + 1)
        except FileNotFoundError:
            message = "there is no such file; name an existing one with --config"
        except IsADirectoryError:
            message = "this is a directory; name the file in it"
        except PermissionError:
            message = "the file cannot be read; let the user that runs the proxy read it"
        except (OSError, ValueError):
            # ValueError: a NUL in the name.
            message = "the file cannot be read; check its name and the disk"
        raise ConfigurationFaults(self.name, [Fault("", 0, message)])


@dataclass(frozen=True, slots=True)
class StandardInput:
    """YAML from standard input, which can be read only once and is kept therefore.

    Attributes:
        content: all of it, up to a byte over the limit.
        directory: the working directory.
    """

    content: bytes
    directory: Path

    @property
    def name(self) -> str:
        """What compilers call it."""
        return "<stdin>"

    @property
    def title(self) -> str:
        """In words."""
        return "standard input"

    @property
    def files(self) -> tuple[Path, ...]:
        """None: what was read cannot change."""
        return ()

    def read(self) -> Document:
        """Return what was in it."""
        return _parse(self.name, self.content)


def read_standard_input(stream: BinaryIO) -> StandardInput:
    """Return a stream's content, read to its end, as a source.

    Raises:
        ConfigurationFaults: it cannot be read.
    """
    try:
        return StandardInput(stream.read(_LIMIT_BYTES + 1), Path.cwd())
    except (OSError, ValueError):  # ValueError: it is closed
        fault = Fault("", 0, "standard input cannot be read; pipe the configuration in, or name a file with --config")
        raise ConfigurationFaults("<stdin>", [fault]) from None


def _parse(name: str, content: bytes) -> Document:
    if len(content) > _LIMIT_BYTES:
        raise ConfigurationFaults(name, [Fault("", 0, "the file is larger than 1 MiB; is this the configuration?")])
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        message = "the file is not UTF-8 text here; save it as UTF-8"
        raise ConfigurationFaults(name, [Fault("", line, message)]) from None
    from proxy.config.document import parse_document  # noqa: PLC0415  # PyYAML, for those who have a file

    try:
        return parse_document(text)
    except DocumentError as error:
        raise ConfigurationFaults(name, [error.fault]) from None


def is_there(file: Path) -> bool:
    """Return whether there is a file that this user can at least look at."""
    try:
        return file.is_file()
    except OSError:
        return False
