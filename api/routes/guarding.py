"""The tenant's content policy: what becomes of personal data and of harmful content."""

from datetime import datetime
from typing import Annotated, Final

from fastapi import Depends

from api.routing import Call, Family, Needs, problems
from domain.guarding import ContentPolicy
from domain.model import Frozen
from repositories.guarding import KeptPolicy
from services.tenants import Scope

router: Final = Family("policies")

Manager = Annotated[Call, Depends(Needs(Scope.POLICIES_MANAGE))]


class PolicyDocument(Frozen):
    """The policy in force. ``version`` is 0, and ``updated_at`` null, where the tenant has set none."""

    version: int
    updated_at: datetime | None
    policy: ContentPolicy


@router.get("/policies/content", responses=problems())
async def get_content_policy(call: Manager) -> PolicyDocument:
    """The policy in force."""
    return _document(await call.services.policies.get(call.tenant_id))


@router.put("/policies/content", responses=problems(400, 408, 413, 415))
async def put_content_policy(call: Manager, body: ContentPolicy) -> PolicyDocument:
    """Set the whole policy; what is left out goes back to its default."""
    return _document(await call.services.policies.put(call.tenant_id, body))


def _document(kept: KeptPolicy) -> PolicyDocument:
    return PolicyDocument(version=kept.version, updated_at=kept.updated_at, policy=kept.policy)
