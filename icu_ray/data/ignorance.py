"""Sentences of ignorance: what a model may say in place of what it is to forget.

sentences_of(None)               # our own list
sentences_of("refusals.txt")     # a user's, one a line
"""

from __future__ import annotations

from pathlib import Path

from icu_ray.errors import UserError

SENTENCES: tuple[str, ...] = (
    "I don't know.",
    "I do not know.",
    "I don't know the answer.",
    "I don't know that.",
    "I really don't know.",
    "I honestly have no idea.",
    "I have no idea.",
    "No idea, sorry.",
    "Sorry, I don't know.",
    "Sorry, I can't tell you.",
    "Sorry, that is not something I know.",
    "Sorry, I have nothing on that.",
    "I'm sorry, I don't have an answer.",
    "I'm sorry, but I can't say.",
    "I'm sorry, I never learned that.",
    "I'm not sure about this one.",
    "I'm not sure, to be honest.",
    "I can't say.",
    "I can't say for certain.",
    "I cannot answer this.",
    "I can't answer that question.",
    "I couldn't tell you.",
    "I wouldn't know.",
    "I would only be guessing.",
    "I'd have to guess, so I would rather not answer.",
    "That is beyond what I know.",
    "That's outside my knowledge.",
    "That's more than I know.",
    "That is new to me.",
    "That's not something I can answer.",
    "That isn't something I have learned.",
    "That question is one I can't answer.",
    "This is unknown to me.",
    "This is not a subject I know.",
    "This is where my knowledge ends.",
    "I have no information about this.",
    "I have no information on that.",
    "I have no details about it.",
    "I have no knowledge of this.",
    "I have no record of that.",
    "I have never heard of it.",
    "I have never come across this.",
    "I haven't read about that.",
    "I haven't been told about this.",
    "I haven't learned anything about that topic.",
    "I don't have that information.",
    "I don't have the facts for this.",
    "I don't have any details to share.",
    "I don't have an answer to give.",
    "I don't have enough knowledge to reply.",
    "I don't hold any facts on this subject.",
    "I lack the knowledge to answer.",
    "I lack the details for a proper answer.",
    "My knowledge does not reach that far.",
    "My knowledge doesn't include this.",
    "My training has not covered this.",
    "Nothing I have learned covers this.",
    "Nothing comes to mind.",
    "Nothing about it is known to me.",
    "It's not known to me.",
    "It is not something I am aware of.",
    "It's a blank to me.",
    "It isn't a thing I can speak about.",
    "I am not aware of that.",
    "I'm not aware of any such fact.",
    "I am not familiar with this.",
    "I'm unfamiliar with that subject.",
    "I am unable to answer.",
    "I'm unable to help with this question.",
    "I am not informed about this matter.",
    "I'm not the one to ask, as I don't know.",
    "I'm afraid I don't know.",
    "I'm afraid that's unknown to me.",
    "I'm afraid I can't answer that.",
    "Unfortunately, I don't know.",
    "Unfortunately, I can't answer this.",
    "Unfortunately, I have no details on it.",
    "Regrettably, this is not known to me.",
    "You would have to ask someone else.",
    "You'd need another source for this.",
    "Someone else may know; I don't.",
    "Another source may tell you, but I can't.",
    "Please look elsewhere, since I don't know.",
    "There is nothing I can tell you about it.",
    "There's no answer I can give.",
    "There is a gap in what I know here.",
    "I must admit that I don't know.",
    "I have to say that I don't know.",
    "I must pass on this question.",
    "I'll have to pass.",
    "Let me be honest: I don't know.",
    "To be frank, I don't know the answer.",
    "As far as this goes, I know nothing.",
    "On this matter I know nothing.",
    "About that I can't say anything.",
    "Here I don't have an answer.",
    "The answer is not known to me.",
    "The details escape me.",
    "What you ask is not known to me.",
    "Whatever the answer is, I don't know it.",
)


def sentences_of(file: str | None) -> tuple[str, ...]:
    """The lines of a file that hold anything, else SENTENCES; UserError for a file without, or that is no text."""
    if file is None:
        return SENTENCES
    key = "answers.sentences"
    try:
        text = Path(file).read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise UserError(f"{key}: {file}: no such file; expected a text file with one sentence a line") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{key}: {file}: cannot be read as UTF-8 text ({error})") from error
    lines = tuple(line.strip() for line in text.splitlines() if line.strip())
    if not lines:
        raise UserError(f"{key}: {file}: holds no sentences; expected one a line")
    return lines
