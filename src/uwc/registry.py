"""Registries: metrics, terms, attacks and benchmarks by name, with declarations and checked settings."""

import functools
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from difflib import get_close_matches
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Annotated, Any, Generic, TypeVar

from pydantic import ConfigDict, TypeAdapter, ValidationError

from uwc.errors import ConfigError, brief, listed, shortened
from uwc.names import require_name
from uwc.strict_numbers import StrictNumbers, first_message

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True)
class Entry(Generic[F]):
    """A registered function with its declarations.

    Attributes:
        name: what users write.
        function: the function itself; its keyword-only parameters are the settings users may give.
        source: where it is defined, e.g. ``"arXiv:2404.05868"``.
        facts: all other declarations of its kind (``needs``, ``range``, ``formula``, ...).
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
    def inputs(self) -> list[str]:
        """The names of the positional parameters."""
        kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
        return [n for n, p in inspect.signature(self.function).parameters.items() if p.kind in kinds]

    @property
    def settings(self) -> dict[str, inspect.Parameter]:
        """The keyword-only parameters by name."""
        parameters = inspect.signature(self.function).parameters
        return {n: p for n, p in parameters.items() if p.kind is inspect.Parameter.KEYWORD_ONLY}


class Registry(Generic[F]):
    """A mapping of names to functions, which plug-ins may extend.

    Args:
        kind: the kind of function, in the singular, for messages (``"metric"``).
        modules: the package's own modules that register functions; imported when a name is first looked up.
        declares: the facts that every entry must declare.
        check: raises ConfigError for an entry that declares something impossible.

    Another package adds to it by an entry point in the group ``uwc.<kind>s`` that names a module; importing the module
    runs its decorators.
    """

    def __init__(
        self,
        kind: str,
        *,
        modules: tuple[str, ...] = (),
        declares: tuple[str, ...] = (),
        check: Callable[[Entry[F]], None] | None = None,
    ) -> None:
        self.kind, self._declares, self._check = kind, declares, check
        self._entries: dict[str, Entry[F]] = {}
        self._unloaded = modules
        self._plugins_loaded = False

    def register(self, name: str, *, source: str, **facts: Any) -> Callable[[F], F]:
        """Decorator that registers a function as `name`; a later definition of a function replaces an earlier one.

        Raises:
            ConfigError: another function has the name, or a declaration is missing or impossible.
        """
        require_name(self.kind, name)
        for fact in self._declares:
            if fact not in facts:
                raise ConfigError(f"the {self.kind} {name!r} must declare {fact!r}")

        def decorate(function: F) -> F:
            if name in self._entries and not _defined_again(self._entries[name].function, function):
                raise ConfigError(
                    f"the {self.kind} {name!r} is registered twice, by {_place(self._entries[name].function)} and "
                    f"{_place(function)}; give one of them another name"
                )
            entry = Entry(name, function, source, facts)
            if self._check is not None:
                self._check(entry)
            self._entries[name] = entry
            return function

        return decorate

    def add(self, function: F, name: str | None, *, source: str, **facts: Any) -> None:
        """Register a user's function under a name, by default its own, after the package's own functions.

        Raises:
            ConfigError: as `register`; also for a function without a name.
        """
        self._load()
        known = name or self.name_of(function) or str(getattr(function, "__name__", ""))
        if name is None and not known.isidentifier():
            raise ConfigError(f"the {self.kind} {known or repr(function)} has no name; give it one: name='...'")
        self.register(known, source=source, **facts)(function)

    def name_of(self, function: Callable[..., Any]) -> str | None:
        """The name that a function is registered by; None if it is not."""
        return next((e.name for e in self if e.function is function), None)

    def drop(self, module: str) -> None:
        """Remove the entries of a module, before it is executed again."""
        self._entries = {n: e for n, e in self._entries.items() if _module(e.function) != module}

    @contextmanager
    def restored(self) -> Iterator[None]:
        """While open, entry points are loaded again; when it is closed, the entries are those of before."""
        self._load()
        entries = dict(self._entries)
        self._plugins_loaded = False
        try:
            yield
        finally:
            self._entries, self._plugins_loaded = entries, True

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
    """Whether a function is a later definition of a registered one, as when a cell of a notebook is run again.

    In a module that is the function of the same name; in a notebook, where a cell may have been edited, any function.
    """
    module = _module(first)
    if module != _module(second) or module == "uwc" or module.startswith("uwc."):
        return False
    return module == "__main__" or _place(first) == _place(second)


def _module(function: Callable[..., Any]) -> str:
    while isinstance(function, functools.partial):
        function = function.func
    return str(getattr(function, "__module__", ""))


def _place(function: Callable[..., Any]) -> str:
    """The place of a function's definition, as ``module.name``; for a callable object that of its class."""
    while isinstance(function, functools.partial):
        function = function.func
    name = getattr(function, "__qualname__", None) or type(function).__qualname__
    return f"{_module(function)}.{name}"


def _load_plugin(kind: str, point: EntryPoint) -> None:
    try:
        point.load()
    except Exception as error:
        raise ConfigError(
            f"the plug-in {point.name!r} ({point.value}), which adds to the {kind}s, cannot be loaded: "
            f"{type(error).__name__}: {error}; fix it or uninstall its package"
        ) from error


def check_inputs(entry: Entry[Any], kind: str, *, count: int, of: str) -> None:
    """Raise ConfigError unless a function takes so many positional arguments, and no ``*`` or ``**`` ones.

    Args:
        entry: the function.
        kind: its kind, for messages.
        count: the number of arguments that it is called with.
        of: their names, for messages.
    """
    kinds = {p.kind for p in inspect.signature(entry.function).parameters.values()}
    if kinds & {inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD}:
        raise ConfigError(f"the {kind} {entry.name!r} takes * or ** arguments; name each argument and each setting")
    if len(entry.inputs) != count:
        raise ConfigError(
            f"the {kind} {entry.name!r} takes the arguments ({', '.join(entry.inputs)}), and is called with {of}; "
            "write settings after a *, as in (..., *, beta=0.1)"
        )


def require_one_of(what: str, value: Any, valid: Iterable[Any]) -> None:
    """Raise ConfigError, naming the valid values, if a declared value is not one of them."""
    valid = list(valid)
    if value not in valid:
        raise ConfigError(unknown_name(what, str(value), [str(v) for v in valid]))


def unknown_name(kind: str, name: str, valid: list[str]) -> str:
    """The message for an unknown name, with a similar name, if there is one, and the valid ones."""
    close = get_close_matches(name, valid, n=1)
    hint = f" (did you mean {close[0]!r}?)" if close else ""
    return f"unknown {kind} {brief(name, 80)}{hint}; valid: {listed(valid, 300) or 'none'}"


def _validated(what: str, value: Any, parameter: inspect.Parameter) -> Any:
    if parameter.annotation is inspect.Parameter.empty:
        return value
    kind: Any = Annotated[parameter.annotation, StrictNumbers]
    try:
        adapter: TypeAdapter[Any] = TypeAdapter(kind, config=ConfigDict(allow_inf_nan=False))
        return adapter.validate_python(value, strict=False)
    except ValidationError as error:
        raise ConfigError(f"{what} = {shortened(repr(value), 120)}: {first_message(error)}") from None
