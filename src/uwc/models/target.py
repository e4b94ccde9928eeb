"""A model under test: what is scored, trained, attacked and mixed."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from uwc.data.example import Example
from uwc.data.prompts import EncodedExample, PromptTemplate
from uwc.errors import DataError

FALLBACK_CONTEXT = 2048

Rewrite = Callable[[Example], Example]
Edit = Callable[[EncodedExample], EncodedExample]


@dataclass(frozen=True)
class Target:
    """A causal language model with the tokenizer and prompt template it is used with.

    Attributes:
        model: a transformers causal language model.
        tokenizer: its tokenizer.
        template: how a question is put to it.
        name: what messages and reports call it.
        rewrites: change each example before it is encoded, in order.
        edits: change each encoded example, in order; they keep its id.
    """

    model: Any
    tokenizer: Any
    template: PromptTemplate = field(default_factory=PromptTemplate)
    name: str = "model"
    rewrites: tuple[Rewrite, ...] = ()
    edits: tuple[Edit, ...] = ()

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        device: torch.device = self.model.device
        return device

    @property
    def context_length(self) -> int:
        """The longest sequence the model takes, in tokens."""
        config = self.model.config.get_text_config()
        return int(getattr(config, "max_position_embeddings", None) or FALLBACK_CONTEXT)

    def rewritten(self, rewrite: Rewrite) -> "Target":
        """The same model, asked in other words: `rewrite` comes after the rewrites there are."""
        return replace(self, rewrites=(*self.rewrites, rewrite))

    def edited(self, edit: Edit) -> "Target":
        """The same model, reading other tokens: `edit` comes after the edits there are."""
        return replace(self, edits=(*self.edits, edit))

    def encode(self, examples: Sequence[Example]) -> list[EncodedExample]:
        """The examples as this model reads them. Raises DataError if one does not fit into its context."""
        for rewrite in self.rewrites:
            examples = [rewrite(e) for e in examples]
        encoded = self.template.encode(examples, self.tokenizer, max_length=self.context_length)
        for edit in self.edits:
            encoded = [edit(e) for e in encoded]
        for example in encoded if self.edits else ():
            if len(example.tokens) > self.context_length:
                raise DataError(
                    f"example {example.id!r}, as the attack puts it, has {len(example.tokens)} tokens, more than the "
                    f"model's context of {self.context_length}; leave it out or weaken the attack (fewer shots)"
                )
        return encoded
