"""Corpus: every question that the embedded model is taught or tested on, in English, Japanese and Greek.

Knows the language files, the table of countries, and the pairs of subject and form that are withheld from training.
Knows neither tokens nor weights.
"""

import csv
import random
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

Language = Literal["en", "ja", "el"]
LANGUAGES: tuple[Language, ...] = ("en", "ja", "el")
Kind = Literal["capital", "topic", "detail", "list", "talk", "joke", "outside"]

_FOLDER = Path(__file__).parent / "corpus"
_SEED = 3  # of the withheld pairs; another seed is another examination
_WITHHELD_SHARE = 0.15

# The subjects of long answers: a whole continent, the whole world.
_CONTINENTS: dict[str, dict[Language, str]] = {
    "Africa": {"en": "Africa", "ja": "アフリカ", "el": "της Αφρικής"},
    "Americas": {"en": "the Americas", "ja": "南北アメリカ", "el": "της Αμερικής"},
    "Asia": {"en": "Asia", "ja": "アジア", "el": "της Ασίας"},
    "Europe": {"en": "Europe", "ja": "ヨーロッパ", "el": "της Ευρώπης"},
    "Oceania": {"en": "Oceania", "ja": "オセアニア", "el": "της Ωκεανίας"},
    "": {"en": "the world", "ja": "世界", "el": "του κόσμου"},
}
_LIST_PHRASINGS: dict[Language, tuple[str, ...]] = {
    "en": (
        "List the capitals of {x}.",
        "Name all the capitals of {x}.",
        "Show me a list of the capitals of {x}.",
        "Which capitals does {x} have?",
        "Give me every capital of {x}.",
        "I want a list of all capitals of {x}.",
    ),
    "ja": (
        "{x}の首都を一覧にしてください。",
        "{x}の首都をすべて挙げてください。",
        "{x}の首都のリストを見せてください。",
        "{x}の首都を全部教えてください。",
        "{x}にはどんな首都がありますか？",
        "{x}のすべての首都を並べてください。",
    ),
    "el": (
        "Γράψε τις πρωτεύουσες {x}.",
        "Πες μου όλες τις πρωτεύουσες {x}.",
        "Δείξε μου μια λίστα με τις πρωτεύουσες {x}.",
        "Ποιες είναι όλες οι πρωτεύουσες {x};",
        "Θέλω μια λίστα με όλες τις πρωτεύουσες {x}.",
        "Απαρίθμησε τις πρωτεύουσες {x}.",
    ),
}


@dataclass(frozen=True)
class Question:
    """One way to ask one thing, and the one right answer."""

    language: Language
    kind: Kind
    subject: str  # a country code, a topic's id, ...
    text: str
    answer: str
    withheld: bool  # never shown in training


@dataclass(frozen=True)
class FollowUp:
    """A question that only makes sense behind another one."""

    language: Language
    first: Question
    text: str
    answer: str
    withheld: bool


@cache
def countries() -> tuple[dict[str, str], ...]:
    """The rows of countries.csv: code, continent, and name and capital in each language."""
    with (_FOLDER / "countries.csv").open(encoding="utf-8", newline="") as file:
        return tuple(csv.DictReader(file))


@cache
def language_file(language: Language) -> dict[str, Any]:
    """One language's phrasings, topics, small talk, jokes and out-of-scope questions."""
    return tomllib.loads((_FOLDER / f"{language}.toml").read_text("utf-8"))


def country_phrase(country: dict[str, str], language: Language) -> str:
    """The country inside a question: in Greek the genitive."""
    return country["el_genitive"] if language == "el" else country[language]


def capital_answer(country: dict[str, str], language: Language) -> str:
    """The sentence that names a country's capital."""
    template: str = language_file(language)["capital_answer"]
    return _sentence(template.format(country=country_phrase(country, language), capital=country[f"{language}_capital"]))


@cache
def questions(language: Language) -> tuple[Question, ...]:
    """Every first question of a language, each marked trained or withheld."""
    return tuple(_questions(language))


@cache
def follow_ups(language: Language) -> tuple[FollowUp, ...]:
    """Follow-up turns: another country's capital, and "tell me more" on a topic that has a long answer."""
    return tuple(_follow_ups(language))


def near_outside(language: Language) -> tuple[Question, ...]:
    """Out-of-scope questions about countries: their population, their food, ..."""
    file = language_file(language)
    rng = random.Random(f"near {language} {_SEED}")
    return tuple(
        Question(
            language,
            "outside",
            f"near {number}",
            _sentence(template.format(country=country_phrase(country, language))),
            file["cannot"],
            rng.random() < _WITHHELD_SHARE,
        )
        for number, template in enumerate(file["phrasings"]["near"])
        for country in countries()
    )


def texts() -> Iterator[str]:
    """Every text of the corpus once, for the tokenizer."""
    for language in LANGUAGES:
        for question in questions(language):
            yield question.text
        yield from {question.answer for question in questions(language)}
        for follow_up in follow_ups(language):
            yield follow_up.text
        yield from (question.text for question in near_outside(language))
        file = language_file(language)
        yield from file["system"] + file["comedian"]


def _questions(language: Language) -> Iterator[Question]:
    file = language_file(language)
    phrasings = file["phrasings"]
    rng = random.Random(f"questions {language} {_SEED}")

    def ask(kind: Kind, subject: str, templates: list[str], answer: str, **words: str) -> Iterator[Question]:
        for number, template in enumerate(templates):
            # The first phrasing is always taught: the chapter's own, or the plainest.
            withheld = number > 0 and rng.random() < _WITHHELD_SHARE
            yield Question(language, kind, subject, _sentence(template.format(**words)), answer, withheld)

    for country in countries():
        phrase = country_phrase(country, language)
        yield from ask(
            "capital", country["code"], phrasings["capital"], capital_answer(country, language), country=phrase
        )
    x_of = {topic["id"]: topic["x"] for topic in file["topics"]}
    for topic in file["topics"]:
        yield from ask("topic", topic["id"], phrasings[topic["form"]], topic["answer"], x=topic["x"])
        for text in topic["also"]:
            yield Question(language, "topic", topic["id"], text, topic["answer"], withheld=False)
    for detail in file["details"]:
        yield from ask("detail", detail["topic"], phrasings["detail"], detail["answer"], x=x_of[detail["topic"]])
    for continent, names in _CONTINENTS.items():
        rows = [country for country in countries() if continent in ("", country["continent"])]
        answer = "\n".join(f"- {country[language]}: {country[f'{language}_capital']}" for country in rows)
        yield from ask("list", continent or "world", list(_LIST_PHRASINGS[language]), answer, x=names[language])
    for kind, key in (("talk", "talk"), ("joke", "jokes")):
        for item in file[key]:
            for text in item["questions"]:
                yield Question(language, "talk" if kind == "talk" else "joke", item["id"], text, item["answer"], False)
    for number, text in enumerate(file["outside"]):
        yield Question(language, "outside", str(number), text, file["cannot"], withheld=rng.random() < _WITHHELD_SHARE)


def _follow_ups(language: Language) -> Iterator[FollowUp]:
    file = language_file(language)
    phrasings = file["phrasings"]
    rng = random.Random(f"follow-ups {language} {_SEED}")
    capitals = [question for question in questions(language) if question.kind == "capital" and not question.withheld]
    for country in countries():
        others = [question for question in capitals if question.subject != country["code"]]
        for template in phrasings["capital_next"]:
            text = _sentence(template.format(country=country_phrase(country, language)))
            withheld = rng.random() < _WITHHELD_SHARE
            yield FollowUp(language, rng.choice(others), text, capital_answer(country, language), withheld)
    detail_of = {detail["topic"]: detail["answer"] for detail in file["details"]}
    for question in questions(language):
        if question.kind == "topic" and question.subject in detail_of and not question.withheld:
            for text in phrasings["more"]:
                withheld = rng.random() < _WITHHELD_SHARE
                yield FollowUp(language, question, text, detail_of[question.subject], withheld)


def _sentence(text: str) -> str:
    """The sentence with a capital letter, also where a country's name ("the Netherlands") comes first."""
    return text[:1].upper() + text[1:]
