"""From a source to `Settings`, or to all that is wrong with it. Reads the source, looks whether files it names exist."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from proxy.config.bound_tokens import show_certificates
from proxy.config.checks import check_settings
from proxy.config.environment import substitute
from proxy.config.faults import ConfigurationFaults
from proxy.config.files import check_named_files
from proxy.config.source import FileSource
from proxy.config.state_directory import default_state_directory
from proxy.config.upstream_proxy import take_from_environment
from proxy.config.validation import validate
from proxy.config.values import Surroundings

if TYPE_CHECKING:
    from collections.abc import Mapping

    from proxy.config.faults import Finding, KeyPath
    from proxy.config.parsed import Document, Value
    from proxy.config.settings import Settings
    from proxy.config.source import Source


def load_settings(source: Path | Source, environ: Mapping[str, str], check_files: bool = True) -> Settings:
    """Return the settings in a YAML file, or in another source.

    Args:
        source: the file; relative paths in it are relative to its directory.
        environ: what ``${NAME}``, ``~`` and the default of ``state_directory`` are taken from.
        check_files: whether the files it names have to be there.

    Raises:
        ConfigurationFaults: with all that is wrong, each with its key path and line.
    """
    if isinstance(source, Path):
        source = FileSource(source)
    document = source.read()
    substitution = _Substitution(document, environ)
    root = document.root = substitution.root
    if "state_directory" not in root and (default := default_state_directory(environ)):
        root["state_directory"] = str(default)
    from_environment = take_from_environment(root, environ)
    surroundings = Surroundings(source.directory, environ.get("HOME"))
    settings, findings = validate(root, surroundings, substitution.replaced)
    findings += from_environment + list(check_settings(root))
    if check_files:
        findings += check_named_files(root, surroundings)
    faults = document.faults + [document.fault(*finding) for finding in substitution.merge(findings)]
    if faults or settings is None:
        raise ConfigurationFaults(source.name, faults)
    return show_certificates(settings)


class _Substitution:
    """A document's values with the environment in them.

    Attributes:
        root: the values; a text whose references have problems stays as it is.
        replaced: where text came from the environment.
    """

    def __init__(self, document: Document, environ: Mapping[str, str]) -> None:
        self.replaced: set[KeyPath] = set()
        self._environ = environ
        self._spoiled = document.spoiled
        self._findings: list[Finding] = []
        self.root: dict[str, Value] = {key: self._replace(value, (key,)) for key, value in document.root.items()}

    def merge(self, findings: list[Finding]) -> list[Finding]:
        """Return what was found here and elsewhere, less what only follows from a text that stayed as it is."""
        spoiled = self._spoiled | {path for path, _ in self._findings}
        others = [
            (path, message)
            for path, message in findings
            if not any(path[:length] in spoiled for length in range(len(path) + 1))
        ]
        return self._findings + others

    def _replace(self, value: Value, path: KeyPath) -> Value:
        if isinstance(value, dict):
            return {key: self._replace(item, (*path, key)) for key, item in value.items()}
        if isinstance(value, list):
            return [self._replace(item, (*path, index)) for index, item in enumerate(value)]
        if not isinstance(value, str) or "${" not in value:
            return value
        result = substitute(value, self._environ)
        self._findings += [(path, problem) for problem in result.problems]
        if result.problems:
            return value
        if result.replaced:
            self.replaced.add(path)
        return result.text
