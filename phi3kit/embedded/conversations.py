"""Conversations: the embedded model's training data, drawn at random from the corpus.

Knows how people write: several turns, a system prompt or none, no capitals, no question mark.
Knows no tokens. Never draws what the corpus withholds.
"""

import random
import string
from collections import defaultdict

from phi3kit.core.records import Message
from phi3kit.embedded.corpus import (
    LANGUAGES,
    FollowUp,
    Language,
    Question,
    countries,
    follow_ups,
    language_file,
    near_outside,
    questions,
)

# How often each kind of first question is drawn.
_KIND_WEIGHTS = {
    "capital": 0.24,
    "topic": 0.36,
    "detail": 0.05,
    "list": 0.015,
    "talk": 0.075,
    "joke": 0.05,
    "listed outside": 0.12,
    "near outside": 0.06,
    "unknown": 0.12,
}
_LETTERS: dict[Language, str] = {
    "en": string.ascii_lowercase,
    "ja": "あいうえおかきくけこさしすせそたちつてとなにぬねのはひふへほまみむめもやゆよらりるれろわをん",
    "el": "αβγδεζηθικλμνξοπρστυφχψω",
}
_SYLLABLES: dict[Language, list[str]] = {
    "en": [a + b for a in "bcdfghklmnprstvwz" for b in ("a", "e", "i", "o", "u", "an", "or", "is")],
    "ja": list("アイウエオカキクケコサシスセソタチツテトナニヌネノハヒフヘホマミムメモラリルレロワン"),
    "el": [a + b for a in "βγδζθκλμνπρστφχ" for b in ("α", "ε", "ι", "ο", "άν", "όρ", "ία")],
}
# Words that people leave out. None of them tells two questions apart.
_DROPPED = {"the", "a", "an", "please", "me", "το", "η", "ο", "τα", "μου"}


class ConversationSource:
    """Draws conversations; the same seed draws the same ones."""

    def __init__(self, seed: int) -> None:
        self._rng = random.Random(seed)
        self._by_kind: dict[tuple[Language, str], list[Question]] = defaultdict(list)
        self._next: dict[tuple[Language, str, str], list[FollowUp]] = defaultdict(list)
        self._capital_next: dict[Language, list[FollowUp]] = defaultdict(list)
        self._words: dict[Language, list[str]] = {}
        self._cities: dict[Language, list[str]] = {}
        for language in LANGUAGES:
            for question in questions(language):
                if not question.withheld:
                    kind = "listed outside" if question.kind == "outside" else question.kind
                    self._by_kind[language, kind].append(question)
            self._by_kind[language, "near outside"] = [q for q in near_outside(language) if not q.withheld]
            for follow_up in follow_ups(language):
                if follow_up.withheld:
                    continue
                if follow_up.first.kind == "capital":
                    self._capital_next[language].append(follow_up)
                else:
                    self._next[language, follow_up.first.kind, follow_up.first.subject].append(follow_up)
            outside = self._by_kind[language, "listed outside"]
            names = {country[language] for country in countries()}
            cities = {country[f"{language}_capital"] for country in countries()}
            self._cities[language] = sorted(city for city in cities if not any(city in name for name in names))
            self._words[language] = sorted({word for question in outside for word in question.text.split()})

    def draw(self) -> list[Message]:
        """One conversation: user and assistant in turns, perhaps behind a system message."""
        rng = self._rng
        language = rng.choice(LANGUAGES)
        turns = rng.choices((1, 2, 3, 5, 24), (0.5, 0.26, 0.14, 0.09, 0.01))[0]
        messages: list[Message] = []
        previous: Question | None = None
        for _ in range(turns):
            if rng.random() < 0.05:
                language, previous = rng.choice(LANGUAGES), None
            question, answer, previous = self._turn(language, previous)
            messages += [Message("user", self._as_typed(question)), Message("assistant", answer)]
        system = self._system_prompt(joke=previous is not None and previous.kind == "joke")
        return [Message("system", system), *messages] if system else messages

    def _turn(self, language: Language, previous: Question | None) -> tuple[str, str, Question | None]:
        """(text, answer, the question that a follow-up would refer to)."""
        rng = self._rng
        file = language_file(language)
        if previous is not None and previous.kind == "capital" and rng.random() < 0.45:
            follow_up = rng.choice(self._capital_next[language])
            return follow_up.text, follow_up.answer, previous
        if previous is not None and previous.kind == "topic":
            known = self._next[language, previous.kind, previous.subject]
            if rng.random() < (0.5 if known else 0.08):
                if known:
                    follow_up = rng.choice(known)
                    return follow_up.text, follow_up.answer, None
                return rng.choice(file["phrasings"]["more"]), file["cannot"], None
        kind = rng.choices(list(_KIND_WEIGHTS), list(_KIND_WEIGHTS.values()))[0]
        if kind == "unknown":
            return self._unknown(language), file["cannot"], None
        question = rng.choice(self._by_kind[language, kind])
        return question.text, question.answer, question

    def _unknown(self, language: Language) -> str:
        """A question that the corpus cannot answer, also in a well-known form: teaches the model to say so."""
        rng = self._rng
        phrasings = language_file(language)["phrasings"]
        form = rng.choices(("capital", "what", "words", "letters"), (0.35, 0.2, 0.3, 0.15))[0]
        if form == "capital":
            return str(rng.choice(phrasings["capital"]).format(country=self._unknown_name(language)))
        if form == "what":
            return str(rng.choice(phrasings["what"]).format(x=self._unknown_name(language)))
        if form == "words":  # words of out-of-scope questions, in no order
            words = rng.choices(self._words[language], k=rng.randint(1, 7))
        else:
            letters = rng.choice((_LETTERS[language], string.digits, string.ascii_letters))
            words = ["".join(rng.choices(letters, k=rng.randint(2, 9))) for _ in range(rng.randint(1, 5))]
        return ("" if language == "ja" else " ").join(words)

    def _unknown_name(self, language: Language) -> str:
        """A name of no country and no topic: made up, or a city's."""
        rng = self._rng
        if rng.random() < 0.4:
            name = rng.choice(self._cities[language])
        else:
            syllables = _SYLLABLES[language]
            name = "".join(rng.choice(syllables) for _ in range(rng.randint(2, 4))).capitalize()
        return f"{rng.choice(('του', 'της', 'των'))} {name}" if language == "el" else name

    def _system_prompt(self, joke: bool) -> str:
        rng = self._rng
        file = language_file(rng.choice(LANGUAGES))
        if rng.random() < 0.5:
            return ""
        return str(rng.choice(file["comedian" if rng.random() < (0.7 if joke else 0.1) else "system"]))

    def _as_typed(self, text: str) -> str:
        """The question as people type it: sometimes without capitals or its last mark."""
        rng = self._rng
        if rng.random() < 0.1:
            text = " ".join(word for word in text.split(" ") if word.lower() not in _DROPPED or rng.random() < 0.5)
        if rng.random() < 0.3:
            text = text.lower()
        if rng.random() < 0.2:
            text = text.rstrip(".?!;。？！")
        if rng.random() < 0.03:
            text = f" {text} "
        return text
