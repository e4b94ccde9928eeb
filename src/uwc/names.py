"""Names that users give: of studies, runs, groups, attacks, sets and registered functions; some name files."""

import re
from collections.abc import Iterable
from unicodedata import normalize

from uwc.errors import ConfigError, brief

STORE = "store"
"""The folder of a study's cache, beside the folders of the studies."""

LONGEST = 100
_PATTERN = re.compile(r"\w[\w .,+@()=-]*")
_ALLOWED = f"use letters, digits, spaces and . , + @ ( ) = _ -, at most {LONGEST}, and begin with a letter or digit"


def require_name(kind: str, name: str, *, taken: Iterable[str] = ()) -> None:
    """Raise ConfigError if a name could not be that of a file, or is taken.

    Args:
        kind: what it names, in messages.
        name: the name.
        taken: names that it cannot be.
    """
    if not _PATTERN.fullmatch(name) or len(name) > LONGEST or name != name.strip():
        raise ConfigError(f"{brief(name)} cannot be the name of a {kind}; {_ALLOWED}")
    if name in taken:
        raise ConfigError(f"{name!r} cannot be the name of a {kind}, as that name is taken; choose another")


def require_names(kind: str, names: Iterable[str]) -> None:
    """Raise ConfigError if one cannot be a name, or two would name the same file where case does not count."""
    seen: dict[str, str] = {}
    for name in names:
        require_name(kind, name)
        other = seen.setdefault(normalize("NFC", name).casefold(), name)
        if other != name:
            raise ConfigError(f"the {kind} names {other!r} and {name!r} differ in case only; choose another for one")
