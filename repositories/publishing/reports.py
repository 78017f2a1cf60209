"""The report of an order, read from what was kept of it."""

from typing import Any
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection

from domain.publishing.effects import PIN, POST
from repositories.publishing.ledger import LedgerRepository
from repositories.publishing.orders import OrderRepository


async def report_of(connection: AsyncConnection, order_id: UUID) -> dict[str, Any]:
    """What is said about an order in the end: when, where, how long, how often seen, how it was proved.

    ``pin`` is ``done``, ``denied``, ``gone`` or ``unreached``; None where nobody tried.
    """
    order = await OrderRepository(connection).get_one(order_id)
    row, pin = [await LedgerRepository(connection).get_or_none(order_id, effect) for effect in (POST, PIN)]
    views = await OrderRepository(connection).get_views(order_id)
    stayed = (order.ended_at - order.sent_at).total_seconds() if order.ended_at and order.sent_at else None
    return {
        "order_id": str(order.id),
        "state": order.state,
        "message_ids": order.message_ids,
        "publish_at": order.publish_at.isoformat(),
        "sent_at": order.sent_at and order.sent_at.isoformat(),
        "ended_at": order.ended_at and order.ended_at.isoformat(),
        "drift_ms": order.drift_ms,
        "stayed_seconds": stayed,
        "sends": 0 if row is None else row.sends,
        "resolved_by": None if row is None else row.resolved_by,
        "pin": None if pin is None else pin.detail,
        "views": [{"source": one.source, "views": one.views, "at": one.at.isoformat()} for one in views],
    }
