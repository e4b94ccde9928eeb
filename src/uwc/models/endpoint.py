"""A system behind a server that speaks the OpenAI protocol: its settings, requests, retries and stored answers."""

import json
import os
import queue
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass as plain_dataclass
from dataclasses import field
from email.utils import parsedate_to_datetime
from importlib.util import find_spec
from pathlib import Path
from threading import Event, Thread
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple
from urllib.parse import urlsplit

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from uwc import progress
from uwc.data.example import Example
from uwc.data.prompts import PromptTemplate
from uwc.errors import ConfigError, EndpointError, UserError, listed, shortened
from uwc.io import NOT_IN_KEY, digest
from uwc.strict_numbers import StrictNumbers

if TYPE_CHECKING:
    from openai import OpenAI

KEY_VARIABLE = "OPENAI_API_KEY"
LONGEST_WAIT = 600.0
"""The most seconds that a server's Retry-After is waited for."""
LONGEST_PAUSE = 60.0
"""The most seconds between two tries that a server did not ask for."""
OPTIONS = "endpoint"
"""The section of the command line's settings of an endpoint."""
_OURS = (
    *("model", "messages", "prompt", "max_tokens", "temperature", "top_p", "seed", "stop", "stop_token_ids"),
    *("n", "stream"),
)
_RETRIED = (408, 409, 425, 429)
_PLAIN = PromptTemplate()


Concurrency = Annotated[int, Field(ge=1, le=1000)]
Seconds = Annotated[float, Field(gt=0)]
Retries = Annotated[int, Field(ge=0, le=100)]
Variable = Annotated[str, Field(min_length=1)]


@dataclass(frozen=True, config=ConfigDict(extra="forbid", allow_inf_nan=False))
class Endpoint(StrictNumbers):
    """A model behind a server that speaks the OpenAI protocol: vLLM, SGLang, llama.cpp or an API.

    The key is read from an environment variable at each run and is in no setting, result, file or message.

    Attributes:
        url: the base URL, which usually ends in ``/v1``.
        model: the model's name at the server.
        chat: whether to ask for chat completions, to which the server applies its chat template, or for completions of
            a plain prompt; "auto" takes chat completions if the server offers them for the model.
        system: the system message; none if empty.
        prompt: the plain prompt of completions; contains ``{question}``.
        max_new_tokens: the most tokens of an answer.
        temperature: of answers without an attack; 0 is greedy, None is the server's default.
        top_p: of answers without an attack; None is the server's default.
        seed: is sent with each request; None sends none, as is done where the server refuses it.
        stop: texts that end an answer, besides the model's own ends; by default of completions what stands before the
            question in `prompt` on a new line.
        extra: further fields of each request, such as ``{"chat_template_kwargs": {"enable_thinking": False}}``.
        concurrency: the most requests at a time.
        timeout: the most seconds of a request.
        retries: how often a failed request is repeated, after exponentially growing pauses with jitter, or after those
            that the server asks for.
        key_variable: the environment variable that has the key.

    Raises:
        ConfigError: the URL is none, or has a key in it; the prompt has no ``{question}``; `extra` has a field of
            another setting.
    """

    url: str
    model: Annotated[str, Field(min_length=1)]
    chat: bool | Literal["auto"] = "auto"
    system: str = ""
    prompt: str = _PLAIN.text
    max_new_tokens: Annotated[int, Field(ge=1, le=10**6)] = 64
    temperature: Annotated[float, Field(ge=0)] | None = 0.0
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    seed: Annotated[int, Field(ge=0, lt=2**63)] | None = 0
    stop: tuple[str, ...] | None = None
    extra: dict[str, Any] = field(default_factory=dict)
    concurrency: Concurrency = 8
    timeout: Seconds = 120.0
    retries: Retries = 8
    key_variable: Variable = KEY_VARIABLE

    def __post_init__(self) -> None:
        parts = _split(self.url)
        if parts is None or parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigError("endpoint.url: give the server's URL, such as http://localhost:8000/v1")
        if parts.username or parts.password or parts.query or parts.fragment:  # may be secret: not repeated
            raise ConfigError(
                "endpoint.url: it has a user name or parameters, which would get into files; give the plain URL, and "
                f"the key in the environment variable {self.key_variable}"
            )
        for name in self.extra:
            if name in _OURS:
                raise ConfigError(f"endpoint.extra: {name!r} is set by uwc itself; remove it")
            if "key" in name.lower() or "authorization" in name.lower():
                raise ConfigError(
                    f"endpoint.extra: {name!r}: keys are given in the environment variable {self.key_variable} only"
                )
        _ = self.template

    @property
    def base(self) -> str:
        """The URL without a slash at its end."""
        return self.url.rstrip("/")

    @property
    def name(self) -> str:
        """Model and server, for messages and results."""
        return f"{self.model} at {self.base}"

    @property
    def template(self) -> PromptTemplate:
        """The prompt template of completions."""
        return PromptTemplate(text=self.prompt, system=self.system, chat=False, stop=self.stop)


def endpoint_named(text: str, **settings: Any) -> Endpoint | None:
    """The endpoint that ``URL#NAME`` names, with other settings; None for a text that has no URL.

    Raises:
        ConfigError: there is a URL and no name of a model, or the URL is not as it should be.
    """
    if "://" not in text:
        return None
    url, _, name = text.partition("#")
    if not name:
        raise ConfigError("write the model's name at the server after its URL: http://localhost:8000/v1#my-model")
    return Endpoint(url, name, **settings)


def _split(url: str) -> Any:
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        return None
    return parts


@plain_dataclass(frozen=True)
class Served:
    """How a model's greedy answers are asked for from a server that holds it.

    Attributes:
        model: the model's name at the server.
        extra: further fields of each request.
        check: the number of questions of the check.
        margin: the most by which the logit of a token of the server's may be below the greatest one, in nats.
        endpoint: the server.
        options: the section of its settings, for messages.
    """

    model: str
    extra: Mapping[str, Any]
    check: int
    margin: float
    endpoint: Endpoint = field(metadata=NOT_IN_KEY)
    options: str = field(default=OPTIONS, metadata=NOT_IN_KEY)


class Draw(NamedTuple):
    """How one answer is sampled.

    Attributes:
        number: of the sample, from 0.
        temperature, top_p: of the sampling.
        seed: of the draw.
    """

    number: int
    temperature: float
    top_p: float
    seed: int


class Prompt(NamedTuple):
    """A prompt that is sent as token ids, in place of one that is made by the endpoint's settings.

    Attributes:
        tokens: the ids.
        ends: the tokens that end the answer.
        stop: the texts that end it.
        max_new_tokens: its most tokens.
    """

    tokens: tuple[int, ...]
    ends: tuple[int, ...]
    stop: tuple[str, ...]
    max_new_tokens: int


class Request(NamedTuple):
    """A question as an attack puts it, and how its answer is sampled; by the endpoint's own settings if `draw` is None.

    A text at the beginning of the model's turn (`Example.prefill`) can be asked for in completions only. A `prompt` is
    sent as it is, in completions, and is independent of the server's URL: its answer is kept where a server moves.
    `max_new_tokens` is the most tokens of the answer, where that is not the endpoint's own setting.
    """

    example: Example
    draw: Draw | None = None
    prompt: Prompt | None = None
    max_new_tokens: int | None = None


class Answer(NamedTuple):
    """An answer of a server.

    Attributes:
        text: its text, without surrounding white space; after a `Prompt` with it.
        finish: why it ended: "stop", "length", "content_filter" or another word of the server's.
        chat: whether it is of a chat completion.
    """

    text: str
    finish: str
    chat: bool


class StoredAnswers:
    """Answers by key in a JSONL file, to which each is appended as soon as it is there; in memory without a file.

    The half line that a killed process may have left at the end is removed, and lines that cannot be read are ignored.

    Args:
        path: the file.

    Attributes:
        earlier: the keys of the answers of earlier runs.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.path = path
        self._found: dict[str, Answer] = {}
        if path is not None and path.is_file():
            content = path.read_bytes()
            whole = content[: content.rfind(b"\n") + 1]
            if len(whole) < len(content):
                os.truncate(path, len(whole))
            for line in whole.splitlines():
                try:
                    row = json.loads(line)
                    self._found[str(row["key"])] = Answer(str(row["text"]), str(row["finish"]), bool(row["chat"]))
                except (ValueError, KeyError, TypeError):
                    continue
        self.earlier = frozenset(self._found)

    def __contains__(self, key: str) -> bool:
        return key in self._found

    def __getitem__(self, key: str) -> Answer:
        return self._found[key]

    def add(self, key: str, answer: Answer) -> None:
        """Add an answer, also to the file."""
        self._found[key] = answer
        if self.path is not None:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"key": key, **answer._asdict()}, ensure_ascii=False) + "\n")


def require_openai() -> None:
    """Raise UserError if the package openai is not installed."""
    if find_spec("openai") is None:
        raise UserError("an endpoint needs the package openai; install it with: pip install 'uwc[endpoint]'")


class Conversation:
    """Asks one endpoint, and keeps its answers.

    Args:
        endpoint: the endpoint.
        answers: where answers are looked up and kept.
        sleep: waits for a number of seconds, in place of a real clock.
        options: the section of its settings, for messages.

    Attributes:
        resumed: how many of the requests had an answer of an earlier run.

    Raises:
        UserError: the package openai is not installed.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        answers: StoredAnswers,
        *,
        sleep: Callable[[float], None] | None = None,
        options: str = OPTIONS,
    ) -> None:
        require_openai()
        self.endpoint, self.answers, self.resumed = endpoint, answers, 0
        self._chat = None if endpoint.chat == "auto" else endpoint.chat
        self._sleep, self._stopped, self._options = sleep, Event(), options
        self._renamed: dict[str, str | None] = {}
        self._answered = False
        self._client: OpenAI | None = None

    def close(self) -> None:
        """Close all connections."""
        if self._client is not None:
            self._client.close()
            self._client = None

    @property
    def chat(self) -> bool:
        """Whether chat completions are asked for; known once there is an answer."""
        return bool(self._chat)

    def ask(self, requests: Sequence[Request], what: str) -> list[Answer]:
        """The answers to the requests, in their order; only those are asked that are not kept.

        Args:
            requests: the questions.
            what: the name of the task, for the bar.

        Raises:
            EndpointError: the server refuses a request, or it fails after all retries; what was answered is kept.
        """
        keys = [self._key(request) for request in requests]
        self.resumed += sum(key in self.answers.earlier for key in keys)
        missing = {key: request for key, request in zip(keys, requests, strict=True) if key not in self.answers}
        for key in keys:
            if self._chat is None and key in self.answers:
                self._chat = self.answers[key].chat
        with progress.bar(what, total=len(requests)) as advance:
            if any(key not in missing for key in keys):
                advance(sum(key not in missing for key in keys))
            times = Counter(keys)
            for key, answer in self._all(missing, advance):
                self.answers.add(key, answer)
                advance(times[key])
        return [self.answers[key] for key in keys]

    def prompt(self, example: Example) -> str:
        """The prompt as sent: the plain text, or the turns of the conversation, each after its role."""
        if not self.chat:
            return self.endpoint.template.plain(example)
        return "\n\n".join(f"{role}: {text}" for role, text in self.endpoint.template.turns(example))

    def _key(self, request: Request) -> str:
        """SHA-256 of everything that the answer depends on; nothing of the key and of pauses is in it."""
        endpoint, (example, draw, prompt, most) = self.endpoint, request
        if prompt is not None:
            return digest({"model": endpoint.model, "extra": endpoint.extra, "prompt": prompt._asdict()})
        settings = ("chat", "system", "prompt", "max_new_tokens", "temperature", "top_p", "seed", "stop", "extra")
        return digest(
            {
                "url": endpoint.base,
                "model": endpoint.model,
                "settings": {name: getattr(endpoint, name) for name in settings}
                | ({} if most is None else {"max_new_tokens": most}),
                "turns": endpoint.template.turns(example),
                "prefill": example.prefill,
                "draw": None if draw is None else draw._asdict(),
            }
        )

    def _all(self, missing: Mapping[str, Request], advance: progress.Advance) -> Iterator[tuple[str, Answer]]:
        """Ask the requests, the first by itself, as it shows what the server accepts."""
        waiting: queue.SimpleQueue[tuple[str, Request]] = queue.SimpleQueue()
        for item in missing.items():
            waiting.put(item)
        done: queue.SimpleQueue[tuple[str, Answer | BaseException | str]] = queue.SimpleQueue()

        def work(alone: bool) -> None:
            while not self._stopped.is_set():
                try:
                    key, request = waiting.get_nowait()
                except queue.Empty:
                    return
                try:
                    done.put((key, self._tried(key, request, done)))
                except BaseException as error:
                    done.put((key, error))
                if alone:
                    return

        def start() -> None:
            alone = not self._answered
            for _ in range(min(1 if alone else self.endpoint.concurrency, left)):
                Thread(target=work, args=(alone,), daemon=True, name="uwc-endpoint").start()

        left, retries = len(missing), 0
        self._stopped.clear()
        try:
            start()
            while left:
                key, found = done.get()
                if isinstance(found, str):
                    retries += 1
                    if retries == 1:
                        progress.note(f"{self.endpoint.name}: {found}")
                    advance(0, note=f"{retries} retries, the last after: {shortened(found, 60)}")
                    continue
                if isinstance(found, BaseException):
                    raise found
                left -= 1
                if not self._answered:
                    self._answered = True
                    start()
                yield key, found
        finally:
            self._stopped.set()

    def _tried(self, key: str, request: Request, told: "queue.SimpleQueue[tuple[str, Any]]") -> Answer:
        """The answer to a request after as many retries as it needs."""
        jitter = random.Random(f"{self.endpoint.seed}/{key}")
        for number in range(self.endpoint.retries + 1):
            try:
                return self._answer(request)
            except _Again as failed:
                last = failed
            most = self.endpoint.retries if self._answered or not last.unreachable else min(2, self.endpoint.retries)
            if number >= most or self._stopped.is_set():
                break
            if last.wait > LONGEST_WAIT:
                raise EndpointError(
                    f"{self.endpoint.name}: {last} and asks to wait {last.wait:.0f} s; {self._remedy} after that"
                ) from None
            pause = max(min(0.5 * 2**number, LONGEST_PAUSE) * jitter.uniform(0.5, 1.0), last.wait)
            told.put((key, f"{last}; trying again in {pause:.1f} s ({number + 1} of {most})"))
            (self._sleep or self._stopped.wait)(pause)
        remedy = "start the server, or correct the URL, which usually ends in /v1" if last.unreachable else self._remedy
        raise EndpointError(f"{self.endpoint.name}: {last}, {number + 1} times; {remedy}") from None

    @property
    def _remedy(self) -> str:
        kept = self.answers.path
        if kept is None:
            return "no answer is kept without an output folder: give one, and run the same command again"
        return f"the answers that came are in {kept}: run the same command again"

    def _answer(self, request: Request) -> Answer:
        """One try, or two if it has to be found out whether the server offers chat completions."""
        if self._chat is not None:
            return self._posted(request, chat=self._chat)
        try:
            answer = self._posted(request, chat=True)
        except _Refused as refused:
            if not refused.no_chat:
                raise
            answer = self._posted(request, chat=False)
            progress.note(f"{self.endpoint.name}: no chat completions ({refused.reason}); completions are asked for")
        self._chat = answer.chat
        return answer

    def _posted(self, request: Request, *, chat: bool) -> Answer:
        """The answer to one POST. Raises _Again for a failure that may pass, and _Refused for another one."""
        import openai

        path = "/chat/completions" if chat else "/completions"
        body = self._body(request, chat=chat)
        try:
            found = self._open().post(path, cast_to=object, body=body)
        except openai.APIStatusError as error:
            status, reason = error.status_code, self._reason(error)
            if _code(error) == "content_filter":
                return Answer("", "content_filter", chat)
            if status in _RETRIED or status >= 500:
                raise _Again(f"the server answers {status} ({reason})", _seconds(error.response.headers)) from None
            if status in (400, 422) and self._adapted(body, reason):
                return self._posted(request, chat=chat)
            raise _Refused(self._refusal(status, reason, request), status, reason) from None
        except openai.APITimeoutError:
            raise _Again(f"no answer within {self.endpoint.timeout:g} s ({self._options}.timeout)") from None
        except openai.APIConnectionError as error:
            why = shortened(self._clean(str(error.__cause__ or error)), 200)
            raise _Again(f"no connection ({why})", unreachable=not self._answered) from None
        except (openai.APIResponseValidationError, ValueError):
            raise _Again("the answer is not JSON") from None
        return _read(found, chat=chat, whole=request.prompt is not None)

    def _body(self, request: Request, *, chat: bool) -> dict[str, Any]:
        endpoint, (example, draw, prompt, most) = self.endpoint, request
        template = endpoint.template
        if prompt is not None:
            asked: dict[str, Any] = {"prompt": list(prompt.tokens)}
        elif chat:
            asked = {"messages": [{"role": r, "content": t} for r, t in template.turns(example)]}
        else:
            asked = {"prompt": template.plain(example)}
        settings = {
            "max_tokens": (most or endpoint.max_new_tokens) if prompt is None else prompt.max_new_tokens,
            "temperature": endpoint.temperature if draw is None else draw.temperature,
            "top_p": endpoint.top_p if draw is None else draw.top_p,
            "seed": endpoint.seed if draw is None or endpoint.seed is None else draw.seed,
            "stop": list(template.stop_texts(chat=chat) if prompt is None else prompt.stop) or None,
            "stop_token_ids": (list(prompt.ends) or None) if prompt is not None else None,
        }
        named = {self._renamed.get(name, name): value for name, value in settings.items() if value is not None}
        given = {name: value for name, value in named.items() if name is not None}
        return {"model": endpoint.model, **asked, **given, **endpoint.extra}

    def _adapted(self, body: Mapping[str, Any], reason: str) -> bool:
        """Whether the server refuses a field that can be renamed or left out, which is done from now on."""
        if "max_tokens" in body and "max_completion_tokens" in reason:
            self._renamed["max_tokens"] = "max_completion_tokens"
            return True
        if "seed" in body and "seed" in reason.lower():
            self._renamed["seed"] = None
            progress.note(f"{self.endpoint.name}: takes no seed ({reason}); none is sent")
            return True
        if "stop_token_ids" in body and "stop_token_ids" in reason:
            self._renamed["stop_token_ids"] = None
            progress.note(f"{self.endpoint.name}: takes no tokens that end answers ({reason}); its own are used")
            return True
        return False

    def _refusal(self, status: int, reason: str, request: Request) -> str:
        """One line for a request that the server refuses."""
        where = f"{self.endpoint.name}: the server answers {status} ({reason})"
        variable = self.endpoint.key_variable
        if status == 401:
            return f"{where}; set the environment variable {variable} to a valid key ({self._options}.key_variable)"
        if status == 403:
            return f"{where}; the key in {variable} has no access to this model: take another key or {self._name}"
        if status in (404, 405):
            return f"{where}; {self._what_is_there()}"
        if request.prompt is not None:
            return (
                f"{where} to question {request.example.id!r}; the server must offer completions of prompts that are "
                f"token ids, as vLLM, SGLang and llama.cpp do, with a context of {len(request.prompt.tokens)} + "
                f"{request.prompt.max_new_tokens} tokens"
            )
        return (
            f"{where} to question {request.example.id!r}; change the setting that it names: --set "
            f"{self._options}.KEY=VALUE, with null for a field that is not to be sent"
        )

    @property
    def _name(self) -> str:
        """The setting of the model's name."""
        return "--model" if self._options == OPTIONS else f"{self._options}.model"

    def _what_is_there(self) -> str:
        """The models of the server, for a message."""
        import openai

        try:
            found = self._open().get("/models", cast_to=object)
            models = [str(m["id"]) for m in found["data"]]  # type: ignore[index]
        except (openai.OpenAIError, ValueError, LookupError, TypeError):
            return "there is no server of the OpenAI protocol: correct the URL, which usually ends in /v1"
        if self.endpoint.model in models:
            if self._options != OPTIONS:
                return "the server has the model, and no completions, which are asked for; take another server"
            return "the server has the model, and not this way of asking: try endpoint.chat=true or false"
        return f"its models: {listed(models, 200) or 'none'}; give one as {self._name}"

    def _reason(self, error: Any) -> str:
        """The server's own words for an error, in one line."""
        body = error.body
        while isinstance(body, Mapping):
            body = next((body[name] for name in ("message", "detail", "error") if body.get(name)), "")
        text = body if isinstance(body, str) else ""
        words = " ".join((text or error.response.reason_phrase or "no reason given").split())
        return shortened(self._clean(words), 200)

    def _clean(self, text: str) -> str:
        """The text without the key."""
        key = os.environ.get(self.endpoint.key_variable, "").strip()
        return text.replace(key, "***") if key else text

    def _open(self) -> "OpenAI":
        """The client; it does not retry, and reaches this machine without a proxy."""
        if self._client is None:
            import openai

            host = _split(self.endpoint.base).hostname
            self._client = openai.OpenAI(
                api_key=os.environ.get(self.endpoint.key_variable, "").strip() or "none",
                base_url=self.endpoint.base,
                timeout=self.endpoint.timeout,
                max_retries=0,
                http_client=openai.DefaultHttpxClient(trust_env=host not in ("localhost", "127.0.0.1", "::1")),
            )
        return self._client


class _Again(Exception):
    """A failure that may pass.

    Args:
        reason: in words.
        wait: the seconds that the server asks to wait.
        unreachable: whether there may be no server at all.
    """

    def __init__(self, reason: str, wait: float = 0.0, *, unreachable: bool = False) -> None:
        super().__init__(reason)
        self.wait, self.unreachable = wait, unreachable


class _Refused(EndpointError):
    """A request that the server refuses."""

    def __init__(self, message: str, status: int, reason: str) -> None:
        super().__init__(message)
        self.reason = reason
        words = reason.lower().replace("_", " ")
        said = any(word in words for word in ("chat template", "chat completion", "chat model"))
        self.no_chat = status in (404, 405, 501) or (status in (400, 422) and said)

    def __reduce__(self) -> tuple[Any, ...]:
        """As a plain `EndpointError`, for another process."""
        return EndpointError, self.args[:1], self.__dict__


def _read(found: Any, *, chat: bool, whole: bool = False) -> Answer:
    """The answer in a response, whose form is not taken for granted; `whole` with the white space around it."""
    choices = found.get("choices") if isinstance(found, Mapping) else None
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], Mapping):
        raise _Again("the answer has no choice in it")
    choice = choices[0]
    said = choice.get("message") if chat else choice
    if not isinstance(said, Mapping):
        raise _Again("the answer has no message in it")
    text = said.get("content" if chat else "text")
    if isinstance(text, list):
        text = "".join(str(part.get("text") or "") for part in text if isinstance(part, Mapping))
    if text is None:  # a refusal has a field of its own, and nothing may be left of a long thought
        text = said.get("refusal") or ""
    if not isinstance(text, str):
        raise _Again("the answer is no text")
    text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return Answer(text if whole else text.strip(), str(choice.get("finish_reason") or ""), chat)


def _code(error: Any) -> str:
    body = error.body
    if isinstance(body, Mapping) and isinstance(body.get("error"), Mapping):
        body = body["error"]
    return str(body.get("code") or "") if isinstance(body, Mapping) else ""


def _seconds(headers: Any) -> float:
    """The seconds that Retry-After asks to wait: a number or a date; 0 without it."""
    given = str(headers.get("retry-after") or "").strip()
    if not given:
        return 0.0
    try:
        return max(float(given), 0.0)
    except ValueError:
        pass
    try:
        return max(parsedate_to_datetime(given).timestamp() - time.time(), 0.0)
    except (ValueError, TypeError):
        return 0.0
