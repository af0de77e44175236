"""OpenSSH's wildcards: `*` for any characters, `?` for one, and nothing else (ssh_config(5), PATTERNS)."""

from __future__ import annotations


def matches_wildcard(pattern: str, text: str) -> bool:
    """Match all of `text`, letter by letter, in time len(pattern) * len(text)."""
    at = star = mark = 0
    seen_star = False
    position = 0
    while position < len(text):
        if at < len(pattern) and pattern[at] == "*":
            seen_star, star, mark = True, at, position
            at += 1
        elif at < len(pattern) and pattern[at] in ("?", text[position]):
            at += 1
            position += 1
        elif seen_star:  # let the last star take one character more
            mark += 1
            at, position = star + 1, mark
        else:
            return False
    return not pattern[at:].strip("*")
