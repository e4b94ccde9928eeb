"""What libraries print that tells a user nothing, each by its own words; everything else is shown."""

import logging
import warnings

LOGGED = {"bitsandbytes.backends.cpu.ops": "Failed to load CPU gemm_4bit"}
"""Logger -> how the line begins: bitsandbytes has no kernel of its own for a CPU, and then takes a slower way."""
WARNED = (
    "`is_gradient_checkpointing` is deprecated",  # transformers, of a property that libraries read
    "Setting `save_embedding_layers` to `True`",  # peft, on saving an adapter of the embeddings, which is what we want
)
"""How the message begins."""


def silence() -> None:
    """Leave out these lines."""
    for logger, words in LOGGED.items():
        logging.getLogger(logger).addFilter(_Without(words))
    for words in WARNED:
        warnings.filterwarnings("ignore", message=words)


class _Without(logging.Filter):
    """Lets all pass but what begins with these words."""

    def __init__(self, words: str) -> None:
        super().__init__()
        self.words = words

    def filter(self, record: logging.LogRecord) -> bool:
        return not record.getMessage().startswith(self.words)
