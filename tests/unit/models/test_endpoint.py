"""An endpoint is asked as often as needed and no more, within its limits, and its key stays where it is."""

import json
from collections.abc import Iterator
from contextlib import closing
from email.utils import formatdate
from pathlib import Path
from threading import Barrier
from typing import Any

import pytest
from tests.helpers.openai_server import MODEL, Fault, Served, serving

from uwc.data.example import Example
from uwc.errors import ConfigError, EndpointError
from uwc.models.endpoint import Conversation, Draw, Endpoint, Request, StoredAnswers, endpoint_named

KEY = "sk-very-secret-0123"


def questions(count: int) -> list[Request]:
    return [Request(Example(id=str(i), question=f"What is {i}?", answer="a")) for i in range(count)]


@pytest.fixture
def server() -> Iterator[Served]:
    """A server that repeats the question."""
    with serving(
        lambda body: f"You ask: {body['messages'][-1]['content'] if 'messages' in body else body['prompt']}"
    ) as s:
        yield s


def asked(
    server: Served,
    requests: list[Request],
    *,
    file: Path | None = None,
    pauses: list[float] | None = None,
    **settings: Any,
) -> list[str]:
    endpoint = Endpoint(server.url, settings.pop("model", MODEL), **settings)
    waited = [] if pauses is None else pauses
    with closing(Conversation(endpoint, StoredAnswers(file), sleep=waited.append)) as conversation:
        return [answer.text for answer in conversation.ask(requests, "ask")]


def test_answers_are_in_the_order_of_the_questions(server: Served) -> None:
    found = asked(server, questions(20), concurrency=5)
    assert found == [f"You ask: What is {i}?" for i in range(20)]
    assert sorted(server.said) == sorted(f"What is {i}?" for i in range(20))


def test_no_more_requests_are_open_at_a_time_than_allowed(server: Served) -> None:
    """After the first, which is asked alone, answers come only when three requests are there, and six follow."""
    three = Barrier(3, timeout=20)
    server.waits = lambda: three.wait() if len(server.asked) > 1 else None
    assert len(asked(server, questions(7), concurrency=3)) == 7
    assert server.most == 3


@pytest.mark.parametrize(
    "fault",
    [
        Fault(500), Fault(503, "<html>"), Fault(408), Fault(409), Fault(429, {"error": {"message": "slow down"}}),
        Fault(None), Fault(200, "{ not JSON"), Fault(200, "<html>", {"Content-Type": "text/html"}),
        Fault(200, {"choices": []}), Fault(200, {"choices": [{"index": 0}]}), Fault(200, [1]),
    ],
    ids=["500", "503", "408", "409", "429", "dropped", "malformed", "html", "no-choice", "no-message", "list"],
)  # fmt: skip
def test_a_failure_that_may_pass_is_retried_after_a_pause(server: Served, fault: Fault) -> None:
    server.faults.extend([None, fault])
    pauses: list[float] = []
    assert asked(server, questions(2), pauses=pauses, concurrency=1)[1] == "You ask: What is 1?"
    assert len(server.asked) == 3
    assert len(pauses) == 1 and 0.25 <= pauses[0] <= 0.5


def test_a_slow_answer_is_given_up_and_asked_for_again(server: Served) -> None:
    late = Barrier(2, timeout=20)
    server.faults.append(Fault(500, wait=late.wait))
    pauses: list[float] = []
    assert asked(server, questions(1), pauses=pauses, timeout=0.1) == ["You ask: What is 0?"]
    assert len(server.asked) == 2 and len(pauses) == 1
    late.wait()


def test_pauses_double_up_to_a_limit_with_the_same_jitter_in_each_run(server: Served) -> None:
    runs: list[list[float]] = []
    for _ in range(2):
        server.faults.extend([None] + [Fault(503)] * 9)
        runs.append([])
        asked(server, questions(2), pauses=runs[-1], retries=9, concurrency=1)
    assert runs[0] == runs[1]
    for pause, longest in zip(runs[0], [0.5, 1, 2, 4, 8, 16, 32, 60, 60], strict=True):
        assert longest / 2 <= pause <= longest
    assert len({pause / longest for pause, longest in zip(runs[0], [0.5, 1, 2, 4, 8], strict=False)}) == 5


def test_the_server_may_ask_for_a_longer_pause(server: Served) -> None:
    in_2100 = formatdate(4102444800, usegmt=True)
    server.faults.extend([Fault(429, headers={"Retry-After": "7"})])
    pauses: list[float] = []
    asked(server, questions(1), pauses=pauses)
    assert pauses == [7.0]
    server.faults.extend([Fault(429, headers={"Retry-After": in_2100})])
    with pytest.raises(EndpointError, match=r"429.*asks to wait"):
        asked(server, questions(1))


def test_after_all_retries_the_error_names_the_server_and_keeps_the_rest(server: Served, tmp_path: Path) -> None:
    file = tmp_path / "answers.jsonl"
    server.faults.extend([None] + [Fault(502, {"error": {"message": "bad\ngateway"}})] * 3)
    with pytest.raises(EndpointError) as failed:
        asked(server, questions(2), file=file, retries=2, concurrency=1)
    assert server.url in str(failed.value) and "502 (bad gateway), 3 times" in str(failed.value)
    assert asked(server, questions(2), file=file)[0] == "You ask: What is 0?"
    assert server.said == ["What is 0?"] + 4 * ["What is 1?"]


def test_without_a_server_the_error_says_so_soon() -> None:
    with serving(lambda body: "") as gone:
        pass
    pauses: list[float] = []
    with pytest.raises(EndpointError, match=f"{gone.url}.*no connection.*start the server"):
        asked(gone, questions(3), pauses=pauses)
    assert len(pauses) == 2


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (Fault(400, {"error": {"message": "temperature must be 1"}}), r"400 \(temperature must be 1\).*--set endpoint"),
        (Fault(401, {"error": {"message": f"bad key {KEY}"}}), r"401 \(bad key \*\*\*\).*environment variable UWC_KEY"),
        (Fault(403, {"detail": "no"}), r"403 \(no\).*--model"),
        (Fault(404, {"message": "model"}), r"404 \(model\).*endpoint.chat"),
        (Fault(422, "broken"), "422"),
    ],
    ids=["400", "401", "403", "404", "422"],
)
def test_a_refusal_is_one_line_at_once(
    server: Served, fault: Fault, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UWC_KEY", KEY)
    server.faults.append(fault)
    pauses: list[float] = []
    with pytest.raises(EndpointError, match=words) as refused:
        asked(server, questions(3), pauses=pauses, chat=True, key_variable="UWC_KEY")
    assert server.url in str(refused.value) and "\n" not in str(refused.value)
    assert not pauses and len(server.asked) == 1


def test_an_unknown_model_and_a_wrong_path_are_told_apart(server: Served) -> None:
    with pytest.raises(EndpointError, match=f"its models: {MODEL}"):
        asked(server, questions(1), model="other")
    server.url = server.url.removesuffix("/v1")
    with pytest.raises(EndpointError, match="usually ends in /v1"):
        asked(server, questions(1))


def test_the_key_is_sent_and_nowhere_else(
    server: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    file = tmp_path / "answers.jsonl"
    server.faults.extend([None, Fault(500, {"error": {"message": f"not for {KEY}"}})])
    asked(server, questions(2), file=file, concurrency=1)
    assert set(server.keys) == {f"Bearer {KEY}"}
    server.faults.append(Fault(403, f'{{"message": "not for {KEY}"}}'))
    with pytest.raises(EndpointError) as refused:
        asked(server, questions(3), file=file, chat=True)
    chain: list[BaseException | None] = [refused.value, refused.value.__cause__]
    assert all(KEY not in repr(error) for error in chain) and refused.value.__suppress_context__
    told = capsys.readouterr()
    assert "not for ***" in told.err
    assert KEY not in told.err + told.out + file.read_text() + repr(Endpoint(server.url, MODEL))


def test_a_rerun_asks_only_what_is_missing(server: Served, tmp_path: Path) -> None:
    file = tmp_path / "answers.jsonl"
    first = asked(server, questions(3), file=file)
    server.asked.clear()
    assert asked(server, questions(5), file=file)[:3] == first
    assert sorted(server.said) == ["What is 3?", "What is 4?"]
    server.asked.clear()
    asked(server, questions(5), file=file, concurrency=1, timeout=9, retries=0)  # what changes no answer
    assert not server.asked
    for other in ({"temperature": 0.5}, {"system": "Be brief."}, {"max_new_tokens": 9}, {"extra": {"top_k": 1}}):
        server.asked.clear()
        asked(server, questions(5), file=file, **other)
        assert len(server.asked) == 5, other


def test_a_request_may_have_a_length_of_its_own(server: Served, tmp_path: Path) -> None:
    """With that of the endpoint it is the same request as without."""
    file = tmp_path / "answers.jsonl"
    lengths = [questions(1)[0]._replace(max_new_tokens=most) for most in (64, None, 9)]
    asked(server, lengths, file=file)
    assert sorted(body["max_tokens"] for _, body in server.asked) == [9, 64]
    server.asked.clear()
    asked(server, questions(1), file=file, max_new_tokens=9)
    assert not server.asked


def test_an_endpoint_is_named_by_its_url_and_its_model() -> None:
    assert endpoint_named("http://a/v1#org/m", retries=1) == Endpoint("http://a/v1", "org/m", retries=1)
    assert endpoint_named("org/m") is None
    for wrong in ("http://a/v1", "http://a/v1#", f"http://me:{KEY}@a/v1#m"):
        with pytest.raises(ConfigError) as refused:
            endpoint_named(wrong)
        assert KEY not in str(refused.value)


def test_samples_of_one_question_are_different_answers(server: Served, tmp_path: Path) -> None:
    drawn = [questions(1)[0]._replace(draw=Draw(n, 0.7, 0.9, 100 + n)) for n in range(3)]
    file = tmp_path / "answers.jsonl"
    asked(server, [*questions(1), *questions(1), *drawn], file=file)
    sent = sorted((body["temperature"], body.get("top_p"), body["seed"]) for _, body in server.asked)
    assert sent == [(0.0, None, 0), (0.7, 0.9, 100), (0.7, 0.9, 101), (0.7, 0.9, 102)]
    server.asked.clear()
    asked(server, drawn, file=file)
    assert not server.asked


def test_the_file_of_a_killed_process_can_be_read(server: Served, tmp_path: Path) -> None:
    file = tmp_path / "answers.jsonl"
    asked(server, questions(3), file=file, concurrency=1)
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(lines[0] + b"{damaged\n" + lines[1] + lines[2][:20])
    server.asked.clear()
    assert asked(server, questions(3), file=file) == [f"You ask: What is {i}?" for i in range(3)]
    assert server.said == ["What is 2?"]
    assert file.read_bytes() == lines[0] + b"{damaged\n" + lines[1] + lines[2]


def test_an_interruption_leaves_what_was_answered(server: Served, tmp_path: Path) -> None:
    file = tmp_path / "answers.jsonl"

    def interrupt(_: float) -> None:
        raise KeyboardInterrupt

    server.faults.extend([None, None, Fault(500)])
    endpoint = Endpoint(server.url, MODEL, concurrency=1)
    with closing(Conversation(endpoint, StoredAnswers(file), sleep=interrupt)) as conversation:  # noqa: SIM117
        with pytest.raises(KeyboardInterrupt):
            conversation.ask(questions(5), "ask")
    assert len(file.read_text().splitlines()) == 2


def test_any_script_is_sent_and_kept(tmp_path: Path) -> None:
    texts = ["Où est-elle née ?", "她在哪里出生？", "أين ولدت؟", "👩‍🔬 e\u0301\u2028x"]
    with serving(lambda body: body["messages"][-1]["content"]) as server:
        requests = [Request(Example(id=t, question=t, answer="a")) for t in texts]
        assert asked(server, requests, file=tmp_path / "a.jsonl") == texts
        assert asked(server, requests, file=tmp_path / "a.jsonl") == texts
        assert len(server.asked) == len(texts)
        server.answer = lambda body: "half \ud83d of a character"
        assert asked(server, requests, file=tmp_path / "b.jsonl") == 4 * ["half \ufffd of a character"]


def test_completions_are_asked_for_where_there_is_no_chat(server: Served) -> None:
    server.chat = False
    asked(server, questions(3), prompt="Q: {question} A:", system="Be brief.")
    assert [path for path, _ in server.asked] == ["/v1/chat/completions"] + 3 * ["/v1/completions"]
    assert sorted(server.said[1:]) == [f"Be brief.\n\nQ: What is {i}? A:" for i in range(3)]
    server.chat = True
    server.asked.clear()
    server.faults.append(Fault(400, {"message": "default chat template is no longer allowed", "code": 400}))
    asked(server, questions(3))
    assert [path for path, _ in server.asked] == ["/v1/chat/completions"] + 3 * ["/v1/completions"]


def test_a_conversation_is_sent_as_messages(server: Served) -> None:
    history = (("system", "You know all."), ("user", "Who?"), ("assistant", "She. "))
    example = Example(id="1", question="Where?", answer="There", history=history)
    asked(server, [Request(example)], system="not this one", stop=("\n",), extra={"top_k": 3})
    path, body = server.asked[0]
    assert path == "/v1/chat/completions"
    assert body["messages"] == [
        {"role": "system", "content": "You know all."},
        {"role": "user", "content": "Who?"},
        {"role": "assistant", "content": "She."},
        {"role": "user", "content": "Where?"},
    ]
    assert (body["stop"], body["top_k"], body["max_tokens"], body["temperature"]) == (["\n"], 3, 64, 0.0)


def test_fields_that_a_server_refuses_are_renamed_or_left_out(server: Served) -> None:
    server.faults.append(
        Fault(400, {"error": {"message": "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead."}})
    )
    server.faults.append(Fault(422, {"detail": "extra fields not permitted: seed"}))
    asked(server, questions(3), temperature=None)
    assert len(server.asked) == 5
    for _, body in server.asked[2:]:
        assert body["max_completion_tokens"] == 64
        assert not {"max_tokens", "seed", "temperature"} & set(body)


def test_answers_of_several_forms_are_read() -> None:
    forms: list[dict[str, Any]] = [
        {"content": " a ", "role": "assistant"}, {"content": None}, {"content": None, "refusal": "no"},
        {"content": [{"type": "text", "text": "p"}, {"type": "text", "text": "q"}]}, {"content": ""},
    ]  # fmt: skip
    with serving(lambda body: {"choices": [{"message": forms[int(body["messages"][-1]["content"][8])]}]}) as server:
        assert asked(server, questions(5)) == ["a", "", "no", "pq", ""]
        server.faults.append(Fault(400, {"error": {"message": "filtered", "code": "content_filter"}}))
        assert asked(server, questions(1)) == [""]


@pytest.mark.parametrize(
    "settings",
    [
        {"url": "localhost:8000"}, {"url": "ftp://a/v1"}, {"url": f"http://me:{KEY}@a/v1"},
        {"url": f"http://a/v1?key={KEY}"}, {"url": "http://["}, {"prompt": "no question"}, {"extra": {"model": "b"}},
        {"extra": {"api_key": KEY}},
    ],
    ids=["no-scheme", "ftp", "password", "query", "broken", "prompt", "ours", "key"],
)  # fmt: skip
def test_impossible_settings_are_refused_without_repeating_a_key(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError) as refused:
        Endpoint(**{"url": "http://a/v1", "model": "m", **settings})
    assert KEY not in str(refused.value)


def test_stored_answers_are_json_lines(server: Served, tmp_path: Path) -> None:
    asked(server, questions(1), file=tmp_path / "a.jsonl")
    (line,) = (tmp_path / "a.jsonl").read_text().splitlines()
    row = json.loads(line)
    assert row.keys() == {"key", "text", "finish", "chat"}
    assert (row["text"], row["finish"], row["chat"]) == ("You ask: What is 0?", "stop", True)
