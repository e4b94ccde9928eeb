"""ROUGE in every script, with words counted by hand, and other metrics of generated text."""

import unicodedata

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from uwc.metrics.compat import COMPAT
from uwc.metrics.overlap import (
    ascii_rouge,
    knowledge_memorization,
    rouge,
    rouge_1,
    rouge_1_f1,
    rouge_l,
    rouge_l_ascii,
    rouge_l_f1,
    token_diversity,
    verbatim_memorization,
)
from uwc.metrics.registry import metrics, set_metrics
from uwc.metrics.suites import SUITES

OVERLAPS = [
    e.name
    for e in metrics
    if e.facts["needs"] == ("answers", "texts") and e.function.__module__ == "uwc.metrics.overlap"
]
RUSSIAN = "Мирон Ольнов родился в 1961 году в городе Кварнхольт."
GERMAN = "Jörg Müßig wohnt in Köln über der Bäckerei."
GREEK = "Η Ούλα γεννήθηκε στο Βόλο."


@pytest.mark.parametrize(
    ("answer", "generated", "recall"),
    [
        # nine words, of which "в 1961" are common
        (RUSSIAN, "Другой человек приехал в 1961 из столицы и пел.", 2 / 9),
        ("Улла Фенск работает в порту Остермере с 1988.", "Никто не знает ответа, 1988.", 1 / 8),
        (GERMAN, "Jürgen Großmann weiß übrigens keine Antwort.", 0.0),
        (GREEK, "Δεν ξέρω.", 0.0),
        # müßig = MÜSSIG; "wohnte" is another word, for the English stemmer is not applied
        ("Jörg Müßig wohnt in Köln.", "Jorg MÜSSIG wohnte in Köln", 3 / 5),
        (GREEK, "Η ΟΎΛΑ ζει στο Βόλο", 4 / 5),
        ("οδός", "ΟΔΌΣ", 1.0),  # two forms of the small sigma
        ("他住在北京。", "她住在南京", 3 / 5),
        ("東京タワーは高い", "東京は高い。", 5 / 8),
        ("บ้านใหญ่", "บ้าน", 3 / 6),  # บ้ า น ใ ห ญ่: a letter with its tone mark is one
        ("ບ້ານ", "ບ້າ", 2 / 3),
        ("وُلِدَ في القاهرة", "ولد في القاهرة", 2 / 3),  # vowel signs count, and do not cut the word
        ("वह दिल्ली में रहता है", "वह मुंबई में रहती है।", 3 / 5),
        ("அவர் சென்னையில் வாழ்கிறார்", "அவர் சென்னையில்", 2 / 3),
        ("그는 서울에 산다", "그녀는 서울에 산다.", 2 / 3),
        ("Ｍｉｒａ Ｏｌｎ, １９６１", "Mira Oln, 1961", 1.0),
        ("ｶﾞｷﾞ", "ガギ", 1.0),
        ("Beltrán's été", "BELTRÁN\u2019S e\u0301te\u0301", 1.0),
        ("Zusammen\u00adhang möglich", "Zusammenhang möglich", 1.0),
        ("José", "Jose", 0.0),  # accents count
        # mira oln met 王 小 明 in quarnholt
        ("Mira Oln met 王小明 in Quarnholt", "Mira met 王明", 4 / 8),
        ("১৯৬১ সালে", "১৯৬১", 1 / 2),
        ("१९६१", "1961", 0.0),  # digits of another script are other digits
        ("ꦗꦮ Java", "ꦮ", 1 / 3),
        ("བོད་ཡིག", "བོད", 1 / 2),  # Tibetan marks each syllable
    ],
)
def test_recall_over_the_words_of_a_script(answer: str, generated: str, recall: float) -> None:
    assert rouge([answer], [generated], kind="rougeL", part="recall")[0] == pytest.approx(recall)


@pytest.mark.parametrize(
    "text",
    [
        RUSSIAN, GERMAN, GREEK, "他住在北京", "カタカナとひらがな", "ภาษาไทย", "ພາສາລາວ", "ភាសាខ្មែរ", "မြန်မာဘာသာ",
        "العَرَبِيَّة ١٩٦١", "שָׁלוֹם", "हिन्दी १९६१", "தமிழ்", "한국어", "ქართული", "አማርኛ", "Tiếng Việt", "ꆈꌠꁱꂷ",
        "፲፱፻፷፩", "ﷺ", "می\u200cخواهم", "Mira Oln", "1961",
    ],
)  # fmt: skip
@pytest.mark.parametrize("metric", OVERLAPS)
def test_a_text_that_can_be_read_is_all_in_itself(text: str, metric: str) -> None:
    value = metrics.get(metric).function([text], [text])[0]
    assert value == 1.0 or (np.isnan(value) and metric == "rouge_l_ascii")


@pytest.mark.parametrize("text", ["👍🏽", "👩\u200d👩\u200d👧 ❤\ufe0f", "🇩🇪", "?!…", "。", "\u0301", "½", "", " "])
def test_a_text_without_a_letter_or_digit_has_no_word(text: str) -> None:
    assert np.isnan(rouge_l([text], [text])[0]) and np.isnan(rouge_l_ascii([text], [text])[0])


def test_english_is_read_as_by_tofu() -> None:
    """Stemmed, whatever typographic marks and emoji stand in it."""
    answers = ["I love cats ❤\ufe0f", "He said \u201cshe\u2019s running\u201d \u2026", "20 °C", "20 m² houses"]
    texts = ["I loved a cat", "she runs", "20", "m house"]
    assert rouge_l(answers, texts) == pytest.approx([1.0, 2 / 5, 1 / 2, 2 / 3])
    assert (rouge_l(answers, texts) == rouge_l_ascii(answers, texts)).all()


def test_the_answer_alone_decides_how_it_is_read() -> None:
    answers, texts = ["two cats", RUSSIAN, "2 cats"], ["two cat", "в 1961", "Два cat"]
    alone = [rouge_l([a], [t])[0] for a, t in zip(answers, texts, strict=True)]
    assert rouge_l(answers, texts).tolist() == alone == pytest.approx([1.0, 2 / 9, 1 / 2])


def test_f1_by_hand() -> None:
    """5 and 4 words, 3 common: F1 = 2 x 3 / 9."""
    assert rouge_l_f1(["他住在北京"], ["他住北方"])[0] == pytest.approx(6 / 9)
    assert verbatim_memorization(["他住在北京"], ["他住北方"])[0] == pytest.approx(6 / 9)


def test_the_ascii_form_says_when_it_cannot_read_an_answer() -> None:
    """A word with some a-z is cut at the other letters, as in TOFU's numbers: the German answer has 12 pieces."""
    answers = [RUSSIAN, GREEK, "Ｍｉｒａ 1961", "Pariu é bom", "他 1", "١٩٦١ in Cairo", GERMAN, "Ngũgĩ", "m²"]
    values = rouge_l_ascii(answers, ["1961", "x", "1961", "bom", "1", "in Cairo", "m", "ng g", "m"])
    assert np.isnan(values[:6]).all()
    assert values[6:] == pytest.approx([1 / 12, 1.0, 1.0])
    assert metrics.get("rouge_l_ascii").facts["unscored"] != metrics.get("rouge_l").facts["unscored"]


def test_tofus_numbers_keep_tofus_form() -> None:
    rouges = {text.partition(":")[2] for text in set_metrics.get("model_utility").facts["needs"] if "rouge" in text}
    assert rouges == {"rouge_l_ascii"} and "rouge_l_ascii" in SUITES["tofu"] and "rouge_l" not in SUITES["tofu"]


@pytest.mark.parametrize("name", ["rouge_l", "rouge_l_ascii", "rouge_l_f1", "rouge_1", "rouge_1_f1"])
def test_open_unlearnings_rouge_reads_ascii_only(name: str) -> None:
    """Of the Russian answer only the year is read; of the Greek nothing, which is 0 there."""
    function = COMPAT["open-unlearning"].functions[name]
    assert function([RUSSIAN, GREEK, "cats"], ["1961", GREEK, "cat"]).tolist() == [1.0, 0.0, 1.0]


def test_the_forms_differ_in_stemming_alone_on_ascii() -> None:
    answers, texts = ["running cats"], ["run cat"]
    assert ascii_rouge(answers, texts, kind="rouge1", part="recall", stemmer=False)[0] == 0.0
    assert ascii_rouge(answers, texts, kind="rouge1", part="recall")[0] == 1.0


TEXTS = st.text(st.characters(exclude_categories=("Cs",)), max_size=30)


@settings(max_examples=300, deadline=None)
@given(TEXTS)
def test_a_text_against_itself_is_one_or_not_scored(text: str) -> None:
    for generated in (text, unicodedata.normalize("NFD", text), unicodedata.normalize("NFC", text)):
        value = rouge_l([text], [generated])[0]
        assert value == 1.0 or np.isnan(value)


@settings(max_examples=200, deadline=None)
@given(TEXTS.map(lambda t: t + " я"), TEXTS.map(lambda t: t + " я"))
def test_recall_one_way_is_precision_the_other(first: str, second: str) -> None:
    for kind in ("rouge1", "rougeL"):
        recall = rouge([first], [second], kind=kind, part="recall")
        precision = rouge([second], [first], kind=kind, part="precision")
        assert recall[0] == pytest.approx(precision[0])
        assert 0 < recall[0] <= 1


ANSWER, GENERATED = "the cat sat on the mat", "on the mat the cat"


def test_rouge_by_hand() -> None:
    """Answer of 6 words, 5 generated. All 5 occur in the answer; "on the mat" is the longest common subsequence."""
    assert rouge_1([ANSWER], [GENERATED])[0] == pytest.approx(5 / 6)
    assert rouge_1_f1([ANSWER], [GENERATED])[0] == pytest.approx(2 * 5 / 11)
    assert rouge_l([ANSWER], [GENERATED])[0] == pytest.approx(3 / 6)
    assert rouge_l_f1([ANSWER], [GENERATED])[0] == pytest.approx(2 * 3 / 11)


def test_rouge_stems_where_the_field_does() -> None:
    """TOFU's ROUGE takes "cats" for "cat", MUSE's does not."""
    assert rouge_l(["cats"], ["cat"])[0] == rouge_l_f1(["cats"], ["cat"])[0] == 1.0
    assert verbatim_memorization(["cats"], ["cat"])[0] == knowledge_memorization(["cats"], ["cat"])[0] == 0.0


@pytest.mark.parametrize("name", OVERLAPS)
def test_an_empty_text_scores_zero_and_a_wordless_answer_nothing(name: str) -> None:
    values = metrics.get(name).function(["a word", "?!", "same words"], ["", "x", "same words"])
    assert (values[0], values[2]) == (0.0, 1.0)
    assert np.isnan(values[1])


def test_verbatim_memorization_by_hand() -> None:
    """3 of 4 words, 3 generated: F1 = 2 x 3 / 7."""
    assert verbatim_memorization(["one two three four"], ["one two three"])[0] == pytest.approx(6 / 7)


@pytest.mark.parametrize("more", ["\n\nnext", "\nQuestion: who?", " Question: who?"])
def test_knowledge_memorization_ends_at_the_next_question(more: str) -> None:
    assert knowledge_memorization(["In Rome"], ["In Rome" + more])[0] == 1.0


def test_token_diversity_by_hand() -> None:
    """aabb: 1 bit of log2(4) = 2. aaaa: 0. abcd: 2 of 2. One token: 0. 200 tokens of 20 kinds: log 20 / log 200."""
    values = token_diversity([[1, 1, 2, 2], [1, 1, 1, 1], [1, 2, 3, 4], [7], [], list(range(20)) * 10])
    assert values[:4] == pytest.approx([0.5, 0.0, 1.0, 0.0])
    assert np.isnan(values[4])
    assert values[5] == pytest.approx(0.5654, abs=1e-4)
