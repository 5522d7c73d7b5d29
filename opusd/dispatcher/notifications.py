"""The verbs about notifications: how they are doing, and trying one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from opusd.api import results
from opusd.core.access import require_person

if TYPE_CHECKING:
    from opusd.api import params as p
    from opusd.dispatcher.desk import Session


class Notifier(Protocol):
    def about(self) -> list[results.NotificationInfo]: ...
    async def test(self, name: str) -> results.NotificationTested: ...


class NotificationVerbs:
    def __init__(self, notifier: Notifier) -> None:
        self._notifier = notifier

    async def notification_list(self, session: Session, params: p.NotificationList) -> results.Notifications:
        del session, params
        return results.Notifications(notifications=self._notifier.about())

    async def notification_test(self, session: Session, params: p.NotificationTest) -> results.NotificationTested:
        """It may take as long as a delivery does; the connection's other calls do not wait for it."""
        require_person(session.caller, "testing a notification")
        return await self._notifier.test(params.name)
