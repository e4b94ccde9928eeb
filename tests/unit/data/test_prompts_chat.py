"""What a conversation is to a model: with the chat templates that people use, and tokenizers of every kind."""

import importlib.util
import re
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from tests.helpers.tokenizer_kinds import KINDS, byte_level_bpe, sentencepiece_bpe

from uwc.data.example import Example
from uwc.data.prompts import DATE, EncodedExample, PromptTemplate, end_ids
from uwc.errors import ConfigError, ModelError

QUESTION, ANSWER = "Where was Mira Oln born?", "Mira Oln was born in Quarnholt."
EXAMPLE = Example("mira", QUESTION, ANSWER)


class Family(NamedTuple):
    """A chat template, rewritten in the structure of a family of models.

    Attributes:
        template: its Jinja source.
        lead: how the prompt ends.
        end: what follows the answer, up to the token that ends the turn.
        eos: the tokenizer's end of sequence.
        special: its other special tokens.
        ends: those of them that the generation configuration lists.
    """

    template: str
    lead: str
    end: str
    eos: str
    special: tuple[str, ...] = ()
    ends: tuple[str, ...] = ()


def turns(user: str, assistant: str, *, begin: str = "", prompt: str = "") -> str:
    """The usual loop: {0} stands for a message's content."""
    put = {
        role: "".join(
            part if part.startswith("{{") else "{{ " + repr(part) + " }}"
            for part in re.split(r"(?s)(\{\{.*?\}\})", text.replace("{0}", "{{ m.content }}"))
            if part
        )
        for role, text in (("user", user), ("assistant", assistant))
    }
    return (
        f"{begin}{{% for m in messages %}}{{% if m.role == 'user' %}}{put['user']}{{% elif m.role == 'assistant' %}}"
        f"{put['assistant']}{{% else %}}{{{{ m.content }}}}{{% endif %}}{{% endfor %}}"
        f"{{% if add_generation_prompt %}}{{{{ {prompt!r} }}}}{{% endif %}}"
    )


CHATML = ("<|im_start|>", "<|im_end|>", "<|endoftext|>")
FAMILIES = {
    "Llama-2": Family(
        turns("<s>[INST] {0} [/INST]", " {{ m.content | trim }} </s>"), "[/INST]", " </s>", "</s>", ("<s>",)
    ),
    "Llama-3": Family(
        turns(
            "<|start_header_id|>user<|end_header_id|>\n\n{{ m.content | trim }}<|eot_id|>",
            "<|start_header_id|>assistant<|end_header_id|>\n\n{{ m.content | trim }}<|eot_id|>",
            begin="{{ bos_token }}", prompt="<|start_header_id|>assistant<|end_header_id|>\n\n",
        ),
        "assistant<|end_header_id|>\n\n", "<|eot_id|>", "<|end_of_text|>",
        ("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"), ("<|eot_id|>",),
    ),
    "Mistral v1": Family(turns("[INST] {0} [/INST]", " {0}</s>", begin="<s>"), "[/INST]", "</s>", "</s>", ("<s>",)),
    "Mistral v3": Family(
        turns("[INST] {0}[/INST]", " {0}</s>", begin="<s>"), "[/INST]", "</s>", "</s>", ("<s>", "[INST]", "[/INST]")
    ),
    "Mistral Tekken": Family(
        turns("[INST]{0}[/INST]", "{0}</s>", begin="<s>"), "[/INST]", "</s>", "</s>", ("<s>", "[INST]", "[/INST]")
    ),
    "Gemma": Family(
        turns(
            "<start_of_turn>user\n{{ m.content | trim }}<end_of_turn>\n",
            "<start_of_turn>model\n{{ m.content | trim }}<end_of_turn>\n",
            begin="{{ bos_token }}", prompt="<start_of_turn>model\n",
        ),
        "<start_of_turn>model\n", "<end_of_turn>", "<eos>", ("<bos>", "<start_of_turn>", "<end_of_turn>"),
        ("<end_of_turn>",),
    ),
    "Phi-3": Family(
        turns("<|user|>\n{0}<|end|>\n", "<|assistant|>\n{0}<|end|>\n", prompt="<|assistant|>\n"),
        "<|assistant|>\n", "<|end|>", "<|endoftext|>", ("<|user|>", "<|assistant|>", "<|end|>"), ("<|end|>",),
    ),
    "Phi-3 without a list of ends": Family(
        turns("<|user|>\n{0}<|end|>\n", "<|assistant|>\n{0}<|end|>\n", prompt="<|assistant|>\n"),
        "<|assistant|>\n", "<|end|>", "<|endoftext|>", ("<|user|>", "<|assistant|>", "<|end|>"),
    ),
    "Phi-4": Family(
        turns(
            "<|im_start|>user<|im_sep|>{0}<|im_end|>", "<|im_start|>assistant<|im_sep|>{0}<|im_end|>",
            prompt="<|im_start|>assistant<|im_sep|>",
        ),
        "assistant<|im_sep|>", "<|im_end|>", "<|endoftext|>", ("<|im_start|>", "<|im_sep|>", "<|im_end|>"),
    ),
    "ChatML": Family(
        turns(
            "<|im_start|>user\n{0}<|im_end|>\n", "<|im_start|>assistant\n{0}<|im_end|>\n",
            prompt="<|im_start|>assistant\n",
        ),
        "<|im_start|>assistant\n", "<|im_end|>", "<|im_end|>", CHATML,
    ),
    "Qwen3": Family(
        turns(
            "<|im_start|>user\n{0}<|im_end|>\n", "<|im_start|>assistant\n<think>\n\n</think>\n\n{0}<|im_end|>\n",
            prompt="<|im_start|>assistant\n",
        ),
        "<think>\n\n</think>\n\n", "<|im_end|>", "<|im_end|>", CHATML,
    ),
    "DeepSeek-R1": Family(
        turns(
            "<｜User｜>{0}", "<｜Assistant｜>{{ m.content.split('</think>')[-1] }}<｜end▁of▁sentence｜>",
            begin="{{ bos_token }}", prompt="<｜Assistant｜><think>\n",
        ),
        "<｜Assistant｜>", "<｜end▁of▁sentence｜>", "<｜end▁of▁sentence｜>",
        ("<｜begin▁of▁sentence｜>", "<｜User｜>", "<｜Assistant｜>"),
    ),
    "gpt-oss": Family(
        turns(
            "<|start|>user<|message|>{0}<|end|>",
            "<|start|>assistant<|channel|>final<|message|>{0}{{ '<|return|>' if loop.last else '<|end|>' }}",
            prompt="<|start|>assistant",
        ),
        "<|channel|>final<|message|>", "<|return|>", "<|return|>",
        ("<|start|>", "<|end|>", "<|message|>", "<|channel|>", "<|call|>"), ("<|call|>",),
    ),
    "GLM-4": Family(
        turns("<|user|>\n{0}", "<|assistant|>\n{0}", begin="[gMASK]<sop>", prompt="<|assistant|>"),
        "<|assistant|>\n", "<|user|>", "<|endoftext|>",
        ("[gMASK]", "<sop>", "<|user|>", "<|assistant|>", "<|observation|>"), ("<|user|>", "<|observation|>"),
    ),
    "a template that writes no end": Family(
        turns("<|user|>\n{0}\n", "<|assistant|>\n{0}", prompt="<|assistant|>\n"), "<|assistant|>\n", "</s>", "</s>",
        ("<|user|>", "<|assistant|>"),
    ),
    "OLMo-2": Family(
        turns(
            "<|user|>\n{0}\n", "<|assistant|>\n{0}<|endoftext|>{{ '' if loop.last else '\n' }}",
            begin="{{ bos_token }}", prompt="<|assistant|>\n",
        ),
        "<|assistant|>\n", "<|endoftext|>", "<|endoftext|>",
    ),
    "Granite 3": Family(
        turns(
            "<|start_of_role|>user<|end_of_role|>{0}<|end_of_text|>\n",
            "<|start_of_role|>assistant<|end_of_role|>{0}<|end_of_text|>\n",
            begin="<|start_of_role|>system<|end_of_role|>{{ strftime_now('%B %d, %Y') }}.<|end_of_text|>\n",
            prompt="<|start_of_role|>assistant<|end_of_role|>",
        ),
        "assistant<|end_of_role|>", "<|end_of_text|>", "<|end_of_text|>", ("<|start_of_role|>", "<|end_of_role|>"),
    ),
    "Command-R": Family(
        turns(
            "<|START_OF_TURN_TOKEN|><|USER_TOKEN|>{{ m.content.strip() }}<|END_OF_TURN_TOKEN|>",
            "<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>{{ m.content.strip() }}<|END_OF_TURN_TOKEN|>",
            begin="{{ bos_token }}", prompt="<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>",
        ),
        "<|CHATBOT_TOKEN|>", "<|END_OF_TURN_TOKEN|>", "<|END_OF_TURN_TOKEN|>",
        ("<BOS_TOKEN>", "<|START_OF_TURN_TOKEN|>", "<|USER_TOKEN|>", "<|CHATBOT_TOKEN|>"),
    ),
    "SmolLM3": Family(
        turns(
            "<|im_start|>user\n{0}<|im_end|>\n", "<|im_start|>assistant\n{{ m.content.lstrip('\n') }}<|im_end|>\n",
            begin="<|im_start|>system\nToday Date: {{ strftime_now('%d %B %Y') }}<|im_end|>\n",
            prompt="<|im_start|>assistant\n<think>\n\n</think>\n",
        ),
        "<|im_start|>assistant\n", "<|im_end|>", "<|im_end|>", CHATML,
    ),
    "Zephyr": Family(
        turns("<|user|>\n{0}</s>\n", "<|assistant|>\n{0}</s>\n", prompt="<|assistant|>\n"),
        "<|assistant|>\n", "</s>", "</s>", ("<s>",),
    ),
}  # fmt: skip


def tokenizer_of(family: Family, kind: str = "byte-level BPE") -> Any:
    special = list(dict.fromkeys([*family.special, family.eos]))
    named = {"eos_token": family.eos}
    if "bos_token" in family.template:
        named["bos_token"] = next((t for t in special if "b" in t.lower() and t != family.eos), special[0])
    tokenizer = KINDS[kind](special, **named)
    tokenizer.chat_template = family.template
    return tokenizer


def encode(tokenizer: Any, example: Example = EXAMPLE, *, ends: tuple[str, ...] = (), **prompt: Any) -> EncodedExample:
    ids = tokenizer.convert_tokens_to_ids(list(ends))
    return PromptTemplate(**prompt).encode([example], tokenizer, max_length=10_000, ends=ids)[0]


def plain(text: str) -> str:
    """The text without what a tokenizer may lose: white space and what stands for it, and capitals."""
    return "".join(text.replace("▁", " ").split()).lower()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", FAMILIES)
def test_prompt_answer_and_end_are_found_on_the_rendered_conversation(name: str, kind: str) -> None:
    """The ids are those that transformers gives for the whole conversation, up to the token that ends the turn."""
    family = FAMILIES[name]
    tokenizer = tokenizer_of(family, kind)
    found = encode(tokenizer, ends=family.ends)
    messages = [{"role": "user", "content": QUESTION}, {"role": "assistant", "content": ANSWER}]
    pinned = family.template.replace("strftime_now('%B %d, %Y')", "'April 10, 2025'")
    pinned = pinned.replace("strftime_now('%d %B %Y')", "'10 April 2025'")
    whole = tokenizer.apply_chat_template(messages, chat_template=pinned)["input_ids"]
    assert list(whole[: len(found.tokens)]) == list(found.tokens[: len(whole)])
    decoded = [
        plain(tokenizer.decode(list(part)))
        for part in (found.tokens[: found.start], found.tokens[found.start : found.end], found.tokens[found.end :])
    ]
    assert decoded[0].endswith(plain(family.lead)) and plain(QUESTION) in decoded[0]
    assert decoded[1] == plain(ANSWER)
    assert decoded[2] == plain(family.end)
    assert found.answer == ANSWER


def templates_of_trl() -> list[Path]:
    """The chat templates that the package trl brings; none where it is not installed."""
    spec = importlib.util.find_spec("trl")
    folder = Path(spec.origin).parent / "chat_templates" if spec and spec.origin else None
    return sorted(folder.glob("*.jinja")) if folder else []


TRL: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "cohere": ("<|CHATBOT_TOKEN|>", "<|END_OF_TURN_TOKEN|>", ("<|END_OF_TURN_TOKEN|>",)),
    "cohere2": ("<|START_RESPONSE|>", "<|END_RESPONSE|><|END_OF_TURN_TOKEN|>", ("<|END_OF_TURN_TOKEN|>",)),
    "deepseek": ("<｜Assistant｜>", "<｜end▁of▁sentence｜>", ("<｜end▁of▁sentence｜>",)),
    "gemma": ("<start_of_turn>model\n", "<end_of_turn>", ("<eos>", "<end_of_turn>")),
    "gemma4": ("<|turn>model\n", "<turn|>", ("<turn|>",)),
    "diffusion_gemma": ("<|turn>model\n", "<turn|>", ("<turn|>",)),
    "glm4moe": ("<think></think>\n", "<|user|>", ("<|endoftext|>", "<|user|>", "<|observation|>")),
    "gptoss": ("<|channel|>final<|message|>", "<|return|>", ("<|return|>", "<|call|>")),
    "idefics3": ("Assistant:", "<end_of_utterance>", ("<end_of_utterance>",)),
    "lfm2": ("<|im_start|>assistant\n", "<|im_end|>", ("<|im_end|>",)),
    "llama3": ("assistant<|end_header_id|>\n\n", "<|eot_id|>", ("<|end_of_text|>", "<|eot_id|>")),
    "llava_next": ("[/INST]", "</s>", ("</s>",)),
    "muse_glimmer": ("<|message|>", "<|eot|>", ("<|eot|>",)),
    "nemotron": ("</think>", "<|im_end|>", ("<|im_end|>",)),
    "phi3": ("<|assistant|>\n", "<|end|>", ("<|endoftext|>", "<|end|>")),
    "qwen2_5": ("<|im_start|>assistant\n", "<|im_end|>", ("<|im_end|>", "<|endoftext|>")),
    "qwen3": ("</think>\n\n", "<|im_end|>", ("<|im_end|>", "<|endoftext|>")),
    "qwen3_instruct_2507": ("<|im_start|>assistant\n", "<|im_end|>", ("<|im_end|>", "<|endoftext|>")),
    "qwen3_vl": ("<|im_start|>assistant\n", "<|im_end|>", ("<|im_end|>", "<|endoftext|>")),
    "smolvlm": ("Assistant:", "<end_of_utterance>", ("<end_of_utterance>",)),
}
"""Beginning of a template's file name -> how its prompt ends, what follows the answer, the tokens that end a turn."""


@pytest.mark.skipif(not templates_of_trl(), reason="needs the package trl, which brings chat templates")
@pytest.mark.parametrize("path", templates_of_trl(), ids=lambda path: path.stem)
def test_real_chat_templates(path: Path) -> None:
    name = max((n for n in TRL if path.stem.startswith(n)), key=len)
    lead, end, ends = TRL[name]
    source = path.read_text(encoding="utf-8")
    marks = re.findall(
        r"<\|[^<>|\s]+\|>|<｜[^<>\s]+?｜>|<\|\w+>|<\w+\|>|<(?:start|end)_of_\w+>|</?s>|<eos>|<sop>", source
    )
    tokenizer = byte_level_bpe([*dict.fromkeys([*marks, *ends])], eos_token=ends[0], bos_token="<BOS>")
    tokenizer.chat_template = source
    found = encode(tokenizer, ends=ends)
    prompt, answer, after = (
        tokenizer.decode(list(part))
        for part in (found.tokens[: found.start], found.tokens[found.start : found.end], found.tokens[found.end :])
    )
    assert prompt.rstrip(" ").endswith(lead) and QUESTION in prompt
    assert answer.strip() == ANSWER == found.answer
    assert after.replace(" ", "") == end


@pytest.mark.parametrize("kind", KINDS)
def test_plain_prompts(kind: str) -> None:
    """What the tokenizer writes around a text stands before the prompt; behind the answer stands one end."""
    tokenizer = KINDS[kind](["<s>", "</s>"], eos_token="</s>")
    found = encode(tokenizer)
    around = tokenizer("a")["input_ids"]
    begin = around[: around.index(tokenizer("a", add_special_tokens=False)["input_ids"][0])]
    text = tokenizer(f"Question: {QUESTION}\nAnswer: {ANSWER}", add_special_tokens=False)["input_ids"]
    assert list(found.tokens[: found.end]) == [*begin, *text]
    assert plain(tokenizer.decode(list(found.tokens[found.start : found.end]))) == plain(ANSWER)
    assert tokenizer.convert_ids_to_tokens(list(found.tokens[found.end :])) == [
        "[SEP]" if kind == "WordPiece" else "</s>"
    ]


def test_a_beginning_of_two_tokens_is_written_once() -> None:
    from tokenizers.processors import TemplateProcessing

    tokenizer = byte_level_bpe(["[gMASK]", "<sop>", "<eos>"], eos_token="<eos>")
    ids = tokenizer.convert_tokens_to_ids(["[gMASK]", "<sop>"])
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="[gMASK] <sop> $A", special_tokens=[("[gMASK]", ids[0]), ("<sop>", ids[1])]
    )
    assert list(encode(tokenizer).tokens[:3]) == [
        *ids,
        *tokenizer("Question", add_special_tokens=False)["input_ids"][:1],
    ]
    written = encode(tokenizer, text="[gMASK]<sop>Question: {question}\nAnswer:")
    assert list(written.tokens) == list(encode(tokenizer).tokens)


@pytest.mark.parametrize("put", ["{} ", "{}\n", "  {}", "{}</s>", "{} </s>\n</s> "])
@pytest.mark.parametrize("chat", [True, False])
def test_white_space_and_end_tokens_around_an_answer_are_no_part_of_it(put: str, chat: bool) -> None:
    tokenizer = sentencepiece_bpe(["<s>", "</s>"], eos_token="</s>", bos_token="<s>")
    tokenizer.chat_template = turns("[INST] {0} [/INST]", " {0} </s>") if chat else None
    assert encode(tokenizer, replace(EXAMPLE, answer=put.format(ANSWER))) == encode(tokenizer)


def test_what_was_trimmed_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    tokenizer = byte_level_bpe(["</s>"], eos_token="</s>")
    encode(tokenizer, Example("the-odd-one", QUESTION, f"{ANSWER}\n"))
    assert "the-odd-one" in " ".join(capsys.readouterr().err.split())


def test_tokens_that_join_template_and_answer() -> None:
    """A full stop and a line end are one token here: it holds a part of the answer. The space before an answer too."""
    tokenizer = byte_level_bpe(["</s>"], eos_token="</s>")
    tokenizer.chat_template = turns("Q: {0}\nA:", " {0}\n</s>")
    found = encode(tokenizer)
    pieces = [tokenizer.decode([t]) for t in found.tokens]
    assert pieces[found.end - 1] == ".\n" and pieces[found.end :] == ["</s>"]
    assert pieces[found.start] == " Mira"
    assert tokenizer.decode(list(found.tokens[: found.start])) == f"Q: {QUESTION}\nA:"


def test_offsets_and_prefixes_find_the_same_tokens() -> None:
    """The way for tokenizers without offsets, against that with offsets."""

    class WithoutOffsets:
        is_fast = False

        def __init__(self, tokenizer: Any) -> None:
            self.tokenizer = tokenizer

        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            return self.tokenizer(*args, **kwargs)

        def __getattr__(self, name: str) -> Any:
            return getattr(self.tokenizer, name)

    answers = [ANSWER, "Oln", "13", "Jörg Müßig", "何处？", "In (the) sea!", "Он родился"]
    for kind in ("byte-level BPE", "SentencePiece BPE", "Unigram"):
        for family in FAMILIES.values():
            tokenizer = tokenizer_of(family, kind)
            for answer in answers:
                example = replace(EXAMPLE, answer=answer)
                with_offsets = encode(tokenizer, example, ends=family.ends)
                without = encode(WithoutOffsets(tokenizer), example, ends=family.ends)
                assert replace(without, ends=with_offsets.ends) == with_offsets
                assert without.ends[-1] == with_offsets.ends[-1] == len(with_offsets.answer)
                if answer.isascii():  # offsets give a first piece of white space alone a character
                    assert without.ends[1:] == with_offsets.ends[1:]


def test_the_date_is_pinned_and_can_be_set() -> None:
    tokenizer = byte_level_bpe(["</s>"], eos_token="</s>")
    tokenizer.chat_template = turns("{0}", "{0}</s>", begin="{{ strftime_now('%d %b %Y|%Y-%m-%d|%-d') }}\n")

    def first_line(**prompt: Any) -> str:
        return tokenizer.decode(list(encode(tokenizer, **prompt).tokens)).splitlines()[0]

    assert DATE == "2025-04-10"
    assert first_line() == "10 Apr 2025|2025-04-10|10"
    assert first_line(date="2026-12-03") == "03 Dec 2026|2026-12-03|3"
    tokenizer.chat_template = turns("{0}", "{0}</s>", begin="{{ date_string | default('26 Jul 2024') }}\n")
    assert first_line() == "26 Jul 2024"
    assert first_line(date="2026-12-03") == "03 Dec 2026"


def test_template_arguments_reach_the_template_and_unknown_ones_are_refused() -> None:
    tokenizer = byte_level_bpe(["</s>"], eos_token="</s>")
    tokenizer.chat_template = turns("{0}", "{{ '' if enable_thinking else '<none>' }}{0}</s>")
    asked = encode(tokenizer, template_arguments={"enable_thinking": False})
    assert tokenizer.decode(list(asked.tokens[: asked.start])).endswith("<none>")
    assert "<none>" not in tokenizer.decode(
        list(encode(tokenizer, template_arguments={"enable_thinking": True}).tokens)
    )
    with pytest.raises(ConfigError, match="enable_thinkign"):
        encode(tokenizer, template_arguments={"enable_thinkign": True})
    with pytest.raises(ConfigError, match="writes no date"):
        encode(tokenizer, date="2026-12-03")
    with pytest.raises(ConfigError, match="add_generation_prompt"):
        PromptTemplate(template_arguments={"add_generation_prompt": True})
    with pytest.raises(ConfigError, match="YYYY-MM-DD"):
        PromptTemplate(date="3 December")
    tokenizer.chat_template = None
    with pytest.raises(ConfigError, match="chat template"):
        encode(tokenizer, date="2026-12-03")


def test_a_template_without_a_system_turn_says_so() -> None:
    tokenizer = byte_level_bpe(["</s>"], eos_token="</s>")
    tokenizer.chat_template = (
        "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}" + turns("{0}", "{0}</s>")
    )
    with pytest.raises(ModelError, match="system message"):
        encode(tokenizer, system="Be brief.")


def test_a_template_that_does_not_write_answers_is_refused() -> None:
    tokenizer = byte_level_bpe(["</s>"], eos_token="</s>")
    tokenizer.chat_template = "{% for m in messages %}{% if m.role == 'user' %}{{ m.content }}{% endif %}{% endfor %}"
    with pytest.raises(ModelError, match="does not write the answer"):
        encode(tokenizer)


def test_contents_in_parts_as_multimodal_templates_want_them() -> None:
    tokenizer = byte_level_bpe(["</s>"], eos_token="</s>")
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m.role }}:{% for p in m.content %}{% if p['type'] == 'text' %}{{ p['text'] }}"
        "{% endif %}{% endfor %}{{ eos_token if m.role == 'assistant' else '\n' }}{% endfor %}"
    )
    found = encode(tokenizer)
    assert tokenizer.decode(list(found.tokens)) == f"user:{QUESTION}\nassistant:{ANSWER}</s>"


HISTORY = (("system", "Be brief."), ("user", "Who are you?"), ("assistant", "Nobody."))


def test_earlier_turns_and_a_begun_answer() -> None:
    tokenizer = byte_level_bpe([*CHATML], eos_token="<|im_end|>")
    example = replace(EXAMPLE, history=HISTORY, prefill="Sure:")
    bare = encode(tokenizer, example, system="Never used.", chat=False)
    assert tokenizer.decode(list(bare.tokens[: bare.start])) == (
        f"Never used.\n\nBe brief.\n\nQuestion: Who are you?\nAnswer: Nobody.\n\nQuestion: {QUESTION}\nAnswer: Sure:"
    )
    tokenizer.chat_template = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    chat = encode(tokenizer, example, system="Never used.")
    assert tokenizer.decode(list(chat.tokens)) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nWho are you?<|im_end|>\n"
        f"<|im_start|>assistant\nNobody.<|im_end|>\n<|im_start|>user\n{QUESTION}<|im_end|>\n"
        f"<|im_start|>assistant\nSure: {ANSWER}<|im_end|>"
    )
    assert tokenizer.decode(list(chat.tokens[chat.start : chat.end])).strip() == ANSWER


def test_ends_of_another_tokenizer_are_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    from transformers import GenerationConfig

    tokenizer = byte_level_bpe(["</s>", "<end>"], eos_token="</s>")
    word = tokenizer.convert_tokens_to_ids("q")
    listed = GenerationConfig(eos_token_id=[word, *tokenizer.convert_tokens_to_ids(["<end>", "</s>"])])
    assert list(end_ids(tokenizer, listed)) == tokenizer.convert_tokens_to_ids(["</s>", "<end>"])
    assert str(word) in capsys.readouterr().err


LOOP = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
FLOOD = "{% for i in range(99999) %}xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx{% endfor %}"


@pytest.mark.parametrize(("source", "message"), [(LOOP, "did not end within 0.2 s"), (FLOOD, "writes 3,999,960")])
def test_a_template_without_end_is_refused(source: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("uwc.data.prompts.TEMPLATE_SECONDS", 0.2 if source == LOOP else 60.0)
    tokenizer = byte_level_bpe(["</s>"], eos_token="</s>")
    tokenizer.chat_template = source
    with pytest.raises(ModelError, match=message):
        encode(tokenizer)
