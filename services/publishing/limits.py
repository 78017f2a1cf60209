"""What was learned about the limits of a channel, for whoever wants to know why posts wait."""

from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection

from activities.publishing.desk import PublishingPolicy, limit_scopes
from repositories.publishing.channels import CredentialRepository
from repositories.publishing.limits import get_scopes
from repositories.rows import AnyRow


async def limits_of(connection: AsyncConnection, channel: AnyRow) -> dict[str, Any]:
    """Per chat, per chat and minute, per token: since when frozen, until when, how often, how slow it has become."""
    if channel.credential_id is None:
        return {}
    credential = await CredentialRepository(connection).get_or_none(channel.credential_id)
    if credential is None:
        return {}
    scopes = limit_scopes(PublishingPolicy(), channel.gateway, credential.fingerprint, channel.chat_id)
    known = await get_scopes(connection, [scope.name for scope in scopes])
    # The fingerprint of a token is nobody's business.
    return {scope.name.partition(":")[0]: known.get(scope.name) for scope in scopes}
