"""Models that several steps of a study read, held between them instead of being loaded anew for each."""

from collections.abc import Callable
from typing import Any

Key = tuple[str, ...]


class Shelf:
    """Holds what steps only read, until a step has no use for it. It belongs to one run of a study."""

    def __init__(self) -> None:
        self._held: dict[Key, Any] = {}

    def get(self, key: Key, make: Callable[[], Any]) -> Any:
        """What is held under the key; made where there is nothing."""
        if key not in self._held:
            self._held[key] = make()
        return self._held[key]

    def keep(self, *keys: Key) -> None:
        """Let go of everything else, so that its memory is free."""
        self._held = {key: self._held[key] for key in keys if key in self._held}
