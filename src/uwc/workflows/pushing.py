"""Uploads of models with their cards, and of results, to the hub of Hugging Face."""

import json
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, Literal, TypeVar

from uwc import __version__, progress
from uwc.errors import ConfigError, UserError, shortened
from uwc.paths import path_names, renamed, renaming, texts_of
from uwc.results import RESULTS, Result, RunRecord, StudyResults, UnlearnResult

RepoType = Literal["model", "dataset"]
CARD = "README.md"
ANSWERS = ("answers.*", "report.*")
"""The files with questions and answers."""

LARGEST_TEXT = 1_000_000
"""The largest configuration, in bytes; vocabularies are larger, and have no paths."""

Content = Path | bytes
R = TypeVar("R", bound=Result)


@dataclass(frozen=True)
class Pushed:
    """An upload.

    Attributes:
        repo: the repository, ``OWNER/NAME``.
        repo_type: its type.
        private: whether it is made as a private one.
        files: file -> its size in bytes.
        url: the commit; empty before the upload.
    """

    repo: str
    repo_type: RepoType
    private: bool
    files: Mapping[str, int]
    url: str = ""


def push(
    run: str | Path,
    repo: str,
    *,
    repo_type: RepoType | None = None,
    private: bool = True,
    message: str | None = None,
    revision: str | None = None,
    with_answers: bool = False,
    dry_run: bool = False,
    shown: Callable[[Pushed], None] | None = None,
) -> Pushed:
    """Upload a model with its card, or results, to the hub of Hugging Face, in one commit.

    Of a model its weights (safetensors), configuration, tokenizer, card and training log are uploaded; of results their
    file, and of a study the report and the results in Markdown, made again without answers. Absolute paths are replaced
    by names. The token is that of ``hf auth login`` or of ``HF_TOKEN``.

    Args:
        run: a folder that `uwc.calibrate` (``save``), `uwc.unlearn`, `uwc.compare`, `uwc.run_study`, `uwc.score` or
            `uwc.attack` wrote.
        repo: ``OWNER/NAME``, or a name of your own; made if there is none.
        repo_type: "model" or "dataset"; by default a model is one, and results are a data set.
        private: make it private; an existing public repository is refused, unless this is False.
        message: the message of the commit.
        revision: the branch, which is made if there is none.
        with_answers: also upload ``answers.parquet`` and the report with answers, which hold the questions, the texts
            that were to be forgotten, and all that the models say.
        dry_run: only list the files; without a network.
        shown: called with the files before the upload.

    Raises:
        UserError: the folder has nothing to upload, or the hub cannot be reached or refuses; nothing is committed then.
    """
    folder = Path(run)
    kind, files = _files(folder, with_answers=with_answers)
    sizes = {name: c.stat().st_size if isinstance(c, Path) else len(c) for name, c in files.items()}
    if repo_type not in (None, "model", "dataset"):
        raise ConfigError(f"--repo-type {repo_type!r}: give model or dataset")
    planned = Pushed(repo, repo_type or kind, private, sizes)
    if shown is not None:
        shown(planned)
    if dry_run:
        return planned
    try:
        return _upload(planned, files, message or f"Upload with uwc {__version__}", revision, any_type=bool(repo_type))
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"cannot upload to {repo}: {_in_words(error)}; nothing is committed") from error


def _files(folder: Path, *, with_answers: bool) -> tuple[RepoType, dict[str, Content]]:
    """What the folder is, and its files that are uploaded."""
    from uwc.models.checkpoint_files import ADAPTER, CONFIG, CONTRAST, MODEL_FILES

    if not folder.is_dir():
        raise ConfigError(f"{folder}: there is no such folder; give one that uwc wrote")
    if (folder / CONTRAST).is_file():
        raise ConfigError(f"{folder} is a contrast of two models, which only uwc reads; it cannot be uploaded")
    if any((folder / name).is_file() for name in (CONFIG, ADAPTER)):
        return "model", _model_files(folder, (*MODEL_FILES, "*.py"))
    found = [kind for kind in RESULTS.values() if (folder / kind.FILE).is_file()]
    if not found:
        names = ", ".join(kind.FILE for kind in RESULTS.values())
        raise ConfigError(
            f"{folder} has neither a model ({CONFIG}, {ADAPTER}) nor results ({names}); give a folder that uwc wrote"
        )
    files = _result_files(folder, [kind.load(folder / kind.FILE) for kind in found], with_answers=with_answers)
    return "dataset", files


def _model_files(folder: Path, patterns: tuple[str, ...]) -> dict[str, Content]:
    from uwc.workflows.model_card import unlearned_card

    log = folder / UnlearnResult.FILE
    named = [p for p in sorted(folder.iterdir()) if any(fnmatch(p.name, pattern) for pattern in patterns)]
    paths = [inner for p in named for inner in ([p] if p.is_file() else sorted(p.rglob("*"))) if inner.is_file()]
    if not any(path.suffix == ".safetensors" for path in paths):
        raise ConfigError(f"{folder} has no weights in safetensors; save it with save_pretrained of transformers")
    files: dict[str, Content] = {p.relative_to(folder).as_posix(): _without_paths(p, folder) for p in paths}
    if log.is_file():
        try:
            result = _renamed_paths(UnlearnResult.load(log), folder)
            files |= {UnlearnResult.FILE: result.to_json().encode(), CARD: unlearned_card(result).encode()}
        except UserError as error:
            progress.warn(f"the log of the training is left out, and no card is made of it: {error}")
    if (folder / CARD).is_file():
        files[CARD] = _without_paths(folder / CARD, folder)
    return files


def _result_files(folder: Path, results: list[Result], *, with_answers: bool) -> dict[str, Content]:
    """The files of results; those of a study are made again, without answers and absolute paths."""
    from uwc.reports.markdown import results_markdown
    from uwc.reports.page import write_page
    from uwc.workflows.model_card import results_card

    files: dict[str, Content] = {}
    texts = []
    for result in (_renamed_paths(found, folder) for found in results):
        files[result.FILE] = result.to_json().encode()
        texts.append(f"# {result.FILE}\n\n```\n{result!r}\n```\n")
        if isinstance(result, StudyResults):
            texts[-1] = results_markdown(result)
            files["results.md"] = texts[-1].encode()
            record = folder / "run.json"
            run = RunRecord.model_validate_json(record.read_bytes()) if record.is_file() else RunRecord()
            with tempfile.TemporaryDirectory() as made:
                write_page(result, run, Path(made) / "report.html")
                files["report.html"] = (Path(made) / "report.html").read_bytes()
    named = [path for pattern in ANSWERS for path in sorted(folder.glob(pattern)) if path.is_file()]
    if with_answers:
        files |= {path.name: path for path in named}
    if with_answers and "answers.parquet" not in files:
        progress.warn(f"{folder} has no answers.parquet")
    if not with_answers and (folder / "answers.parquet").is_file():
        progress.note("answers are left out; --with-answers uploads them")
    files[CARD] = results_card(results[0], "\n\n".join(texts), answers="answers.parquet" in files).encode()
    return files


def _renamed_paths(result: R, folder: Path) -> R:
    """A result without absolute paths."""
    without = result.without_paths(folder)
    return without.model_copy(update={"paths": {**result.paths, **without.paths}})


def _without_paths(path: Path, folder: Path) -> Content:
    """A text file without the absolute paths in it; any other as it is."""
    if path.suffix not in (".json", ".md") or path.stat().st_size > LARGEST_TEXT:
        return path
    text = path.read_text(encoding="utf-8")
    try:
        value = json.loads(text) if path.suffix == ".json" else text
    except ValueError:
        return path
    changed = renamed(value, renaming(path_names(texts_of(value), folder)))
    if changed == value:
        return path
    return (changed if isinstance(changed, str) else json.dumps(changed, indent=2, ensure_ascii=False) + "\n").encode()


def _upload(
    planned: Pushed, files: Mapping[str, Content], message: str, revision: str | None, *, any_type: bool
) -> Pushed:
    from huggingface_hub import CommitOperationAdd, HfApi, get_token

    if get_token() is None:
        raise UserError("there is no token of the hub; log in with: hf auth login, or set HF_TOKEN")
    api = HfApi(library_name="uwc", library_version=__version__)
    repo = planned.repo if "/" in planned.repo else f"{api.whoami()['name']}/{planned.repo}"
    kind = planned.repo_type
    access = _access(api, repo, kind)
    other = "dataset" if kind == "model" else "model"
    if access is None and not any_type and _access(api, repo, other) is not None:
        raise UserError(
            f"{repo} is a {other} repository, and this goes to one of the type {kind}; give another name, or "
            f"--repo-type {kind} for one of the same name"
        )
    if access == "public" and planned.private:
        raise UserError(f"{repo} exists and is public; give --public (in Python private=False) to upload there")
    if access is None:
        api.create_repo(repo, repo_type=kind, private=planned.private, exist_ok=True)
    if revision is not None:
        api.create_branch(repo, repo_type=kind, branch=revision, exist_ok=True)
    operations = [CommitOperationAdd(name, content) for name, content in files.items()]
    done = api.create_commit(repo, operations, commit_message=message, repo_type=kind, revision=revision)
    private = planned.private if access is None else access == "private"
    return Pushed(repo, kind, private, planned.files, str(done.commit_url))


def _access(api: Any, repo: str, kind: str) -> Literal["private", "public"] | None:
    """Who may see a repository; None if there is none of this type."""
    from huggingface_hub.errors import RepositoryNotFoundError

    try:
        return "private" if api.repo_info(repo, repo_type=kind).private else "public"
    except RepositoryNotFoundError:
        return None


_STATUS = {
    401: "the token is not valid (401); log in again with: hf auth login",
    403: "the token may not write there (403); use one with write access",
    404: "there is no such repository or branch, or the token may not see it (404)",
    413: "a file is too large for the hub (413)",
    429: "too many requests (429); try again later",
}


def _in_words(error: BaseException) -> str:
    """The cause of a failed upload in one line."""
    causes = list(_causes(error))
    for cause in causes:
        status = getattr(getattr(cause, "response", None), "status_code", None)
        if status in _STATUS:
            return _STATUS[status]
        if status is not None and status >= 500:
            return f"the hub has a fault ({status}); try again later"
    last: Any = causes[-1]
    return shortened(" ".join(f"{type(last).__name__}: {last}".split()), 300)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
