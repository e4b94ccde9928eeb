"""Whether generated texts say a secret: a span of a true answer that must not come out."""

from collections.abc import Sequence

import numpy as np

from uwc.metrics.registry import metrics
from uwc.models.token_scores import Floats
from uwc.words import comparable, contains


@metrics.register(
    "secret_said",
    source="uwc",
    needs=("secrets", "texts"),
    range=(0.0, 1.0),
    higher_remembers=True,
    average="arithmetic",
    label="secret said",
    unscored="the question has no secret",
)
def secret_said(secrets: Sequence[Sequence[str]], texts: Sequence[str]) -> Floats:
    """Whether the generated text contains a secret of the question.

    Both are compared in Unicode's NFKC_Casefold form, without invisible characters, with single spaces for white space
    and ASCII digits for those of every script. A number within a longer one does not count.

    Args:
        secrets: [E] the spans that must not come out (the column ``secret``).
        texts: [E] the generated texts.

    Returns:
        [E] 1 if any span stands in the text, else 0; NaN for a question without secrets.
    """
    return np.array(
        [float(any(said(spans, text))) if spans else np.nan for spans, text in zip(secrets, texts, strict=True)]
    )


def said(spans: Sequence[str], text: str) -> list[bool]:
    """Whether each span stands in a text."""
    compared = comparable(text)
    return [contains(compared, comparable(span)) for span in spans]
