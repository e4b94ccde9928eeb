"""Names for functions: metrics, terms, attacks and benchmarks are looked up here, and their settings checked."""

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Generic, TypeVar

from pydantic import ConfigDict, TypeAdapter, ValidationError

from uwc.errors import ConfigError

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True)
class Entry(Generic[F]):
    """A registered function with what a user should know about it.

    Attributes:
        name: what users write.
        function: the function itself; its keyword-only parameters are the settings users may give.
        source: where it is defined, e.g. ``"arXiv:2404.05868"``.
        facts: whatever else the registry's kind declares (``needs``, ``range``, ``formula``, ...).
    """

    name: str
    function: F
    source: str
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def summary(self) -> str:
        """The first line of the function's docstring."""
        return (inspect.getdoc(self.function) or "").split("\n", 1)[0]

    @property
    def settings(self) -> dict[str, inspect.Parameter]:
        """The keyword-only parameters by name."""
        parameters = inspect.signature(self.function).parameters
        return {n: p for n, p in parameters.items() if p.kind is inspect.Parameter.KEYWORD_ONLY}


class Registry(Generic[F]):
    """A table from names to functions, open to plug-ins.

    Args:
        kind: what is registered, in the singular, as messages say it (``"metric"``).
        modules: the modules that register what comes with uwc; imported when a name is first looked up.
        declares: the facts that every entry must declare.

    Another package adds to it by an entry point in the group ``uwc.<kind>s`` that names a module; importing the module
    runs its ``@registry.register(...)`` decorators.
    """

    def __init__(self, kind: str, *, modules: tuple[str, ...] = (), declares: tuple[str, ...] = ()) -> None:
        self.kind, self._declares = kind, declares
        self._entries: dict[str, Entry[F]] = {}
        self._unloaded = modules
        self._plugins_loaded = False

    def register(self, name: str, *, source: str, **facts: Any) -> Callable[[F], F]:
        """Decorator: make the function known as `name`. Raises ValueError if the name is taken or a fact is missing."""
        for fact in self._declares:
            if fact not in facts:
                raise ValueError(f"the {self.kind} {name!r} must declare {fact!r}")

        def decorate(function: F) -> F:
            if name in self._entries and not _defined_again(self._entries[name].function, function):
                raise ValueError(f"the {self.kind} {name!r} is registered twice")
            self._entries[name] = Entry(name, function, source, facts)
            return function

        return decorate

    def get(self, name: str) -> Entry[F]:
        """The entry of that name. Raises ConfigError, naming the valid choices, if there is none."""
        self._load()
        if name in self._entries:
            return self._entries[name]
        raise ConfigError(unknown_name(self.kind, name, list(self._entries)))

    def names(self) -> list[str]:
        """All names, in the order of registration."""
        self._load()
        return list(self._entries)

    def __iter__(self) -> Iterator[Entry[F]]:
        self._load()
        return iter(self._entries.values())

    def check(self, name: str, settings: Mapping[str, Any]) -> dict[str, Any]:
        """All settings of `name`, validated against its signature, with its defaults filled in.

        Raises:
            ConfigError: an unknown setting, a missing one, or a value of the wrong type.
        """
        entry = self.get(name)
        for given in settings:
            if given not in entry.settings:
                raise ConfigError(unknown_name(f"setting of the {self.kind} {name!r}", given, list(entry.settings)))
        checked: dict[str, Any] = {}
        for setting, parameter in entry.settings.items():
            if setting in settings:
                checked[setting] = _validated(f"{self.kind} {name!r}: {setting}", settings[setting], parameter)
            elif parameter.default is inspect.Parameter.empty:
                raise ConfigError(f"{self.kind} {name!r}: the setting {setting!r} must be given")
            else:
                checked[setting] = parameter.default
        return checked

    def _load(self) -> None:
        modules, self._unloaded = self._unloaded, ()
        for module in modules:
            import_module(module)
        if not self._plugins_loaded:
            self._plugins_loaded = True
            for point in entry_points(group=f"uwc.{self.kind}s"):
                _load_plugin(self.kind, point)


def _defined_again(first: Callable[..., Any], second: Callable[..., Any]) -> bool:
    """Whether a function is another definition of one that is there, as when a cell of a notebook is run again."""
    places = [(getattr(f, "__module__", None), getattr(f, "__qualname__", None)) for f in (first, second)]
    return places[0] == places[1] and not str(places[0][0]).startswith("uwc.")


def _load_plugin(kind: str, point: EntryPoint) -> None:
    try:
        point.load()
    except Exception as error:
        raise ConfigError(
            f"the plug-in {point.name!r} ({point.value}), which adds to the {kind}s, cannot be loaded: "
            f"{type(error).__name__}: {error}; fix it or uninstall its package"
        ) from error


def unknown_name(kind: str, name: str, valid: list[str]) -> str:
    """One line that says that `name` is unknown, which one may be meant, and which are valid."""
    close = get_close_matches(name, valid, n=1)
    hint = f" (did you mean {close[0]!r}?)" if close else ""
    return f"unknown {kind} {name!r}{hint}; valid: {', '.join(valid) or 'none'}"


def _validated(what: str, value: Any, parameter: inspect.Parameter) -> Any:
    if parameter.annotation is inspect.Parameter.empty:
        return value
    try:
        adapter = TypeAdapter(parameter.annotation, config=ConfigDict(allow_inf_nan=False))
        return adapter.validate_python(value, strict=False)
    except ValidationError as error:
        raise ConfigError(f"{what} = {value!r}: {error.errors()[0]['msg']}") from None
