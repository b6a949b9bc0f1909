"""Messages from and to protobuf's text format (`.prototxt`); every error says the line.

Read: `name: value`, `name { ... }`, `name: < ... >`, lists in brackets, `,` and `;` between fields, `#` comments, adjacent
strings joined, decimal, hex and octal integers, floats with a trailing `f`, inf and nan. Comments and strings may hold bytes of
any encoding, which stay as they are. Fields that the schema does not know are kept as they are spelt (wire.extra). Refused, as protobuf
refuses them: a singular field given twice, a value of the wrong type or out of range. Also refused: nesting deeper than 32.
Source: protobuf.dev, "Text Format Language Specification".
"""

from __future__ import annotations

import re
from typing import Any, NoReturn

import numpy as np

from preimage.errors import FileFormatError
from preimage.io.caffe.wire.detect import marked_encoding
from preimage.io.caffe.wire.extra import Extra
from preimage.io.caffe.wire.message import Message, checked
from preimage.io.caffe.wire.schema import ENUMS, Field, message_fields
from preimage.records import record

__all__ = ["format_text", "parse_text", "text_of_bytes"]

_MAX_DEPTH = 32
_MAX_TOKENS = 8_000_000
_TOKEN = re.compile(
    r"""(?P<space>[ \t\r\f\v\u00a0\u3000\ufeff]+|\#[^\n]*)|(?P<line>\n)
    |(?P<string>"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*')
    |(?P<number>[-+]?(?:0[xX][0-9a-fA-F]+|(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?[fF]?)(?![A-Za-z0-9_.]))
    |(?P<word>-?[A-Za-z_][A-Za-z0-9_]*)
    |(?P<mark>[{}<>\[\]:;,])""",
    re.VERBOSE,
)
_ESCAPE = re.compile(r"\\(?:([0-7]{1,3})|x([0-9a-fA-F]{1,2})|(.))", re.DOTALL)
_SIMPLE = {"n": 10, "t": 9, "r": 13, "a": 7, "b": 8, "f": 12, "v": 11, "\\": 92, "'": 39, '"': 34, "?": 63}
_BOOLS = {"true": True, "True": True, "t": True, "1": True, "false": False, "False": False, "f": False, "0": False}
_SPECIAL = {"inf": float("inf"), "infinity": float("inf"), "nan": float("nan")}


@record
class _Token:
    kind: str
    text: str
    line: int


def text_of_bytes(data: bytes) -> str:
    """A file's text: UTF-16 and UTF-32 by their marks, else UTF-8, where bytes that are none stay as they are (surrogates, as in file names).

    Lines may end as on any system. Raises: FileFormatError for UTF-16 or UTF-32 that is damaged.
    """
    encoding = marked_encoding(data)
    if encoding is None:
        text = data.removeprefix(b"\xef\xbb\xbf").decode("utf-8", "surrogateescape")
    else:
        try:
            text = data.decode(encoding)
        except UnicodeError as problem:
            raise FileFormatError(f"is damaged {encoding.upper()} text: {problem}") from None
    text = text.replace("\r\n", "\n")
    return text if "\n" in text else text.replace("\r", "\n")


def parse_text(type_name: str, text: str, name: str = "prototxt", *, strict: bool = False) -> Message:
    """The message that the text describes; `name` is the file's name in errors. strict: unknown fields are errors, as protobuf has it."""
    return _Parser(text, name, strict).message(type_name)


class _Parser:
    """A recursive-descent parser with one token in hand."""

    def __init__(self, text: str, name: str, strict: bool) -> None:
        self.text, self.name, self.at, self.line, self.count = text, name, 0, 1, 0
        self.strict = strict
        self.token = self._next()

    def fail(self, problem: str, line: int | None = None) -> NoReturn:
        raise FileFormatError(f"{self.name}, line {line or self.token.line}: {problem}")

    def _next(self) -> _Token:
        while self.at < len(self.text):
            found = _TOKEN.match(self.text, self.at)
            if found is None:
                shown = self.text[self.at : self.at + 12].split("\n")[0]
                raise FileFormatError(f"{self.name}, line {self.line}: cannot read {shown!r}")
            self.at = found.end()
            kind = found.lastgroup or ""
            if kind == "line":
                self.line += 1
            elif kind != "space":
                self.count += 1
                if self.count > _MAX_TOKENS:
                    raise FileFormatError(f"{self.name}, line {self.line}: more than {_MAX_TOKENS} words")
                return _Token(kind, found.group(), self.line)
        return _Token("end", "the end of the text", self.line)

    def take(self) -> _Token:
        token, self.token = self.token, self._next()
        return token

    def skip(self, mark: str) -> bool:
        if self.token.kind == "mark" and self.token.text == mark:
            self.take()
            return True
        return False

    def message(self, type_name: str, closing: str = "", depth: int = 0, opened: int = 0) -> Message:
        if depth > _MAX_DEPTH:
            self.fail(f"messages nested deeper than {_MAX_DEPTH}")
        out = Message(type_name)
        while not (closing and self.skip(closing)):
            if self.token.kind == "end":
                if closing:
                    self.fail(f"{closing!r} is missing for the {type_name} opened on line {opened}")
                return out
            word = self.take()
            if word.kind != "word" or word.text.startswith("-"):
                self.fail(f"a field name of {type_name} was expected, found {word.text!r}", word.line)
            self.field(out, word, depth)
            while self.skip(",") or self.skip(";"):
                pass
        return out

    def field(self, out: Message, word: _Token, depth: int) -> None:
        name, convert = _ALIASES.get((out.type_name, word.text), (word.text, None))
        field = message_fields(out.type_name).get(name)
        if field is None:
            if self.strict:
                self.fail(f"{out.type_name} has no field {word.text!r}{_near(out.type_name, word.text)}", word.line)
            out.extra += tuple(self.extra(word, depth))
            return
        if not field.repeated and name in out._values:
            self.fail(f"{word.text} is given twice", word.line)
        colon = self.skip(":")
        if field.kind != "message" and not colon:
            self.fail(f"':' is missing after {word.text!r}", word.line)
        if field.repeated and self.skip("["):
            values = [] if self.skip("]") else [self.value(field, depth)]
            while values and not self.skip("]"):
                if not self.skip(","):
                    self.fail(f"',' or ']' was expected in the list of {word.text}, found {self.token.text!r}")
                values.append(self.value(field, depth))
            out._values.setdefault(name, []).extend(values)
            return
        if field.kind == "enum" and convert is None and self.is_foreign_word(field):
            out.extra += (Extra(word.text, self.take().text, word.line),)
            return
        value = self.value(field, depth) if convert is None else convert(self, field)
        if field.repeated:
            out._values.setdefault(name, []).append(value)
        else:
            out._values[name] = value

    def is_foreign_word(self, field: Field) -> bool:
        """Whether the value of an enum is a word that only a fork knows: kept like the fields of forks."""
        return not self.strict and self.token.kind == "word" and self.token.text not in ENUMS[field.type]

    def extra(self, word: _Token, depth: int) -> list[Extra]:
        """A field that the schema does not know: one, or each of a list."""
        colon = self.skip(":")
        if not (colon and self.skip("[")):
            return [Extra(word.text, self.spelt(word, colon, depth), word.line)]
        found = [] if self.skip("]") else [Extra(word.text, self.spelt(word, colon, depth), word.line)]
        while found and not self.skip("]"):
            if not self.skip(","):
                self.fail(f"',' or ']' was expected in the list of {word.text}, found {self.token.text!r}")
            found.append(Extra(word.text, self.spelt(word, colon, depth), word.line))
        return found

    def spelt(self, word: _Token, colon: bool, depth: int) -> str | tuple[Extra, ...]:
        """The value of such a field."""
        if depth >= _MAX_DEPTH:
            self.fail(f"messages nested deeper than {_MAX_DEPTH}")
        opened = self.token.line
        for opening, closing in ("{}", "<>"):
            if self.skip(opening):
                inner: list[Extra] = []
                while not self.skip(closing):
                    name = self.take()
                    if name.kind != "word" or name.text.startswith("-"):
                        self.fail(f"{closing!r} or a field name was expected in {word.text!r} of line {opened}", name.line)
                    inner += self.extra(name, depth + 1)
                    while self.skip(",") or self.skip(";"):
                        pass
                return tuple(inner)
        if not colon:
            self.fail(f"':' is missing after {word.text!r}", word.line)
        token = self.take()
        if token.kind not in ("string", "number", "word"):
            self.fail(f"{word.text} needs a value, found {token.text!r}", token.line)
        parts = [token.text]
        while token.kind == "string" and self.token.kind == "string":
            parts.append(self.take().text)
        return " ".join(parts)

    def value(self, field: Field, depth: int) -> Any:
        token = self.token
        if field.kind == "message":
            for opening, closing in ("{}", "<>"):
                if self.skip(opening):
                    return self.message(field.type, closing, depth + 1, token.line)
            self.fail(f"'{{' was expected after {field.name}, found {token.text!r}")
        self.take()
        if field.kind in ("string", "bytes"):
            if token.kind != "string":
                self.fail(f"{field.name} needs a quoted string, found {token.text!r}", token.line)
            raw = self.unquoted(token)
            while self.token.kind == "string":
                raw += self.unquoted(self.take())
            return raw if field.kind == "bytes" else raw.decode("utf-8", "surrogateescape")
        try:
            return checked(field, self.plain(field, token))
        except FileFormatError as problem:
            self.fail(str(problem), token.line)

    def plain(self, field: Field, token: _Token) -> object:
        """The number, bool or enum word that a token stands for; checked() refuses what does not fit."""
        text = token.text
        if field.kind == "bool" and text in _BOOLS:
            return _BOOLS[text]
        if field.kind == "enum" and token.kind == "word":
            return ENUMS[field.type].get(text, text)
        if field.kind in ("float", "double"):
            special = _SPECIAL.get(text.lower().lstrip("+-"))
            if special is not None:
                return -special if text[0] == "-" else special
            if token.kind == "number":
                return float(_integer(text)) if "x" in text.lower() else float(text.rstrip("fF"))
        elif token.kind == "number" and (whole := _integer(text)) is not None:
            return whole
        return text

    def unquoted(self, token: _Token) -> bytes:
        def byte(found: re.Match[str]) -> str:
            octal, hexa, char = found.groups()
            code = int(octal, 8) if octal else int(hexa, 16) if hexa else _SIMPLE.get(char, -1)
            if not 0 <= code <= 255:
                self.fail(f"unknown escape {found.group()!r}", token.line)
            return chr(code) if code < 128 else chr(0xDC00 + code)

        try:
            return _ESCAPE.sub(byte, token.text[1:-1]).encode("utf-8", "surrogateescape")
        except UnicodeEncodeError:
            self.fail(f"{token.text[:24]!r} is no valid text", token.line)


def _integer(text: str) -> Any:
    """A whole number in C's notation, None if it is none (or absurdly long)."""
    sign, digits = (-1, text[1:]) if text[0] == "-" else (1, text.lstrip("+"))
    if len(digits) > 40:
        return None
    try:
        return sign * int(digits, 16 if digits[:2] in ("0x", "0X") else 8 if len(digits) > 1 and digits[0] == "0" else 10)
    except ValueError:
        return None


def _near(type_name: str, word: str) -> str:
    from difflib import get_close_matches

    close = get_close_matches(word[:64], message_fields(type_name), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


def _ceil_mode(parser: _Parser, field: Field) -> object:
    token = parser.take()
    if token.text not in _BOOLS:
        parser.fail(f"ceil_mode: {token.text!r} is no bool", token.line)
    return ENUMS["RoundMode"]["CEIL" if _BOOLS[token.text] else "FLOOR"]


# Forks spell BVLC's round_mode as a bool.
_ALIASES = {("PoolingParameter", "ceil_mode"): ("round_mode", _ceil_mode)}


def format_text(message: Message, indent: str = "") -> str:
    """The message as text that reads back equal; floats are the shortest that give the same float32.

    Fields that are not known have no text form: a comment says so.
    """
    lines: list[str] = []
    for field, value in message.items():
        for item in value if field.repeated else (value,):
            if field.kind == "message":
                lines.append(f"{indent}{field.name} {{\n{format_text(item, indent + '  ')}{indent}}}\n")
            else:
                lines.append(f"{indent}{field.name}: {_written(field, item)}\n")
    lines += [extra.text(indent) for extra in message.extra]
    if message.unknown:
        lines.append(f"{indent}# {len(message.unknown)} bytes of fields that are not known here are left out\n")
    return "".join(lines)


def _written(field: Field, value: Any) -> str:
    if field.kind == "string":
        return '"' + "".join(_escaped(char) for char in value) + '"'
    if field.kind == "bytes":
        return '"' + "".join(_escaped(chr(code)) if code < 128 else f"\\{code:03o}" for code in value) + '"'
    if field.kind == "bool":
        return "true" if value else "false"
    if field.kind == "enum":
        return next((word for word, number in ENUMS[field.type].items() if number == value), str(value))
    if field.kind == "float":
        return str(np.float32(value))
    return repr(float(value)) if field.kind == "double" else str(int(value))


def _escaped(char: str) -> str:
    if char in '"\\':
        return "\\" + char
    if char == "\n":
        return "\\n"
    return f"\\{ord(char):03o}" if ord(char) < 32 or ord(char) == 127 else char
