"""The words of a selector: text in, tokens with their positions out.

Space, tab and line breaks are free between tokens. Words are labels and keywords alike; only the parser can tell,
because keywords are not reserved: `in == 'x'` and `has not in {'y'}` are good selectors.
"""

from __future__ import annotations

import enum
import re
from typing import NamedTuple

from felix.errors import DataError, shorten

LABEL_LIMIT = 512  # characters, as in Calico


class SelectorError(DataError):
    """A text is no selector. `position` is the index of the first character that cannot be used."""

    def __init__(self, text: str, position: int, reason: str) -> None:
        super().__init__(f"selector {shorten(text)!r}: {reason}, at character {position + 1}")
        self.text = text
        self.position = position
        self.reason = reason


class Kind(enum.Enum):
    """What a token is; the value is how a message calls it."""

    WORD = "a word"
    STRING = "a quoted string"
    MARK = "a mark"
    END = "the end of the selector"


class Token(NamedTuple):
    """One token. text: the word, the string without its quotes, or the mark itself; empty at the end."""

    kind: Kind
    text: str
    position: int
    end: int

    def __str__(self) -> str:
        return Kind.END.value if self.kind is Kind.END else repr(self.text)


_TOKEN = re.compile(
    r"""(?P<word>[A-Za-z0-9_./-]+)|(?P<string>'[^'\n]*'|"[^"\n]*")|(?P<mark>==|!=|&&|\|\||[!(){},])""",
)
_BLANK = re.compile(r"[ \t\r\n]*")
_REASON_BY_CHARACTER = {
    "'": "the string has no closing quote on its line",
    '"': "the string has no closing quote on its line",
    "=": "a single '=' compares nothing; write '=='",
    "&": "a single '&' joins nothing; write '&&'",
    "|": "a single '|' joins nothing; write '||'",
}


def split_tokens(text: str) -> list[Token]:
    """Returns the tokens of a selector in order, the last one being the END token.

    Strings have no escapes: a backslash is a backslash. Raises SelectorError at the first character that fits nothing.
    """
    tokens: list[Token] = []
    position = _skip_blank(text, 0)
    while position < len(text):
        found = _TOKEN.match(text, position)
        if found is None:
            reason = _REASON_BY_CHARACTER.get(text[position], f"{text[position]!r} has no meaning in a selector")
            raise SelectorError(text, position, reason)
        tokens.append(_to_token(text, found))
        position = _skip_blank(text, found.end())
    tokens.append(Token(Kind.END, "", len(text), len(text)))
    return tokens


def _skip_blank(text: str, position: int) -> int:
    blank = _BLANK.match(text, position)
    return blank.end() if blank else position


def _to_token(text: str, found: re.Match[str]) -> Token:
    content, start, end = found.group(), found.start(), found.end()
    if found.lastgroup == "string":
        return Token(Kind.STRING, content[1:-1], start, end)
    if found.lastgroup == "mark":
        return Token(Kind.MARK, content, start, end)
    if len(content) > LABEL_LIMIT:
        raise SelectorError(text, start, f"a label name has at most {LABEL_LIMIT} characters, this has {len(content)}")
    return Token(Kind.WORD, content, start, end)
