"""Replies that are given again: found, sealed, and forgotten in time."""

from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import select, update

from variants import tables
from variants.database import Database
from variants.replies import KEEP, LEASE, Replies, Reply

REPLY = Reply(status=201, headers={"location": "/x"}, body=b'{"key": "gs_1_secret\xff"}')
SECRET = b"s" * 32


@pytest.fixture
def replies(database: Database) -> Replies:
    return Replies(database)


def age(database: Database, by: timedelta, column: str) -> None:
    with database.write() as db:
        db.execute(update(tables.replies).values({column: datetime.now(UTC) - by}))


def test_the_first_reply_is_given_again(replies: Replies) -> None:
    assert replies.begin("a", "f", SECRET) == "begun"
    assert replies.begin("a", "f", SECRET) == "in_flight"
    replies.finish("a", REPLY, SECRET)
    assert replies.begin("a", "f", SECRET) == REPLY
    assert replies.begin("a", "g", SECRET) == "other_request"
    assert replies.begin("b", "f", SECRET) == "begun"


def test_what_was_forgotten_may_be_tried_again(replies: Replies) -> None:
    replies.begin("a", "f", SECRET)
    replies.forget("a")
    assert replies.begin("a", "g", SECRET) == "begun"


def test_a_request_that_died_with_its_gateway_may_be_tried_again(
    replies: Replies, database: Database
) -> None:
    replies.begin("a", "f", SECRET)
    age(database, LEASE * 2, "renewed_at")
    replies.renew("a")
    assert replies.begin("a", "f", SECRET) == "in_flight"
    age(database, LEASE * 2, "renewed_at")
    assert replies.begin("a", "f", SECRET) == "begun"


def test_a_reply_is_kept_for_a_day(replies: Replies, database: Database) -> None:
    replies.begin("a", "f", SECRET)
    replies.finish("a", REPLY, SECRET)
    age(database, KEEP - timedelta(minutes=1), "created_at")
    assert replies.begin("a", "f", SECRET) == REPLY
    age(database, KEEP + timedelta(minutes=1), "created_at")
    assert replies.begin("a", "g", SECRET) == "begun"


def test_a_reply_is_stored_unreadably(replies: Replies, database: Database) -> None:
    replies.begin("a", "f", SECRET)
    replies.finish("a", REPLY, SECRET)
    with database.read() as db:
        sealed = db.scalar(select(tables.replies.c.sealed))
    assert sealed is not None
    assert b"secret" not in sealed and b"gs_1" not in sealed
    assert replies.begin("a", "f", b"t" * 32) == "unreadable"
    with database.write() as db:
        db.execute(update(tables.replies).values(sealed=sealed[:-1] + b"\0"))
    assert replies.begin("a", "f", SECRET) == "unreadable"


def test_what_another_version_has_sealed_is_as_if_it_were_not_there(
    replies: Replies, database: Database
) -> None:
    replies.begin("a", "f", SECRET)
    with database.write() as db:
        db.execute(update(tables.replies).values(sealed=b"sealed in another way"))
    assert replies.begin("a", "f", SECRET) == "begun"
