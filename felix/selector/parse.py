"""From text to `Selector`: the grammar of Calico v3 selectors.

    expr  := and { "||" and }            and  := unary { "&&" unary }
    unary := "!" unary | "(" expr ")" | atom
    atom  := LABEL ("==" | "!=" | "contains" | "starts with" | "ends with") STRING
           | LABEL ["not"] "in" "{" [STRING {"," STRING}] "}" | "has(" LABEL ")" | "all()" | "global()"

An empty text is `all()`. Where the original grammar and that of v3 differ, v3 decides: blanks inside the parentheses
of `has( a )`, `all( )` and `global( )` are free (before them they are not), the empty set `{}` is legal and has no
member. Line breaks count as blanks but may not stand inside a literal; `notin` and a trailing comma are errors.
`global()` holds for things without a namespace, wherever it stands.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import weakref

from felix.selector.ast import (
    All,
    Compare,
    Global,
    Has,
    Member,
    Node,
    Restrictions,
    Test,
    all_of,
    any_of,
    compile_test,
    find_restrictions,
    negation,
    render,
)
from felix.selector.tokens import Kind, SelectorError, Token, split_tokens

__all__ = ["Selector", "SelectorError", "make_selector", "parse"]

NESTING_LIMIT = 100  # parentheses inside one another; keeps every walk over a tree far from the stack's end


class Selector:
    """A selector in canonical form; equal selectors are the same object, so `is`, `==` and hashing all agree.

    text: canonical text: one blank between tokens, double quotes where possible, sets sorted, no needless parentheses.
    id: 24 characters of [a-z2-7], the first an `s`; depends on `text` alone, so it is stable over restarts.
    matches: says whether labels satisfy the selector.
    restrictions: labels that must be present in everything it matches, with the values they may have (None: any).
    """

    __slots__ = ("__weakref__", "id", "matches", "restrictions", "root", "text")

    def __init__(self, root: Node, text: str) -> None:
        digest = hashlib.sha224(text.encode("utf-8", "surrogatepass")).digest()
        self.root = root
        self.text = text
        self.id = "s" + base64.b32encode(digest).decode("ascii").lower()[:23]
        self.matches: Test = compile_test(root)
        self.restrictions: Restrictions = find_restrictions(root)

    @property
    def is_impossible(self) -> bool:
        """Whether it is plain from the text that no labels can match (`a in {}`, `a == "x" && a == "y"`)."""
        return any(values is not None and not values for values in self.restrictions.values())

    def __repr__(self) -> str:
        return f"Selector({self.text!r})"

    def __str__(self) -> str:
        return self.text


_selector_by_text: weakref.WeakValueDictionary[str, Selector] = weakref.WeakValueDictionary()


def make_selector(root: Node) -> Selector:
    """Returns the one selector that has the canonical text of `root`."""
    text = render(root)
    selector = _selector_by_text.get(text)
    if selector is None:
        selector = _selector_by_text[text] = Selector(root, text)
    return selector


@functools.lru_cache(maxsize=4096)
def parse(text: str) -> Selector:
    """Returns the selector that `text` names. Raises SelectorError with position and reason when it names none."""
    return make_selector(_Parser(text).parse())


class _Parser:
    """Recursive descent over the tokens of one text; used once."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.tokens = split_tokens(text)
        self.index = 0
        self.depth = 0

    def parse(self) -> Node:
        if self.is_at(Kind.END):
            return All()
        node = self.parse_or()
        if not self.is_at(Kind.END):
            raise self.refuse("'&&', '||' or the end")
        return node

    @property
    def current(self) -> Token:
        return self.tokens[self.index]

    def refuse(self, expected: str) -> SelectorError:
        return SelectorError(self.text, self.current.position, f"expected {expected}, found {self.current}")

    def take(self) -> Token:
        token = self.current
        self.index += 1
        return token

    def is_at(self, kind: Kind) -> bool:
        return self.current.kind is kind

    def is_mark(self, mark: str) -> bool:
        return self.current.kind is Kind.MARK and self.current.text == mark

    def take_mark(self, mark: str) -> None:
        if not self.is_mark(mark):
            raise self.refuse(repr(mark))
        self.index += 1

    def parse_or(self) -> Node:
        operands = [self.parse_and()]
        while self.is_mark("||"):
            self.index += 1
            operands.append(self.parse_and())
        return any_of(operands)

    def parse_and(self) -> Node:
        operands = [self.parse_unary()]
        while self.is_mark("&&"):
            self.index += 1
            operands.append(self.parse_unary())
        return all_of(operands)

    def parse_unary(self) -> Node:
        negated = False
        while self.is_mark("!"):
            self.index += 1
            negated = not negated
        node = self.parse_group() if self.is_mark("(") else self.parse_atom()
        return negation(node) if negated else node

    def parse_group(self) -> Node:
        self.depth += 1
        if self.depth > NESTING_LIMIT:
            reason = f"more than {NESTING_LIMIT} parentheses inside one another"
            raise SelectorError(self.text, self.current.position, reason)
        self.take_mark("(")
        node = self.parse_or()
        self.take_mark(")")
        self.depth -= 1
        return node

    def parse_atom(self) -> Node:
        if not self.is_at(Kind.WORD):
            raise self.refuse("a label, has(...), all(), global(), '!' or '('")
        word = self.take()
        # A function's parenthesis touches its name: `has (a)` is a label `has` without an operator.
        is_call = self.is_mark("(") and self.current.position == word.end
        if is_call and word.text in ("has", "all", "global"):
            return self.parse_call(word)
        return self.parse_comparison(word.text)

    def parse_call(self, word: Token) -> Node:
        self.take_mark("(")
        node: Node = All() if word.text == "all" else Global()
        if word.text == "has":
            if not self.is_at(Kind.WORD):
                raise self.refuse("a label")
            node = Has(self.take().text)
        self.take_mark(")")
        return node

    def parse_comparison(self, label: str) -> Node:
        operator = self.current
        if operator.kind is Kind.MARK and operator.text in ("==", "!="):
            self.index += 1
            return Compare(label, operator.text, self.take_string())
        if operator.kind is Kind.WORD and operator.text in ("in", "not"):
            self.index += 1
            if operator.text == "not":
                self.take_word("in")
            return Member(label, self.take_set(), negated=operator.text == "not")
        if operator.kind is Kind.WORD and operator.text in ("contains", "starts", "ends"):
            self.index += 1
            if operator.text == "contains":
                return Compare(label, "contains", self.take_string())
            self.take_word("with")
            return Compare(label, f"{operator.text} with", self.take_string())
        expected = f"an operator after the label {label!r} (==, !=, in, not in, contains, starts with, ends with)"
        raise self.refuse(expected)

    def take_word(self, word: str) -> None:
        if self.current.kind is not Kind.WORD or self.current.text != word:
            raise self.refuse(repr(word))
        self.index += 1

    def take_string(self) -> str:
        if not self.is_at(Kind.STRING):
            raise self.refuse(Kind.STRING.value)
        return self.take().text

    def take_set(self) -> tuple[str, ...]:
        self.take_mark("{")
        values: set[str] = set()
        if not self.is_mark("}"):
            values.add(self.take_string())
            while self.is_mark(","):
                self.index += 1
                values.add(self.take_string())
        self.take_mark("}")
        return tuple(sorted(values))
