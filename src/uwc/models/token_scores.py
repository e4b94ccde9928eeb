"""What one teacher-forced pass says of every answer token: small, stored, and all that the likelihood metrics need."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from uwc.errors import DataError

Floats = NDArray[np.float64]
_TOKEN_COLUMNS = ("logprob", "greedy", "mean_logprob", "var_logprob", "kl")


@dataclass(frozen=True, eq=False)
class TokenScores:
    """Scores of the labelled tokens of E examples, N tokens in all, stored flat.

    Attributes:
        ids: E example ids.
        subjects: E subjects; examples that share one are not independent.
        offsets: [E + 1]; example i owns tokens ``offsets[i]:offsets[i + 1]``.
        has_end: [E] whether an example's last token is its end-of-sequence token.
        logprob: [N] natural log of the probability of the true token.
        greedy: [N] whether the true token is the most likely one.
        mean_logprob: [N] mean of the log-probability under the model's own next-token distribution.
        var_logprob: [N] its variance.
        kl: [N] KL(reference || model) in nats, NaN where no reference was given.
    """

    ids: tuple[str, ...]
    subjects: tuple[str, ...]
    offsets: NDArray[np.int64]
    has_end: NDArray[np.bool_]
    logprob: NDArray[np.float32]
    greedy: NDArray[np.bool_]
    mean_logprob: NDArray[np.float32]
    var_logprob: NDArray[np.float32]
    kl: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def rows(self) -> NDArray[np.int64]:
        """[N] the example of each token."""
        return np.repeat(np.arange(len(self)), np.diff(self.offsets))

    @property
    def in_answer(self) -> NDArray[np.bool_]:
        """[N] True for answer tokens, False for end-of-sequence tokens."""
        mask = np.ones(int(self.offsets[-1]), dtype=bool)
        mask[self.offsets[1:][self.has_end] - 1] = False
        return mask

    def answer_lengths(self) -> NDArray[np.int64]:
        """[E] number of answer tokens, without the end-of-sequence token."""
        return np.diff(self.offsets) - self.has_end

    def mean(self, values: NDArray[np.generic], *, with_end: bool) -> Floats:
        """[E] mean of a token column over each example, in float64; NaN where an example has no token."""
        keep = np.ones(len(values), dtype=bool) if with_end else self.in_answer
        rows = self.rows[keep]
        total = np.bincount(rows, weights=values[keep].astype(np.float64), minlength=len(self))
        count = np.bincount(rows, minlength=len(self))
        mean: Floats = np.divide(total, count, out=np.full(len(self), np.nan), where=count > 0)
        return mean

    def select(self, indices: Sequence[int]) -> "TokenScores":
        """The scores of some examples, in the order given."""
        tokens = [np.arange(self.offsets[i], self.offsets[i + 1]) for i in indices]
        flat = np.concatenate(tokens) if tokens else np.zeros(0, dtype=np.int64)
        return TokenScores(
            ids=tuple(self.ids[i] for i in indices),
            subjects=tuple(self.subjects[i] for i in indices),
            offsets=np.concatenate([[0], np.cumsum([len(t) for t in tokens])]).astype(np.int64),
            has_end=self.has_end[list(indices)],
            **{name: getattr(self, name)[flat] for name in _TOKEN_COLUMNS},
        )

    def save(self, path: Path) -> None:
        """Write one row an example, token columns as lists, in Parquet."""
        offsets = pa.array(self.offsets.astype(np.int32))
        columns: dict[str, pa.Array] = {
            "id": pa.array(self.ids, pa.string()),
            "subject": pa.array(self.subjects, pa.string()),
            "has_end": pa.array(self.has_end),
        }
        for name in _TOKEN_COLUMNS:
            columns[name] = pa.ListArray.from_arrays(offsets, pa.array(getattr(self, name)))
        pq.write_table(pa.table(columns), path)

    @classmethod
    def load(cls, path: Path) -> "TokenScores":
        """Read what `save` wrote. Raises DataError if the file is not such a table."""
        try:
            table = pq.read_table(path).combine_chunks()
            lists = {name: table[name].combine_chunks() for name in _TOKEN_COLUMNS}
        except (pa.ArrowException, KeyError, OSError) as error:
            raise DataError(f"{path}: not a table of token scores ({error}); score the model again") from error
        first = lists["logprob"]
        return cls(
            ids=tuple(table["id"].to_pylist()),
            subjects=tuple(table["subject"].to_pylist()),
            offsets=np.asarray(first.offsets, dtype=np.int64) - first.offsets[0].as_py(),
            has_end=np.asarray(table["has_end"].combine_chunks()),
            **{name: np.asarray(column.flatten()) for name, column in lists.items()},
        )

    def equals(self, other: "TokenScores") -> bool:
        """Whether every field has the same bits."""
        arrays = [f.name for f in fields(self) if f.name not in ("ids", "subjects")]
        return (self.ids, self.subjects) == (other.ids, other.subjects) and all(
            getattr(self, name).tobytes() == getattr(other, name).tobytes() for name in arrays
        )
