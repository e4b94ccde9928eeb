"""Token scores: the statistics of each answer token from one teacher-forced pass, which likelihood metrics read."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from uwc.errors import ConfigError, DataError

Floats = NDArray[np.float64]
BOOLEAN_COLUMNS = ("greedy", "stops")
TOKEN_COLUMNS = ("logprob", *BOOLEAN_COLUMNS, "mean_logprob", "var_logprob", "kl", "reference_logprob")
_SAMPLED = "sampled "


@dataclass(frozen=True)
class Sampling:
    """Settings of sampling the next token.

    Attributes:
        temperature: logits are divided by it; positive.
        top_k: only the k most likely tokens are drawn; 0 means all.
    """

    temperature: float = 1.0
    top_k: int = 0

    def __post_init__(self) -> None:
        if not self.temperature > 0 or self.top_k < 0:
            raise ConfigError(
                f"sampling at temperature {self.temperature} and top-k {self.top_k}: the temperature must be positive "
                "and top-k at least 0 (0 = the whole vocabulary)"
            )

    @property
    def name(self) -> str:
        """The name of its column in stored scores."""
        return f"temperature={self.temperature:g} top_k={self.top_k}"


@dataclass(frozen=True, eq=False)
class TokenScores:
    """Scores of the N labelled tokens of E rows, stored flat. A row is an example with one answer.

    Attributes:
        ids: E example ids; rows of the same example share it.
        subjects: E subjects, by which examples are clustered.
        variants: E answer variants: answer, paraphrased_answer or perturbed_answers.
        offsets: [E + 1]; row i has the tokens ``offsets[i]:offsets[i + 1]``.
        end_lengths: [E] the number of a row's last tokens that are its end: the template's text after the answer, up to
            and including the token that ends the turn.
        finite: [E] whether all logits of a row's tokens were finite; otherwise its numbers are meaningless.
        logprob: [N] natural logarithm of the probability of the true token.
        greedy: [N] whether the true token is the most likely one.
        stops: [N] whether a token that ends the turn is the most likely one.
        mean_logprob: [N] mean of the log-probability under the model's own next-token distribution.
        var_logprob: [N] its variance.
        kl: [N] KL(reference || model) in nats, NaN without a reference.
        reference_logprob: [N] the reference's log-probability of the true token, NaN likewise.
        sampled: name of a sampling -> [N] log-probability of drawing the true token, -inf if it cannot be drawn.
        margin: [N] the true token's logit minus the greatest other one, if requested; not stored.
    """

    ids: tuple[str, ...]
    subjects: tuple[str, ...]
    variants: tuple[str, ...]
    offsets: NDArray[np.int64]
    end_lengths: NDArray[np.int64]
    finite: NDArray[np.bool_]
    logprob: NDArray[np.float32]
    greedy: NDArray[np.bool_]
    stops: NDArray[np.bool_]
    mean_logprob: NDArray[np.float32]
    var_logprob: NDArray[np.float32]
    kl: NDArray[np.float32]
    reference_logprob: NDArray[np.float32]
    sampled: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)
    margin: NDArray[np.float32] | None = None

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def rows(self) -> NDArray[np.int64]:
        """[N] the row of each token."""
        return np.repeat(np.arange(len(self)), np.diff(self.offsets))

    @property
    def in_answer(self) -> NDArray[np.bool_]:
        """[N] True for answer tokens, False for those of the end."""
        inside: NDArray[np.bool_] = np.arange(self.offsets[-1]) < (self.offsets[1:] - self.end_lengths)[self.rows]
        return inside

    @property
    def has_reference(self) -> bool:
        """Whether there are scores of a reference model."""
        return not len(self.kl) or not bool(np.isnan(self.reference_logprob).all())

    def answer_lengths(self) -> NDArray[np.int64]:
        """[E] number of answer tokens, without the end."""
        return np.diff(self.offsets) - self.end_lengths

    def total(self, values: NDArray[np.generic], *, with_end: bool) -> Floats:
        """[E] sum of a token column over each row, in float64."""
        keep = np.ones(len(values), dtype=bool) if with_end else self.in_answer
        total = np.bincount(self.rows[keep], weights=values[keep].astype(np.float64), minlength=len(self))
        return total.astype(np.float64)

    def mean(self, values: NDArray[np.generic], *, with_end: bool) -> Floats:
        """[E] mean of a token column over each row, in float64; NaN for a row without tokens."""
        count = np.diff(self.offsets) if with_end else self.answer_lengths()
        mean = np.full(len(self), np.nan)
        np.divide(self.total(values, with_end=with_end), count, out=mean, where=count > 0)
        return mean

    def variant(self, name: str) -> "TokenScores":
        """The rows of one answer variant, in their order."""
        if all(v == name for v in self.variants):
            return self
        return self.select([i for i, v in enumerate(self.variants) if v == name])

    def select(self, indices: Sequence[int]) -> "TokenScores":
        """The scores of some rows, in the order given."""
        chosen = np.array(indices, dtype=np.int64)
        counts = np.diff(self.offsets)[chosen]
        offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        flat = np.arange(offsets[-1]) + np.repeat(self.offsets[chosen] - offsets[:-1], counts)
        return TokenScores(
            ids=tuple(self.ids[i] for i in indices),
            subjects=tuple(self.subjects[i] for i in indices),
            variants=tuple(self.variants[i] for i in indices),
            offsets=offsets,
            end_lengths=self.end_lengths[chosen],
            finite=self.finite[chosen],
            **{name: getattr(self, name)[flat] for name in TOKEN_COLUMNS},
            sampled={name: column[flat] for name, column in self.sampled.items()},
            margin=None if self.margin is None else self.margin[flat],
        )

    def save(self, path: Path) -> None:
        """Write a Parquet file with one row a row, token columns as lists."""
        offsets = pa.array(self.offsets.astype(np.int32))
        columns: dict[str, pa.Array] = {
            "id": pa.array(self.ids, pa.string()),
            "subject": pa.array(self.subjects, pa.string()),
            "variant": pa.array(self.variants, pa.string()),
            "end_length": pa.array(self.end_lengths),
            "finite": pa.array(self.finite),
        }
        for name, column in self._token_columns().items():
            columns[name] = pa.ListArray.from_arrays(offsets, pa.array(column))
        pq.write_table(pa.table(columns), path)

    @classmethod
    def load(cls, path: Path) -> "TokenScores":
        """Read what `save` wrote. Raises DataError if the file is not such a table."""
        try:
            table = pq.read_table(path).combine_chunks()
            sampled = [name for name in table.column_names if name.startswith(_SAMPLED)]
            lists = {name: table[name].combine_chunks() for name in (*TOKEN_COLUMNS, *sampled)}
            ids, subjects, variants = (tuple(table[n].to_pylist()) for n in ("id", "subject", "variant"))
        except (pa.ArrowException, KeyError, OSError) as error:
            raise DataError(f"{path}: not a table of token scores ({error}); score the model again") from error
        first = lists["logprob"]
        return cls(
            ids=ids,
            subjects=subjects,
            variants=variants,
            offsets=np.asarray(first.offsets, dtype=np.int64) - first.offsets[0].as_py(),
            end_lengths=np.asarray(table["end_length"].combine_chunks(), dtype=np.int64),
            finite=np.asarray(table["finite"].combine_chunks()),
            **{name: np.asarray(lists[name].flatten()) for name in TOKEN_COLUMNS},
            sampled={name.removeprefix(_SAMPLED): np.asarray(lists[name].flatten()) for name in sampled},
        )

    def equals(self, other: "TokenScores") -> bool:
        """Whether all fields are equal to the bit."""
        ours, theirs = self._token_columns(), other._token_columns()
        return (
            (self.ids, self.subjects, self.variants) == (other.ids, other.subjects, other.variants)
            and self.offsets.tobytes() == other.offsets.tobytes()
            and self.end_lengths.tobytes() == other.end_lengths.tobytes()
            and self.finite.tobytes() == other.finite.tobytes()
            and ours.keys() == theirs.keys()
            and all(column.tobytes() == theirs[name].tobytes() for name, column in ours.items())
        )

    def _token_columns(self) -> dict[str, NDArray[np.generic]]:
        fixed = {name: getattr(self, name) for name in TOKEN_COLUMNS}
        return fixed | {_SAMPLED + name: column for name, column in self.sampled.items()}
