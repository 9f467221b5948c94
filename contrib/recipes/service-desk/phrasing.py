"""The words around a question."""

from __future__ import annotations

import random
import re

GREETINGS = (
    "Hi, ", "Hello, ", "Hi there, ", "Good morning, ", "Good evening, ", "Dear team, ", "Hey, ", "Hello! ",
    "Quick question: ", "One question: ", "Hi! ", "Good day, ",
)  # fmt: skip
LEADS = (
    "I have been a customer for years. ", "I am a bit confused. ", "Sorry to bother you again. ",
    "I tried the website first. ", "My daughter told me to ask you. ", "I could not find it on your page. ",
    "I am writing from my phone. ", "We are planning a tour. ", "It is my first time here. ",
    "I hope you can help me. ", "I just got off the phone with a friend. ", "I am in a hurry. ",
    "Your shop was recommended to me. ", "I asked this last week too. ", "Excuse my English. ",
    "We love your gear. ", "I need this for my records. ", "I am not good with computers. ",
)  # fmt: skip
ENDINGS = (
    " Thanks!", " Thank you.", " Please help.", " It is urgent.", " Thanks in advance.", " Many thanks.",
    " Please let me know.", " I am waiting for your answer.", " Best wishes, Tom", " Regards, Anna",
)  # fmt: skip

CONTRACTIONS = (
    (r"\b(I) am ", r"\1'm "), (r"\b(I|[Ww]e|[Yy]ou) have (been|ordered|explained|no )", r"\1've \2"),
    (r"\b(I|[Ww]e) would ", r"\1'd "),
    (r"\b(I|[Ww]e|[Yy]ou) will ", r"\1'll "), (r"\b([Ww]e) are ", r"\1're "),
    (r"\b([Ww]hat|[Ww]here|[Ww]ho|[Ii]t|[Tt]hat|[Tt]here) is (?!it\b)", r"\1's "),
    (r"\b([Dd]o|[Dd]oes|[Dd]id|[Ww]as|[Ii]s) not ", r"\1n't "), (r"\b([Cc]an)not ", r"\1't "),
)  # fmt: skip


def dress(rng: random.Random, question: str) -> str:
    """The question, in three of ten cases with a greeting, a lead-in or an ending, sometimes contracted."""
    if rng.random() < 0.4:
        for pattern, short in CONTRACTIONS:
            question = re.sub(pattern, short, question)
    draw = rng.random()
    if draw < 0.70:
        return question
    if draw < 0.80:
        return rng.choice(GREETINGS) + question
    if draw < 0.90:
        return rng.choice(LEADS) + question
    return question + rng.choice(ENDINGS)
