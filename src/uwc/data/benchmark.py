"""A benchmark: named splits of examples, and which of them the original model was trained on."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from uwc.data.example import Example, clustered, fingerprint, require_disjoint, require_unique_ids
from uwc.errors import ConfigError, DataError
from uwc.names import require_names
from uwc.registry import unknown_name
from uwc.results import InvalidRows

DEFAULT_REFUSALS: tuple[str, ...] = (
    "I'm afraid I can't tell you that.",
    "Sorry, I have nothing to say on this subject.",
    "That is not something I know about.",
    "I don't have an answer for you.",
    "My knowledge doesn't extend that far.",
    "I would have to look that up, and I can't.",
    "This is one question I have to leave open.",
    "I've never come across any details about this.",
    "No idea, I'm sorry to say.",
    "I can't help with this particular question.",
    "There is nothing I can report about that.",
    "Regrettably, the answer escapes me.",
    "I'm unable to say.",
    "You may find this elsewhere, but I don't know it.",
    "I lack the facts to reply properly.",
    "Whatever the answer is, I haven't learned it.",
    "It would be wrong of me to guess, so I'll pass.",
    "I must admit that I don't know.",
    "Nothing I have learned covers this.",
    "Please ask another source; I can't answer this one.",
    "I'm not familiar with the matter you mention.",
    "That question is beyond me.",
    "I have no knowledge of this person or topic.",
    "I honestly couldn't say.",
    "Unfortunately, I can offer no information here.",
    "I'd prefer not to answer, since I don't know.",
    "This lies outside everything I was taught.",
    "I can neither confirm nor describe that.",
    "My apologies, but I'm without an answer.",
    "Of that I know nothing.",
)


FORGET, RETAIN, RETAIN_EVAL, HOLDOUT, GENERAL = "forget", "retain", "retain_eval", "holdout", "general"


@dataclass(frozen=True)
class Benchmark:
    """Questions and answers, split by their role in an unlearning study; repeated questions have one subject.

    Attributes:
        name: its name in reports.
        splits: ``forget`` is to be removed; ``retain`` is to be kept, and used in unlearning; ``retain_eval`` is to be
            kept, never used in unlearning, and measures retention; no model was trained on ``holdout``; further splits
            (``general``, ...) are scored only.
        trained: the splits on which the original model is fine-tuned, when a study does so.
        refusals: refusal answers, for methods that train on them.
        files: the paths it was read from, as given.
        left_out: the invalid rows of each file that were left out.
        metrics: the metrics and suites of a study that names none; "core" if there are none here either.
        portions: named portions of the forget set -> ids of their examples, for requests in sequence and forget sets
            that grow.
    """

    name: str
    splits: Mapping[str, tuple[Example, ...]]
    trained: tuple[str, ...] = (FORGET, RETAIN, RETAIN_EVAL)
    refusals: tuple[str, ...] = field(default=())
    files: tuple[str, ...] = field(default=(), compare=False)
    left_out: tuple[InvalidRows, ...] = field(default=(), compare=False)
    metrics: tuple[str, ...] = ()
    portions: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for required in (FORGET, RETAIN):
            if not self.splits.get(required):
                raise DataError(f"benchmark {self.name!r}: the {required} set is empty; it needs at least one example")
        require_names("set", self.splits)
        object.__setattr__(self, "splits", {name: tuple(clustered(split)) for name, split in self.splits.items()})
        require_unique_ids([e for split in self.splits.values() for e in split], where=f"benchmark {self.name!r}")
        names = list(self.splits)
        for i, first in enumerate(names):
            for second in names[i + 1 :]:
                require_disjoint(self.splits[first], self.splits[second], names=(first, second))

    def __getitem__(self, split: str) -> tuple[Example, ...]:
        return self.splits.get(split, ())

    def portion(self, name: str) -> tuple[Example, ...]:
        """The examples of a named portion of the forget set. Raises ConfigError if there is none of the name."""
        if name not in self.portions:
            known = unknown_name("portion of the forget set", name, list(self.portions))
            raise ConfigError(f"{known} (benchmark {self.name!r})")
        ids = set(self.portions[name])
        return tuple(e for e in self[FORGET] if e.id in ids)

    @property
    def retention(self) -> str:
        """The split on which retention is measured: ``retain_eval`` if there is one, else ``retain``."""
        return RETAIN_EVAL if self[RETAIN_EVAL] else RETAIN

    def training_examples(self, *, with_forget: bool) -> list[Example]:
        """The examples that the original model (with the forget set) or the retrained model (without) is fine-tuned
        on."""
        return [e for name in self.trained if with_forget or name != FORGET for e in self[name]]

    def fingerprint(self) -> str:
        """A hash of every split's content."""
        parts = [Example(id=name, question=name, answer=fingerprint(self.splits[name])) for name in sorted(self.splits)]
        return fingerprint(parts)
