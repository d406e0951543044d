"""What the routes work with, constructed once in `create_app`."""

from dataclasses import dataclass
from typing import Annotated, cast

from fastapi import Depends, Query, Request

from app.access import Caller
from app.bad_keys import BadKeys
from app.changes import Changes
from app.decisions import Decisions
from app.engine.engine import Engine
from app.engine.process import Process
from app.gateway import Gateway
from app.keys import Keys
from app.ledger import Ledger
from app.metrics import Metrics
from app.promises import Promises
from app.receiving import Receiving
from app.registration import Registration
from app.rollouts import Rollouts
from app.settings import Options, Settings
from app.switches import Switches
from variants.data_folder import DataFolder
from variants.replies import Replies


@dataclass(frozen=True, kw_only=True, slots=True)
class Services:
    """The parts of one running gateway."""

    options: Options
    data: DataFolder
    engine: Engine
    gateway: Gateway
    registration: Registration
    changes: Changes
    switches: Switches
    rollouts: Rollouts
    promises: Promises
    keys: Keys
    bad_keys: BadKeys
    ledger: Ledger
    decisions: Decisions
    metrics: Metrics
    processes: tuple[Process, ...]
    host: str
    replies: Replies
    receiving: Receiving

    @property
    def settings(self) -> Settings:
        """The options in force."""
        return self.options.now


def services(request: Request) -> Services:
    """The running gateway's parts."""
    return cast(Services, request.app.state.services)


def caller(request: Request) -> Caller:
    """Who sent this request, as the access check found."""
    return cast(Caller, request.state.caller)


Parts = Annotated[Services, Depends(services)]
Who = Annotated[Caller, Depends(caller)]
Reason = Annotated[
    str,
    Query(max_length=500, pattern=r"^[^\x00-\x1f\x7f]*$", description="why, for the audit"),
]
