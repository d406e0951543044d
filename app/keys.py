"""The keys that are valid now, in memory, and the check against them.

A key is `gs_<id>_<secret>`; only HMAC-SHA-256(pepper, secret) is stored (`app/peppers.py`).
"""

import hmac
import math
import secrets
import threading
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

from app.access import ANYONE, Caller, Need
from app.errors import Forbidden, Unauthenticated
from app.peppers import PepperSource
from app.tenant import Tenant
from variants.errors import Invalid
from variants.key_table import KeyRecord, KeyTable, Secret
from variants.terms import UNLIMITED, Terms

MAX_OVERLAP_S = 30 * 86400.0
LATEST_END = datetime(3000, 1, 1, tzinfo=UTC)
"""When keys end at the latest: far from where dates end, in whatever time zone they are told."""

_NOBODY = Secret(hmac="0" * 64, pepper=None)


class _Valid(NamedTuple):
    """A key that is valid now: who it is, and its secrets, the old one or nobody's."""

    caller: Caller
    secrets: tuple[Secret, Secret]


class Keys:
    """`version` grows whenever a key comes or goes: what was found out under another one is void.

    `renew` is to be called twice a second: a key ends at most that much after its time.
    """

    def __init__(
        self,
        table: KeyTable,
        source: PepperSource,
        *,
        required: bool,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._table = table
        self._source = source
        self._required = required
        self._clock = clock
        self._peppers = source.read()
        self._mark = source.mark()
        self._records: tuple[KeyRecord, ...] = ()
        self._valid: dict[str, _Valid] = {}
        self._tenants: dict[str, Tenant] = {}
        self._owing: set[Tenant] = set()
        self._stale: dict[tuple[str, str], Secret] = {}
        self._now, self._next = -math.inf, -math.inf
        self._changing = threading.RLock()
        self.version = 0

    def refresh(self) -> None:
        """Read keys and peppers again, so that what was changed elsewhere counts."""
        with self._changing:  # or an older reading could overwrite a newer one
            self._records = self._table.unrevoked()
            self._next = -math.inf
            self.renew()

    def renew(self) -> None:
        """Go by the clock, and by the pepper where it lies: ends keys and old secrets in time.

        Secrets that were used and are stored under the older pepper get the newest one.
        """
        with self._changing:
            self._go_by_the_clock()  # first: the rest may fail
            self._read_peppers()
            while self._stale:
                (id, old_hmac), new = self._stale.popitem()
                self._table.store_anew(id, old_hmac, new)

    def _go_by_the_clock(self) -> None:
        now_s = self._clock()
        if self._now <= now_s < self._next:
            self._now = now_s
            return
        now = datetime.fromtimestamp(now_s, UTC)
        self._now, self._next = now_s, _next_end(self._records, now)
        valid = {
            record.id: self._entry(record, now) for record in self._records if record.valid_at(now)
        }
        if valid != self._valid:
            self._valid = valid
            self.version += 1
        for id in self._tenants.keys() - valid.keys():
            del self._tenants[id]

    def _entry(self, record: KeyRecord, now: datetime) -> _Valid:
        tenant = self._tenants.get(record.id)
        if tenant is None:
            tenant = self._tenants[record.id] = Tenant(record.id, record.terms, self._owing)
        caller = Caller(
            id=record.id,
            name=f"key {record.id} ({record.name})",
            scopes=record.scopes,
            terms=record.terms,
            tenant=tenant,
        )
        present, *old = record.secrets_at(now)
        return _Valid(caller, (present, old[0] if old else _NOBODY))

    def strangers(self) -> list[str]:
        """Valid keys that were stored under a pepper that is not here: nobody can use them."""
        now, known = datetime.fromtimestamp(self._clock(), UTC), (None, *self._peppers.ids)
        return [r.id for r in self._records if r.valid_at(now) and r.secret.pepper not in known]

    def tenants(self) -> list[Tenant]:
        """Every key's counters, ended keys' too until what they used is booked.

        What is on its way when a key ends is counted later. To be called from the event loop.
        """
        self._owing -= {tenant for tenant in self._owing if not tenant.requests}
        return list({*self._tenants.values(), *self._owing})

    def create(
        self,
        name: str,
        scopes: frozenset[str],
        *,
        actor: str,
        terms: Terms = UNLIMITED,
        expires_at: datetime | None = None,
    ) -> str:
        """Make a key and return it; it cannot be shown again.

        Raises `Invalid` for an end in the past or after `LATEST_END`, and for a key of some models
        only that could see or change all of them.
        """
        if expires_at is not None and expires_at.timestamp() <= self._clock():
            raise Invalid(
                f"expires_at is {expires_at.isoformat()}, in the past", field="expires_at"
            )
        if expires_at is not None and expires_at > LATEST_END:
            raise Invalid(
                f"expires_at is {expires_at.isoformat()}; at most {LATEST_END.isoformat()}",
                field="expires_at",
            )
        if terms.allow is not None and (wide := scopes & {"admin", "metrics"}):
            raise Invalid(
                f"a key with the scope {min(wide)!r} sees every model; allow goes with infer, read",
                field="allow",
            )
        id = secrets.token_hex(4)
        text, secret = self._new_secret()
        self._table.add(
            id=id,
            name=name,
            secret=secret,
            scopes=scopes,
            terms=terms,
            expires_at=expires_at,
            actor=actor,
        )
        self.refresh()
        return f"gs_{id}_{text}"

    def create_first(self, name: str, scopes: frozenset[str], *, actor: str) -> str | None:
        """As `create` where there has never been a key; None elsewhere.

        Of several gateways that start at once, one makes it.
        """
        if self._table.all():  # the usual case needs no writing
            return None
        id = secrets.token_hex(4)
        text, secret = self._new_secret()
        made = self._table.add(
            id=id, name=name, secret=secret, scopes=scopes, actor=actor, only_first=True
        )
        if not made:
            return None
        self.refresh()
        return f"gs_{id}_{text}"

    def rotate(self, id: str, *, overlap_s: float, actor: str, reason: str = "") -> str:
        """A new secret for a key, returned whole; the old one stays valid for the overlap.

        Raises `NotFound`, or `Invalid` for an overlap of less than 0 or more than 30 days.
        """
        if not 0.0 <= overlap_s <= MAX_OVERLAP_S:
            raise Invalid(f"overlap_s is {overlap_s:g}; 0 to {MAX_OVERLAP_S:g}", field="overlap_s")
        text, secret = self._new_secret()
        until = datetime.fromtimestamp(self._clock(), UTC) + timedelta(seconds=overlap_s)
        self._table.rotate(id, secret, old_until=until, actor=actor, reason=reason)
        self.refresh()
        return f"gs_{id}_{text}"

    def revoke(self, id: str, *, actor: str, force: bool = False, reason: str = "") -> None:
        """End a key. Raises `NotFound`, or `Conflict` for the last one with the scope `admin`."""
        self._table.revoke(id, actor=actor, force=force, reason=reason)
        self.refresh()

    def rotate_pepper(self, *, actor: str, force: bool = False) -> None:
        """Put a new pepper before the present one and drop the one before that.

        Raises `Invalid` where secrets of valid keys are still stored under the one to be dropped,
        unless forced: they would end.
        """
        with self._changing:
            self.refresh()
            kept, *dropped = self._peppers.ids
            now = datetime.fromtimestamp(self._clock(), UTC)
            ending = [
                record.id
                for record in self._records
                if record.valid_at(now)
                and any(secret.pepper != kept for secret in record.secrets_at(now))
            ]
            if dropped and ending and not force:
                raise Invalid(
                    f"secrets of the keys {', '.join(ending[:10])} were not used since the last "
                    "rotation and would end; use them or rotate the keys first, or force it",
                    field="pepper",
                )
            self._source.rotate()
            self._table.pepper_rotated(actor=actor)
            self.refresh()

    def check(self, authorization: list[str], need: Need) -> Caller:
        """The caller behind the `Authorization` headers of one request.

        Raises `Unauthenticated` for anything but one valid bearer key, `Forbidden` for one without
        the scope. Unknown, wrong, revoked and expired keys take the same path and cannot be told
        apart.
        """
        if not self._required or need == "public":
            return ANYONE
        if len(authorization) != 1:
            raise Unauthenticated("send one header 'Authorization: Bearer gs_…'")
        scheme, _, token = authorization[0].partition(" ")
        prefix, _, rest = token.strip().partition("_")
        id, _, secret = rest.partition("_")
        key = self._valid.get(id)
        stored = (_NOBODY, _NOBODY) if key is None else key.secrets
        peppers = self._peppers
        found = peppers.hmacs(secret)
        same = [hmac.compare_digest(one, other.hmac) for other in stored for one in found]
        if scheme.lower() != "bearer" or prefix != "gs" or key is None or not any(same):
            raise Unauthenticated("the key is not valid")
        if need not in ("any", *key.caller.scopes):
            raise Forbidden(f"this needs a key with the scope {need!r}")
        used = stored[0] if any(same[: len(found)]) else stored[1]
        if used.pepper != peppers.ids[0]:
            self._stale[id, used.hmac] = Secret(hmac=found[0], pepper=peppers.ids[0])
        return key.caller

    def _new_secret(self) -> tuple[str, Secret]:
        text = secrets.token_urlsafe(32)
        with self._changing:
            self._read_peppers()
            peppers = self._peppers
        return text, Secret(hmac=peppers.hmacs(text)[0], pepper=peppers.ids[0])

    def _read_peppers(self) -> None:
        mark = self._source.mark()
        if mark != self._mark:
            self._peppers, self._mark = self._source.read(), mark
            self.version += 1


def open_keys(table: KeyTable, folder: Path, *, required: bool, pepper: str | None = None) -> Keys:
    """The keys of a data folder; its pepper is made on first use, readable by the owner only.

    Raises `Invalid` for a pepper that others can read or that is not one.
    """
    keys = Keys(table, PepperSource.of(pepper, folder), required=required)
    keys.refresh()
    return keys


def _next_end(records: Iterable[KeyRecord], now: datetime) -> float:
    """When the next key or old secret ends, in seconds since the epoch."""
    ends = [end for r in records for end in (r.expires_at, r.old_until) if end is not None]
    return min((end.timestamp() for end in ends if end > now), default=math.inf)
