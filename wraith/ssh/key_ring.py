"""The keys that may log in now: authorized_keys, authorities and revoked keys, read again when they have changed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from .authorized_keys import MAX_FILE, parse_authority_line, parse_line
from .grant import Grant
from .login_rules import LoginRules, Refusal
from .offer import Offer
from .revoked_keys import MAX_FILE as MAX_REVOKED_FILE
from .revoked_keys import parse_revoked_line
from .watched_file import WatchedFile


class KeyRing:
    """Judges who may log in, by the files as they are."""

    def __init__(
        self,
        authorized_keys: Path | bytes,
        *,
        authorities: Sequence[Path | bytes] = (),
        principals: Iterable[str] = (),
        revoked_keys: Path | bytes | None = None,
    ) -> None:
        """Read the files; an authorized_keys that does not exist yet is empty. Raises UnusableFile."""
        self._authorized = WatchedFile(
            authorized_keys, "authorized_keys", parse_line, MAX_FILE, loss="nobody can log in by it", needed=False
        )
        self._authorities = [
            WatchedFile(
                source, "certificate authority", parse_authority_line, MAX_FILE, loss="its certificates count no more"
            )
            for source in authorities
        ]
        self._principals = frozenset(principals)
        self._revoked: WatchedFile[str] | None = None
        if revoked_keys is not None:
            self._revoked = WatchedFile(
                revoked_keys, "revoked keys", parse_revoked_line, MAX_REVOKED_FILE, loss="nobody new can log in"
            )
        self._last_revoked: frozenset[str] = frozenset()
        self._rules = self._make_rules()

    @property
    def missing(self) -> bool:
        """Whether there is no authorized_keys yet."""
        return self._authorized.missing

    def refresh(self, *, always: bool = False) -> bool:
        """Read what has changed, or `always` everything; whether anything was read."""
        changed = [file.refresh(always=always) for file in (self._authorized, *self._authorities)]
        if self._revoked is not None:
            changed.append(self._revoked.refresh(always=always))
        if any(changed):
            self._rules = self._make_rules()
        return any(changed)

    def judge(self, offer: Offer, user: str, address: str, now: float) -> Grant | Refusal:
        """Judge a new login by the files as they are now."""
        self.refresh()
        if self._revoked is not None and not self._revoked.readable:
            return Refusal.REVOCATIONS_UNREADABLE  # whoever is in it would get in
        return self._rules.judge(offer, user, address, now)

    def judge_again(self, grant: Grant, now: float) -> Grant | Refusal:
        """Judge a session by the files as `refresh` found them.

        While the revoked keys cannot be read those that were read last count: it is no reason to
        end the sessions of everybody.
        """
        return self._rules.judge(grant.offer, grant.user, grant.address, now)

    def _make_rules(self) -> LoginRules:
        if self._revoked is not None and self._revoked.readable:
            self._last_revoked = frozenset(self._revoked.entries)
        return LoginRules(
            lines=self._authorized.entries,
            authorities=tuple(line for file in self._authorities for line in file.entries),
            principals=self._principals,
            revoked=self._last_revoked,
        )
